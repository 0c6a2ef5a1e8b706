"""The store in a folder of the file system."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from sppo.errors import InfrastructureError
from sppo.store.base import MANIFEST, Manifest, Store, StoredFile, describe, new_attempt, put_in_place, verify

HELD = "lock"
"""In a scratch folder, held as long as somebody works there."""


class LocalStore(Store):
    """A store in a folder of the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def upload(self, key: str, attempt: str, folder: Path) -> tuple[StoredFile, ...]:
        """See `Store.upload`; the files are moved where `folder` is on the same file system, else copied."""
        staging = self._staging(key, attempt)
        files = describe(folder)
        try:
            for entry in files:
                (staging / entry.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(folder / entry.path, staging / entry.path)
            _sync(staging)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)  # on a full disk, what is left would stand in the next one's way
            raise
        return files

    def _publish(self, key: str, attempt: str, manifest: bytes) -> bool:
        target, staging = self.root / key, self._staging(key, attempt)
        staging.mkdir(parents=True, exist_ok=True)  # nothing was uploaded into an empty folder
        try:
            (staging / MANIFEST).write_bytes(manifest)
            _sync(staging)
        except OSError:
            shutil.rmtree(staging)
            raise
        if put_in_place(staging, target):
            return True
        if not (target / MANIFEST).is_file():
            raise InfrastructureError(
                f"{target}: cannot be written: a folder without {MANIFEST} there is not this run's; move it away, and "
                f"what was finished, {staging}, to {target}, or run again"
            )
        shutil.rmtree(staging)
        return False

    def _staging(self, key: str, attempt: str) -> Path:
        target = self.root / key
        return target.parent / f".{target.name}.tmp-{attempt}"

    def _verified(self, key: str, manifest: Manifest) -> Path:
        """The folder itself, not a copy."""
        verify(self.root / key, manifest, f"{self.uri}/{key}")
        return self.root / key

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    def write(self, key: str, data: bytes) -> None:
        """See `Store.write`."""
        path, staging = self.root / key, self._staging(key, new_attempt())
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.write_bytes(data)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)

    def committed(self, key: str) -> set[str]:
        """See `Store.committed`."""
        folders = (path.parent.name for path in (self.root / key).glob(f"*/{MANIFEST}"))
        return {f"{key}/{name}" for name in folders if not name.startswith(".")}  # those are not in their place yet

    def names(self, key: str) -> set[str]:
        """See `Store.names`."""
        return {path.name for path in (self.root / key).glob("*") if path.is_file() and not path.name.startswith(".")}

    def files(self) -> dict[str, int]:
        """See `Store.files`."""
        paths = (path for path in self.root.rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.stat().st_size for path in paths}

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        target = self.root / key
        if target.exists():
            # Moved away first, so that an interruption cannot leave half a folder in its place.
            doomed = self._staging(key, new_attempt())
            target.rename(doomed)
            (doomed / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(doomed)

    def _remove(self, folder: str, names: Iterable[str]) -> list[str]:
        there = [name for name in names if (self.root / folder / name).is_file()]
        for name in there:
            (self.root / folder / name).unlink()
        return there

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Store.scratch`; the store's folder, if made for this, is removed where nothing was committed."""
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with (
                tempfile.TemporaryDirectory(prefix=".work-", dir=self.root) as folder,
                Path(folder, HELD).open("w", encoding="utf-8") as lock,
            ):
                fcntl.flock(lock, fcntl.LOCK_EX)
                work = Path(folder, "work")
                work.mkdir()
                yield work
        finally:
            for parent in made:
                if not any(parent.iterdir()):
                    parent.rmdir()

    @contextmanager
    def only_user(self, run: str) -> Iterator[None]:
        """See `Store.only_user`; what an attempt finished, and could not put in its place, is not cleared away."""
        with ExitStack() as held:
            place = held.enter_context((self.root / ".lock").open("w"))
            free = not run or _take(held.enter_context((self.root / f".lock-{run}").open("w")))
            alone = _take(place)
            if not free or not (alone or run):
                raise InfrastructureError(f"{self.uri}: another run is at work there; wait until it ends")
            if alone:
                self._clear()
            if run:
                fcntl.flock(place, fcntl.LOCK_SH)
            yield

    def _clear(self) -> None:
        """Remove what interrupted attempts left, unless one goes on: a stage by hand, or a run that only begins."""
        if any(_is_held(lock) for lock in self.root.glob(f".work-*/{HELD}")):
            return
        for leftover in [*self.root.glob(".work-*"), *self.root.rglob(".*.tmp-*")]:
            if (leftover / MANIFEST).is_file():
                print(f"warning: {leftover} was finished but not put in its place; move or remove it", flush=True)
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def _take(lock: TextIO) -> bool:
    """Whether a lock is this process's alone now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(lock: Path) -> bool:
    with lock.open("w", encoding="utf-8") as file:
        return not _take(file)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
