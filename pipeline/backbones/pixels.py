"""No weights at all: the resized raw pixels, 16 x 16 x 3 values in 0..1. The honest baseline."""

from pipeline import architectures
from pipeline.backbones.source import Description, Locate, Origin, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams

SIZE = 16


class Pixels:
    """Source `pixels`."""

    def check(self, entry: BackboneParams, at: str) -> None:
        for key in ("model", "weights", "sha256"):
            if getattr(entry, key) is not None:
                raise ConfigurationError(f"{at}.{key}: source pixels has no {key}; delete the key")

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:  # noqa: ARG002
        return Origin()

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:
        from pipeline.backbones import bare

        return bare.of_loaded(self.load(entry, at, locate), parameters=0, nested=True)

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:  # noqa: ARG002
        from pipeline.backbones.network import TorchNetwork

        own = Preprocessing(SIZE, SIZE, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        return Pretrained(
            network=TorchNetwork(architectures.pixels("pixels", SIZE)),
            preprocessing=preprocessing_or(entry, lambda: own, at),
            architecture="pixels",
            package="none",
            licence="none needed",
        )


SOURCE = Pixels()
