"""The store: where a run's outputs live, as folders that exist only once they are complete.

A folder is *committed* by its manifest, which lists every file with its size and SHA-256 and is written last. Readers
refuse a folder without a manifest, or with a file that differs from it. Two attempts at the same folder cannot mix:
on a file system the whole folder appears with one rename; in S3 each attempt uploads under a prefix of its own, and
the manifest, written with `If-None-Match: *`, names the prefix that won.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from sppo.errors import ConfigError, InfrastructureError

MANIFEST = "MANIFEST.json"


class StoredFile(BaseModel):
    """One file of a committed folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a committed folder holds, what it was made from, and the figures measured while making it.

    The time that it took is no part of the figures, because two runs of the same work agree in those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
    version: int = 1
    prefix: str = ""
    inputs: dict[str, str]
    figures: dict[str, float]
    seconds: float | None = None
    """Wall time of the work of the attempt that committed this, where it was taken; see `run_once`."""
    files: tuple[StoredFile, ...]

    def digest(self) -> str:
        """SHA-256 of the content: paths and file digests, whatever the time or place."""
        lines = "".join(f"{f.sha256}  {f.path}\n" for f in sorted(self.files, key=lambda f: f.path))
        return hashlib.sha256(lines.encode()).hexdigest()


class Store(Protocol):
    """A place for committed folders and small objects, named by relative keys."""

    uri: str

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a committed folder, or None where nothing is committed."""
        ...

    def commit(
        self,
        key: str,
        folder: Path,
        inputs: Mapping[str, str],
        figures: Mapping[str, float],
        seconds: float | None = None,
    ) -> Manifest:
        """Commit the files under `folder` as `key`; where another attempt won, its manifest is returned instead.

        The files are gone from `folder` afterwards where a store can move them.
        """
        attempt = new_attempt()
        return self.seal(key, attempt, self.upload(key, attempt, folder), inputs, figures, seconds)

    def upload(self, key: str, attempt: str, folder: Path) -> tuple[StoredFile, ...]:
        """Bring one worker's files of `key` to where `seal` commits them; several workers share an attempt."""
        ...

    def seal(
        self,
        key: str,
        attempt: str,
        files: Iterable[StoredFile],
        inputs: Mapping[str, str],
        figures: Mapping[str, float],
        seconds: float | None = None,
    ) -> Manifest:
        """Commit the files that all workers of an attempt uploaded; see `commit`."""
        ...

    def fetch(self, key: str) -> Path:
        """A local, verified folder with the committed files of `key`; treat it as read-only."""
        ...

    def read(self, key: str) -> bytes | None:
        """A small object, or None."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a small object atomically, replacing an older one."""
        ...

    def delete(self, key: str) -> None:
        """Remove a folder, its manifest first; nothing happens where there is none."""
        ...


def fetch_file(uri: str, otherwise: str) -> Path:
    """The local copy of a file that a user names as `s3://…`, `file://…` or a path.

    Args:
        uri: what the user wrote.
        otherwise: the message for a file that is not there.

    Raises:
        ConfigError: if there is no such file or object.
    """
    if uri.startswith("s3://"):
        from sppo.store.s3 import s3_file

        return s3_file(uri)
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise ConfigError(otherwise)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_attempt() -> str:
    """A name that no other attempt at a folder has."""
    return uuid.uuid4().hex[:8]


def describe(folder: Path) -> tuple[StoredFile, ...]:
    """Every file under a folder with size and digest, in path order."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return tuple(
        StoredFile(path=p.relative_to(folder).as_posix(), bytes=p.stat().st_size, sha256=file_sha256(p)) for p in paths
    )


def verify(folder: Path, manifest: Manifest, uri: str) -> None:
    """Compare a folder with its manifest.

    Raises:
        InfrastructureError: naming the first file that is missing, truncated or changed.
    """
    for entry in manifest.files:
        path = folder / entry.path
        if not path.is_file():
            raise InfrastructureError(
                f"{uri}/{entry.path}: listed in the manifest but missing; delete {uri} and resume"
            )
        if path.stat().st_size != entry.bytes or file_sha256(path) != entry.sha256:
            raise InfrastructureError(f"{uri}/{entry.path}: differs from the manifest; delete {uri} and resume")


class LocalStore(Store):
    """A store in a folder of the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def manifest(self, key: str) -> Manifest | None:
        """See `Store.manifest`."""
        data = self.read(f"{key}/{MANIFEST}")
        return None if data is None else Manifest.model_validate_json(data)

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

    def seal(
        self,
        key: str,
        attempt: str,
        files: Iterable[StoredFile],
        inputs: Mapping[str, str],
        figures: Mapping[str, float],
        seconds: float | None = None,
    ) -> Manifest:
        """See `Store.seal`."""
        target, staging = self.root / key, self._staging(key, attempt)
        manifest = Manifest(inputs=dict(inputs), figures=dict(figures), seconds=seconds, files=tuple(files))
        staging.mkdir(parents=True, exist_ok=True)  # nothing was uploaded into an empty folder
        try:
            (staging / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            _sync(staging)
        except OSError:
            shutil.rmtree(staging)
            raise
        try:
            staging.rename(target)
        except OSError as error:
            shutil.rmtree(staging)
            winner = self.manifest(key)
            if winner is None:
                raise InfrastructureError(
                    f"{target}: cannot be written; a folder without {MANIFEST} there is not this run's: move it away"
                ) from error
            return winner
        return manifest

    def _staging(self, key: str, attempt: str) -> Path:
        target = self.root / key
        return target.parent / f".{target.name}.tmp-{attempt}"

    def fetch(self, key: str) -> Path:
        """See `Store.fetch`; the folder itself, not a copy."""
        manifest = self.manifest(key)
        if manifest is None:
            raise InfrastructureError(f"{self.uri}/{key}: nothing is committed there; resume the run")
        verify(self.root / key, manifest, f"{self.uri}/{key}")
        return self.root / key

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    def write(self, key: str, data: bytes) -> None:
        """See `Store.write`."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
        try:
            staging.write_bytes(data)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        target = self.root / key
        if target.exists():
            # Moved away first, so that an interruption cannot leave half a folder in its place.
            doomed = target.with_name(f".{target.name}.tmp-{uuid.uuid4().hex[:8]}")
            target.rename(doomed)
            shutil.rmtree(doomed)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def open_store(uri: str) -> Store:
    """The store behind a folder path, `file:` URI or `s3://bucket/prefix`.

    Raises:
        ConfigError: for another scheme.
    """
    if uri.startswith("s3://"):
        from sppo.store.s3 import S3Store

        return S3Store(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise ConfigError(f"output_uri: {uri!r} is not supported; give a folder or s3://bucket/prefix")
    return LocalStore(Path(uri.removeprefix("file://").removeprefix("file:")))


def read_committed(store: Store, key: str, name: str) -> bytes:
    """One file of a committed folder, verified, without fetching the weights that lie beside it.

    Raises:
        InfrastructureError: if nothing is committed as `key`, or the file is missing or differs from the manifest.
    """
    manifest = store.manifest(key)
    entry = next((file for file in manifest.files if file.path == name), None) if manifest else None
    data = store.read("/".join(part for part in (key, manifest.prefix, name) if part)) if manifest else None
    if data is None or entry is None or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise InfrastructureError(
            f"{store.uri}/{key}/{name}: missing, or differs from the manifest; delete {key} and resume"
        )
    return data


@contextmanager
def scratch(store: Store) -> Iterator[Path]:
    """A temporary folder, on the store's own file system where it has one, so that a commit is a rename.

    A store's folder that was made for this is removed again if nothing was committed.
    """
    if not isinstance(store, LocalStore):
        with tempfile.TemporaryDirectory(prefix="sppo-") as folder:
            yield Path(folder)
        return
    made = [folder for folder in (store.root, *store.root.parents) if not folder.exists()]
    store.root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=store.root) as folder:
            yield Path(folder)
    finally:
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()


@contextmanager
def only_user(store: Store) -> Iterator[None]:
    """Hold a store in a folder for oneself, and clear away what interrupted attempts left in it.

    Stages need no lock, as a commit cannot mix two attempts; but two runs at once in one folder would do all work
    twice. A store in S3 is not locked.

    Raises:
        InfrastructureError: if another process holds it.
    """
    if not isinstance(store, LocalStore):
        yield
        return
    with (store.root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InfrastructureError(f"{store.uri}: another run is at work there; wait until it ends") from error
        for leftover in [*store.root.glob(".work-*"), *store.root.rglob(".*.tmp-*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        yield


def run_once(
    store: Store, key: str, inputs: Mapping[str, str], work: Callable[[Path], Mapping[str, float]]
) -> Manifest:
    """Do a stage's work and commit it as `key`, unless that is done already.

    `work` fills the folder that it is given and returns its figures; how long that took goes into the manifest. A
    retry that finds the work done leaves that time as it is.

    Raises:
        ConfigError: if `key` is committed but was made from other inputs.
    """
    done = store.manifest(key)
    if done is not None:
        _refuse_other_inputs(store, key, done, inputs)
        print(f"{key}: already done, nothing to do", flush=True)
        return done
    with scratch(store) as folder:
        output = folder / "output"
        output.mkdir()
        start = time.monotonic()
        figures = work(output)
        committed = store.commit(key, output, inputs, figures, time.monotonic() - start)
    _refuse_other_inputs(store, key, committed, inputs)
    return committed


def changed_inputs(done: Manifest, inputs: Mapping[str, str]) -> list[str]:
    """Names of the inputs in which what is committed differs from what is asked for."""
    return sorted(name for name in {*done.inputs, *inputs} if done.inputs.get(name) != inputs.get(name))


def _refuse_other_inputs(store: Store, key: str, done: Manifest, inputs: Mapping[str, str]) -> None:
    changed = changed_inputs(done, inputs)
    if changed:
        raise ConfigError(
            f"{store.uri}/{key}: already made from another {', '.join(changed)}; choose another output_uri"
        )
