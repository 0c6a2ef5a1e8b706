"""The store: where a run's outputs live, as folders that exist only once they are complete.

A folder is *committed* by its manifest, which lists every file with its size and SHA-256 and is written last. Readers
refuse a folder without a manifest, or with a file that differs from it. Two attempts at the same folder cannot mix:
on a file system the whole folder appears with one rename; in S3 each attempt uploads under a prefix of its own, and
the manifest, written with `If-None-Match: *`, names the prefix that won; `Store.probe` finds a server that ignores it.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sppo.errors import ConfigError, InfrastructureError
from sppo.store.machine import machine

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
    at: str = ""
    """When it was committed: UTC, to the second, in ISO 8601. Like the time that it took, no part of what it is."""
    machine: str = ""
    """What the attempt computed with."""
    dropped: str = ""
    """Why the weights among the files are not there any more; empty where they are. See `Store.drop`."""
    files: tuple[StoredFile, ...]

    def refuse_dropped(self, uri: str) -> None:
        """Refuse to hand out a folder without its weights.

        Raises:
            ConfigError: if they were dropped.
        """
        if self.dropped:
            raise ConfigError(
                f"{uri}: its weights were dropped ({self.dropped}); `sppo resume` trains them again where the run needs"
                " them; else use the published model, or delete that folder and run again with publish.keep=all"
            )

    def digest(self) -> str:
        """SHA-256 of the content: paths and file digests, whatever the time or place, and whatever was dropped."""
        lines = "".join(f"{f.sha256}  {f.path}\n" for f in sorted(self.files, key=lambda f: f.path))
        return hashlib.sha256(lines.encode()).hexdigest()

    def changed_inputs(self, inputs: Mapping[str, str]) -> list[str]:
        """Names of the inputs in which what is committed differs from what is asked for."""
        return sorted(name for name in {*self.inputs, *inputs} if self.inputs.get(name) != inputs.get(name))


class Store(ABC):
    """A place for committed folders and small objects, named by relative keys."""

    uri: str

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a committed folder, or None where nothing is committed."""
        data = self.read(f"{key}/{MANIFEST}")
        return None if data is None else Manifest.model_validate_json(data)

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
        manifest = Manifest(
            prefix=self._place(attempt),
            inputs=dict(inputs),
            figures=dict(figures),
            seconds=seconds,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
            files=tuple(files),
        )
        won = self._publish(key, attempt, manifest.model_dump_json(indent=1).encode())
        winner = manifest if won else self.manifest(key)
        if winner is None:
            raise InfrastructureError(f"{self.uri}/{key}: another attempt's manifest vanished while committing; resume")
        return winner

    def fetch(self, key: str) -> Path:
        """A local, verified folder with the committed files of `key`; treat it as read-only.

        Raises:
            InfrastructureError: if nothing is committed as `key`, or a file is missing or differs from the manifest.
            ConfigError: if its weights were dropped.
        """
        manifest = self.manifest(key)
        if manifest is None:
            raise InfrastructureError(f"{self.uri}/{key}: nothing is committed there; resume the run")
        manifest.refuse_dropped(f"{self.uri}/{key}")
        return self._verified(key, manifest)

    def drop(self, key: str, suffix: str, why: str) -> int:
        """Remove the weights of a committed folder; its manifest stays, and says so, and its other files stay.

        The manifest is written first: an interruption then leaves weights that nobody reads, which the next call
        removes.

        Args:
            key: the folder.
            suffix: how the names of its weights end.
            why: a word for people.

        Returns:
            The bytes that were freed, now or by the call that was interrupted.
        """
        manifest = self.manifest(key)
        if manifest is None:
            raise InfrastructureError(f"{self.uri}/{key}: nothing is committed there; resume the run")
        if not manifest.dropped:
            marked = manifest.model_copy(update={"dropped": why})
            self.write(f"{key}/{MANIFEST}", marked.model_dump_json(indent=1).encode())
        weights = {file.path: file.bytes for file in manifest.files if file.path.endswith(suffix)}
        return sum(weights[name] for name in self._remove("/".join(filter(None, (key, manifest.prefix))), weights))

    def uncommit(self, key: str) -> None:
        """Take the manifest of a folder away, so that it counts as never made; its files stay until `delete`."""
        self._remove(key, [MANIFEST])

    def read_committed(self, key: str, name: str) -> bytes:
        """One file of a committed folder, verified, without fetching the weights that lie beside it.

        Raises:
            InfrastructureError: if nothing is committed as `key`, or the file is missing or differs from the manifest.
        """
        manifest = self.manifest(key)
        entry = next((file for file in manifest.files if file.path == name), None) if manifest else None
        data = self.read("/".join(part for part in (key, manifest.prefix, name) if part)) if manifest else None
        if data is None or entry is None or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise InfrastructureError(
                f"{self.uri}/{key}/{name}: missing, or differs from the manifest; delete {key} and resume"
            )
        return data

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder, on the store's own file system where it has one, so that a commit is a rename."""
        with tempfile.TemporaryDirectory(prefix="sppo-") as folder:
            yield Path(folder)

    @contextmanager
    def only_user(self, run: str) -> Iterator[None]:
        """Hold a run in a folder for oneself, and clear away what interrupted attempts left there if nobody is there.

        Stages need no lock, as a commit cannot mix two attempts; but a run that is played twice at once would do all
        its work twice. Runs with other values may be played beside it. A store in S3 is not locked.

        Args:
            run: the run, as the key of its configuration has it; empty for all runs that are played there.

        Raises:
            InfrastructureError: if another process holds it.
        """
        yield

    def probe(self) -> None:  # noqa: B027 - a folder's rename sees to that
        """Make sure that of two attempts at one folder only one can win, as not every server of S3 sees to that.

        Raises:
            ConfigError: if both would, naming servers that can be used.
            InfrastructureError: if that cannot be found out.
        """

    @abstractmethod
    def upload(self, key: str, attempt: str, folder: Path) -> tuple[StoredFile, ...]:
        """Bring one worker's files of `key` to where `seal` commits them; several workers share an attempt."""

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """A small object, or None."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write a small object atomically, replacing an older one."""

    @abstractmethod
    def committed(self, key: str) -> set[str]:
        """The keys of all committed folders that lie in a folder; nested ones are not looked for."""

    @abstractmethod
    def names(self, key: str) -> set[str]:
        """The names of the small objects in a folder; nested ones are not looked for."""

    @abstractmethod
    def files(self) -> dict[str, int]:
        """Every file that lies there, and its bytes."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a folder, its manifest first; nothing happens where there is none."""

    @abstractmethod
    def _remove(self, folder: str, names: Iterable[str]) -> list[str]:
        """Remove some files of a folder, and tell which of them were there."""

    def _place(self, attempt: str) -> str:
        """Where in a committed folder its attempt's files lie: the manifest's `prefix`."""
        return ""

    @abstractmethod
    def _publish(self, key: str, attempt: str, manifest: bytes) -> bool:
        """Whether an attempt's files with this manifest became the folder `key`; if another's did, they are gone."""

    @abstractmethod
    def _verified(self, key: str, manifest: Manifest) -> Path:
        """A local folder with the files of `key`, which are those of its manifest."""


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


def put_in_place(staging: Path, target: Path) -> bool:
    """Rename a finished folder.

    Returns:
        Whether it lies at `target` now; False where a folder with something in it was there before.

    Raises:
        InfrastructureError: if it cannot be renamed for another reason; it stays, and the message says where.
    """
    try:
        staging.rename(target)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY} and target.is_dir():
            return False
        raise InfrastructureError(
            f"{target}: cannot be written ({error.strerror}); what was finished lies in {staging}: mend that, and move "
            f"it to {target}, or run again"
        ) from error
    return True


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
