"""Learning curves: how good a head is by the number of images that it is trained on.

    draws       which images
    choice      the head's option, chosen inside a draw
    fits        a head on every draw, scored on test
    spread      how sure a point is
    law         what more images would bring
    summary     the figures that have names, the files, the table

Nothing is chosen by a curve: docs/decisions/0033-learning-curves.md tells why it may look at test.
"""

from collections.abc import Iterable
from pathlib import Path

from threadpoolctl import threadpool_limits

from pipeline import dataset, embeddings, features, heads
from pipeline.curves import fits, summary
from pipeline.curves.summary import Curve, Summary, describe, write
from pipeline.errors import ConfigurationError
from pipeline.features import Offer, Sight
from pipeline.heads import Recipe
from pipeline.params import CONTROL_SOURCES, CurveParams, HeadParams

__all__ = ["Curve", "Summary", "check", "describe", "measure", "write"]

IDLE = ("views", "calibrate", "seeds", "wanted_precision")
"""Keys of a head that a curve has no use for."""


def check(name: str, entry: CurveParams, offers: Iterable[Offer]) -> tuple[Recipe, list[Sight]]:
    """The head's recipe, and what it sees of each backbone.

    Raises ConfigurationError, near misses named: what is wrong with the entry's head, or what a
    backbone does not have.
    """
    block, head = f"curve.{name}", entry.head
    recipe = heads.recipe("head", head, block=block)
    at = f"params.yaml: {block}.head"
    for key in IDLE:
        if getattr(head, key) != HeadParams.model_fields[key].default:
            raise ConfigurationError(f"{at}.{key}: a curve has no use for it; delete the key")
    if head.layers == "best":
        raise ConfigurationError(
            f"{at}.layers: 'best' is chosen on validation images, which a curve does not look at; "
            "name the layers"
        )
    if recipe.members or recipe.out_of_fold:
        raise ConfigurationError(
            f"{at}.kind: {head.kind} is made of other heads; choose one that stands alone"
        )
    return recipe, [features.sight("head", head, offer, block=block) for offer in offers]


def measure(
    artifacts: Path,
    name: str,
    entry: CurveParams,
    backbones: Iterable[str],
) -> Summary:
    """Fit and score every draw on every backbone of the entry.

    artifacts: the folder the stages write; backbones: of the run, where the entry names none.
    Raises ConfigurationError (the entry), InputError (a class without training images, no test
    image), IntegrityError (an artifact).
    """
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    curves, notes = list[Curve](), list[str]()
    for backbone in entry.backbones or backbones:
        cached = embeddings.open(artifacts / "embeddings" / f"{backbone}.h5")
        recipe, (sight,) = check(name, entry, [features.offer(cached)])
        bench = fits.bench(labels, cached, entry, sight.layers)
        found = fits.fit(bench, recipe, folds=entry.head.cv)
        control = cached.source in CONTROL_SOURCES
        curves.append(Curve(backbone, control, recipe.option, len(bench.classes), found))
        notes += sight.notes
    with threadpool_limits(1):  # the same bits whatever the machine's cores
        return summary.of(entry, curves, notes)
