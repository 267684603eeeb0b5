"""What came of comparing a frozen backbone with its origin, step by step."""

from dataclasses import dataclass, field

from pipeline.frozen import Drift


@dataclass
class Step:
    """One step, on the same input for both. unit: of `largest`.

    differing: images of which it makes something else than the origin, the first few `named`;
    largest: difference, infinite where it has another size; expected: of the images that differ,
    those of a kind for which docs/images.md has a rule of ours; they are named last.
    """

    name: str
    unit: str
    expected: int = 0
    differing: int = 0
    largest: float = 0.0
    named: list[str] = field(default_factory=list)

    def see(self, image: str, difference: float, *, most: float, by_rule: bool = False) -> None:
        """Count an image. most: up to which difference it is the same."""
        self.largest = max(self.largest, difference)
        if not difference <= most:
            place = len(self.named) if by_rule else self.differing - self.expected
            self.named = [*self.named[:place], image, *self.named[place:]][:3]
            self.differing += 1
            self.expected += by_rule

    @property
    def holds(self) -> bool:
        """Whether nothing differs that should not."""
        return self.differing == self.expected


@dataclass(frozen=True)
class Verified:
    """What came of it. failed: images that cannot be decoded, with the reason.

    whole: the vectors as they are stored against the origin's own, from the file on; top1: of how many images
    the origin's classifier says the same of both, None where it has none; own_recipe: params.yaml
    replaces the maker's preprocessing, which is then not compared; tta: the cached vectors are means
    over these crops, of which the first, the centre, is compared.
    """

    images: int
    failed: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    whole: Drift
    max_abs: float
    top1: int | None
    own_recipe: bool
    tta: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every step does."""
        return all(step.holds for step in self.steps)
