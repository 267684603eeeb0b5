"""Hash, check and split the images: data.path -> artifacts/dataset/."""

from pipeline import preparation, snapshot
from pipeline.errors import exit_status, leave
from pipeline.formats import list_data
from pipeline.project import open_project


def main() -> None:
    project = open_project()
    data = project.params.data
    listing = list_data(project.data, format=data.format, group=data.split.group)
    paths = sorted({entry.path for entry in listing.entries})
    seen = snapshot.take(listing.root, paths, data=data.path)
    prepared = preparation.prepare(listing, data.split)
    preparation.write(prepared, project.artifacts / "dataset")
    record = project.artifacts / "runs" / snapshot.RECORD
    snapshot.write(record, seen, of=project.artifacts / "dataset")
    print(preparation.describe(prepared))


if __name__ == "__main__":
    leave(exit_status(main))
