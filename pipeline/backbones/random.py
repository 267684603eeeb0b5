"""An architecture with random weights: what of a result the architecture alone would have made.

Its batch normalisation is calibrated on the probe's images. Without that such a network maps all
images to nearly one vector, and is no control but a broken one.
"""

from pipeline.backbones import named
from pipeline.backbones.source import Description, Locate, Origin, Pretrained
from pipeline.errors import ConfigurationError
from pipeline.params import BackboneParams

SEEDS = 2**64

LICENCE = "none needed"


class Random:
    """Source `random`; the weights are those of the entry's `seed`."""

    def check(self, entry: BackboneParams, at: str) -> None:
        """Refuse weights, and an architecture that is not known."""
        for key in ("weights", "sha256"):
            if getattr(entry, key) is not None:
                raise ConfigurationError(
                    f"{at}.{key}: source random makes its own weights; delete the key"
                )
        if entry.seed >= SEEDS:
            raise ConfigurationError(f"{at}.seed is {entry.seed}; write one below 2**64")
        named.check(entry, at)

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:  # noqa: ARG002
        """Nowhere: nothing is needed."""
        return Origin()

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:  # noqa: ARG002
        """The architecture's own."""
        return named.describe(entry, at, licence=LICENCE)

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:  # noqa: ARG002
        """Build the architecture under the seed and calibrate it."""
        from pipeline.backbones import calibration

        with calibration.seeded(entry.seed):
            made = named.build(entry, at)
        calibration.calibrate(made.parts.body, made.preprocessing)
        return named.pretrained(made, entry, licence=LICENCE)


SOURCE = Random()
