"""The cache: downloaded and converted files that outlive a run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sppo.errors import InfrastructureError
from sppo.store.base import put_in_place

OTHERS_WRITE = 0o022
"""Rights of a file's group and of everybody to write it."""


def cache_folder() -> Path:
    """Where downloaded and converted files are kept: `SPPO_CACHE`, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sppo"
    return Path(os.environ.get("SPPO_CACHE", default)).expanduser()


def cached(*names: str) -> Path:
    """A place in the cache; what lies there is made private, as far as it is this process's to change."""
    place = cache_folder().joinpath(*names)
    if place.exists():
        make_private(place)
    return place


@contextmanager
def filling(target: Path) -> Iterator[Path]:
    """A path for a folder to be made, which is put at `target` once it is finished; one that is there already stays.

    Raises:
        InfrastructureError: see `put_in_place`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    around = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    with ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, around)
        staging = around / target.name
        yield staging
        try:
            put_in_place(staging, target)
        except InfrastructureError:
            cleaning.pop_all()
            raise


def make_private(folder: Path) -> bool:
    """Take away the right of others to write into a folder, from all in it that this process owns.

    Returns:
        Whether all of it is now this user's or root's, and nobody else may write there.
    """
    private = True
    for path in _everything(folder):
        told = path.lstat()
        if path.is_symlink():
            private &= told.st_uid in {os.geteuid(), 0}
            continue
        if told.st_uid == os.geteuid() and told.st_mode & OTHERS_WRITE:
            path.chmod(told.st_mode & ~OTHERS_WRITE)
            told = path.lstat()
        private &= told.st_uid in {os.geteuid(), 0} and not told.st_mode & OTHERS_WRITE
    return private


def _everything(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")
