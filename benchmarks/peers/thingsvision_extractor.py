"""thingsvision's extractor on a given model, with its own dataset, loader and transform's place."""

import tempfile
from pathlib import Path
from typing import Any

import given
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset

BATCH = 32


def main() -> None:
    extractor = get_extractor_from_model(
        model=given.model(), device="cpu", backend="pt", preprocess=given.transform()
    )

    def embed(paths: list[str]) -> Any:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as order:
            for number, path in enumerate(paths):
                Path(folder, f"{number:06d}.jpg").symlink_to(path)
            dataset = ImageDataset(
                root=folder,
                out_path=order,
                backend="pt",
                file_names=[f"{number:06d}.jpg" for number in range(len(paths))],
                transforms=extractor.get_transformations(),
            )
            batches = DataLoader(dataset=dataset, batch_size=BATCH, backend="pt")
            return extractor.extract_features(
                batches=batches, module_name="global_pool", flatten_acts=True, output_type="ndarray"
            )

    given.serve(embed, ["thingsvision", "torch", "timm"])


if __name__ == "__main__":
    main()
