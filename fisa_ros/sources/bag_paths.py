"""What recordings look like from outside."""

from pathlib import Path

BAG_SUFFIXES = ('.mcap', '.db3')


def is_bag(path: Path) -> bool:
    """Tell whether a path looks like a recording: a folder with `metadata.yaml`, or a file of one of its storages."""
    return (path / 'metadata.yaml').is_file() if path.is_dir() else path.suffix in BAG_SUFFIXES
