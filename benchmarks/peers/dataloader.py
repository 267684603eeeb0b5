"""torch DataLoader + timm: `dataloader.py LIST eager|channels_last|compiled`.

Options: batch, workers. Compiling a batch size happens before its first measurement.
"""

import sys
import time
from typing import Any

import given
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Photos(Dataset):
    """Photos by path, transformed."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.transform = given.transform()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Any:
        with Image.open(self.paths[number]) as image:
            return self.transform(image.convert("RGB"))


def main() -> None:
    variant = sys.argv[2]
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    model = given.model().to(memory_format=layout)
    if variant == "compiled":
        model = torch.compile(model, dynamic=False)
    seen: set[int] = set()

    def prepare(batch: int, **_: int) -> dict[str, Any]:
        begun = time.perf_counter()
        if batch not in seen:
            with torch.inference_mode():
                model(torch.zeros(batch, 3, 224, 224).to(memory_format=layout))
        seen.add(batch)
        return {"preparing_seconds": time.perf_counter() - begun}

    def embed(paths: list[str], batch: int, workers: int) -> Any:
        loader = DataLoader(Photos(paths), batch_size=batch, num_workers=workers)
        with torch.inference_mode():
            return torch.cat([model(part.to(memory_format=layout)) for part in loader]).numpy()

    given.serve(embed, ["torch", "timm"], prepare)


if __name__ == "__main__":
    main()
