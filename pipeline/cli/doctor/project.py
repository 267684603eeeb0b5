"""The project: its params.yaml, and the data that it names."""

from collections.abc import Iterator

from pipeline.cli.doctor.finding import Finding, Place, of_error, of_exception, ok
from pipeline.errors import HeadstartError


def look(place: Place) -> Iterator[Finding]:
    """Whether there is a project; without one the data, weights and store are not looked at."""
    if place.trouble is None:
        yield ok(str(place.folder))
    elif isinstance(place.trouble, HeadstartError):
        yield of_error(place.trouble)
    else:
        yield of_exception(place.trouble, place)


def params(place: Place) -> Iterator[Finding]:
    """What `headstart check` says of params.yaml, but for the backbones."""
    if place.project is None:
        return
    from pipeline.cli import check

    check.check_heads(place.project)
    check.check_written(place.project)
    chosen = place.project.params.run
    yield ok(f"runs {', '.join(chosen.heads)} on {', '.join(chosen.backbones)}")


def data(place: Place) -> Iterator[Finding]:
    """What `headstart check` says of the data."""
    if place.project is None:
        return
    from pipeline.cli import check

    counts, *notes = check.describe_data(check.list_images(place.project)).splitlines()
    yield ok(counts.removeprefix("data: "))
    for note in notes:
        yield ok(note.strip())
