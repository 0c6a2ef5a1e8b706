"""The store in S3 or a server that speaks its protocol (`AWS_ENDPOINT_URL`), through boto3's transfer manager."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sppo.errors import ConfigError, InfrastructureError
from sppo.store.base import MANIFEST, Manifest, Store, StoredFile, describe, verify
from sppo.store.local_cache import cached
from sppo.store.uri import S3, parse


class S3Store(Store):
    """A store under `s3://bucket/prefix`; credentials and endpoint come from the environment, as boto3 reads them."""

    def __init__(self, uri: str) -> None:
        place = _place_of(uri)
        import boto3
        from botocore.config import Config

        self.bucket, self.prefix, self.uri = *place, place.uri
        self.client: Any = boto3.client("s3", config=Config(retries={"max_attempts": 8, "mode": "standard"}))

    def _key(self, key: str) -> str:
        return "/".join(part for part in (self.prefix, key.strip("/")) if part)

    def upload(self, key: str, attempt: str, folder: Path) -> tuple[StoredFile, ...]:
        """See `Store.upload`."""
        files = describe(folder)
        with _reported(f"{self.uri}/{key}"):
            for entry in files:
                name = self._key(f"{key}/{attempt}/{entry.path}")
                self.client.upload_file(str(folder / entry.path), self.bucket, name)
        return files

    def _place(self, attempt: str) -> str:
        return attempt

    def _publish(self, key: str, attempt: str, manifest: bytes) -> bool:
        name = f"{key}/{MANIFEST}"
        with _reported(f"{self.uri}/{key}"):
            # A request whose answer was lost is sent again, and then refused because of itself.
            won = self._put_if_absent(name, manifest) or self.read(name) == manifest
        if won:
            self._delete_others(key, attempt)
        else:
            self._delete_prefix(f"{key}/{attempt}")
        return won

    def _verified(self, key: str, manifest: Manifest) -> Path:
        """Downloaded once into the cache, which is keyed by content."""
        target = cached("folders", manifest.digest())
        if target.exists():
            verify(target, manifest, str(target))
        else:
            names = [entry.path for entry in manifest.files]
            self._download(f"{key}/{manifest.prefix}", names, target, f"{self.uri}/{key}", manifest)
        return target

    def _download(
        self, key: str, names: Iterable[str], target: Path, uri: str, manifest: Manifest | None = None
    ) -> None:
        """Download objects under a key into a folder of the cache, which appears only when it is complete and checked.

        Raises:
            ConfigError: for a name that leads out of the folder.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
            staging = Path(folder) / "folder"
            with _reported(uri):
                for name in names:
                    path = staging / name
                    if not path.resolve().is_relative_to(staging.resolve()):
                        raise ConfigError(
                            f"{uri}: the object name {name!r} leads out of the folder; rename that object"
                        )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self.client.download_file(self.bucket, self._key(f"{key}/{name}"), str(path))
            if manifest is not None:
                verify(staging, manifest, uri)
            try:
                staging.rename(target)
            except OSError:  # another process downloaded the same meanwhile
                if not target.exists():
                    raise

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        with _reported(f"{self.uri}/{key}"):
            try:
                body: bytes = self.client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()
            except self.client.exceptions.NoSuchKey:
                return None
        return body

    def write(self, key: str, data: bytes) -> None:
        """See `Store.write`."""
        with _reported(f"{self.uri}/{key}"):
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a small object where there is none yet.

        Returns:
            Whether the object is now the one of this call, whose bytes no other's may have: a request whose answer was
            lost is sent again, and then refused because of itself.
        """
        with _reported(f"{self.uri}/{key}"):
            return self._put_if_absent(key, data) or self.read(key) == data

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._delete(f"{key}/{MANIFEST}")
        self._delete_prefix(key)

    def entries(self, key: str) -> dict[str, str]:
        """Every object under a key: its path from there, and its ETag."""
        prefix = f"{self._key(key)}/".lstrip("/")
        with _reported(f"{self.uri}/{key}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return {
                entry["Key"].removeprefix(prefix): entry["ETag"] for page in pages for entry in page.get("Contents", [])
            }

    def _delete_prefix(self, key: str) -> None:
        for name in self.entries(key):
            self._delete(f"{key}/{name}")

    def _delete(self, key: str) -> None:
        with _reported(f"{self.uri}/{key}"):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def _delete_others(self, key: str, winner: str) -> None:
        """Remove what attempts left that were killed while they uploaded, parts of large files among it."""
        for name in self.entries(key):
            if name != MANIFEST and not name.startswith(f"{winner}/"):
                self._delete(f"{key}/{name}")
        with _reported(f"{self.uri}/{key}"):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=f"{self._key(key)}/"
            ):
                for upload in page.get("Uploads", []):
                    self.client.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                return False
            raise
        return True


class S3Folder:
    """A folder in S3: one that a run committed, or a plain one that another tool uploaded."""

    def __init__(self, uri: str) -> None:
        """Look what is there.

        Raises:
            ConfigError: if nothing lies under the prefix.
        """
        self.uri, self.store = uri, S3Store(uri)
        self.manifest = self.store.manifest("")
        self.prefix = self.manifest.prefix if self.manifest else ""
        # The console marks an empty folder by an object whose name ends in a slash.
        names = {name: etag for name, etag in self.store.entries(self.prefix).items() if not name.endswith("/")}
        self.names = {name: etag for name, etag in names.items() if name}
        if not self.names:
            raise ConfigError(f"{uri}: no object lies under that prefix; check the bucket and the path")

    def fetch(self, leave_out: str = "") -> Path:
        """Bring it into the cache.

        Args:
            leave_out: a suffix of files that are not wanted.
        """
        if self.manifest is not None and not leave_out:
            return self.store.fetch("")
        wanted = {name: etag for name, etag in self.names.items() if not (leave_out and name.endswith(leave_out))}
        manifest = self.manifest
        if manifest is not None:
            files = tuple(file for file in manifest.files if file.path in wanted)
            manifest = manifest.model_copy(update={"files": files})
        identity = hashlib.sha256(repr((self.uri, sorted(wanted.items()))).encode()).hexdigest()
        target = cached("folders", identity)
        if not target.exists():
            self.store._download(self.prefix, wanted, target, self.uri, manifest)
        return target

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with _reported(f"{self.uri}/{name}"):
            key = self.store._key(f"{self.prefix}/{name}")
            return int(self.store.client.head_object(Bucket=self.store.bucket, Key=key)["ContentLength"])

    def read(self, name: str, start: int, length: int) -> bytes:
        """A part of a file (RFC 9110, section 14), which is shorter where the file ends before."""
        with _reported(f"{self.uri}/{name}"):
            key, span = self.store._key(f"{self.prefix}/{name}"), f"bytes={start}-{start + length - 1}"
            body: bytes = self.store.client.get_object(Bucket=self.store.bucket, Key=key, Range=span)["Body"].read()
        return body


def s3_file(uri: str) -> Path:
    """Bring one S3 object into the cache and return its path.

    Raises:
        ConfigError: if there is no such object.
    """
    place = _place_of(uri)
    parent, _, name = place.key.rpartition("/")
    if name in {"", ".", ".."}:
        raise ConfigError(f"{uri}: names no object; write s3://bucket/key")
    store = S3Store(S3(place.bucket, parent).uri)
    data = store.read(name)
    if data is None:
        raise ConfigError(f"{uri}: no such object; check the bucket and the key")
    target = cached("files", hashlib.sha256(data).hexdigest()) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


def _place_of(uri: str) -> S3:
    place = parse(uri)
    if not isinstance(place, S3):
        raise ConfigError(f"{uri}: not in S3; write s3://bucket/prefix")
    return place


@contextmanager
def _reported(uri: str) -> Iterator[None]:
    """Turn a failed request into one line that names the object."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise InfrastructureError(f"{uri}: {error}") from error
