"""The store in S3 or a server that speaks its protocol (`AWS_ENDPOINT_URL`), through boto3's transfer manager."""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sppo.errors import ConfigError, InfrastructureError, one_line
from sppo.store.base import MANIFEST, Manifest, Store, StoredFile, describe, new_attempt, verify
from sppo.store.local_cache import cached, filling
from sppo.store.uri import S3, parse

_REFUSED = {"PreconditionFailed", "412"}
_IN_FLIGHT = {"ConditionalRequestConflict", "OperationAborted", "409"}
"""Another write of the object is under way, of which nobody knows yet whether it succeeds: S3 asks to try again."""
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds at most before each further try of such a write."""
SERVERS = "Amazon S3, Cloudflare R2, Ceph, a recent MinIO, or SeaweedFS later than 4.16"
"""Servers that put an object with `If-None-Match: *` only where there is none, by what docs/security.md names."""


class S3Store(Store):
    """A store under `s3://bucket/prefix`; credentials and endpoint come from the environment, as boto3 reads them."""

    def __init__(self, uri: str) -> None:
        place = _place_of(uri)
        self.bucket, self.prefix, self.uri = *place, place.uri
        self.client = _client(uri)

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
            self._put_if_absent(name, manifest)
        # What lies there decides, not the answer: a request whose answer was lost is sent again, and then refused
        # because of itself. Nothing that another attempt's manifest may name is removed.
        there = self.read(name)
        if there == manifest:
            try:
                self._delete_others(key, attempt)
            except InfrastructureError as error:  # as of a user who may not list uploads; the work is done nevertheless
                print(f"warning: what other attempts left beside {key} stays there: {error}", flush=True)
        elif there is not None:
            self._delete_prefix(f"{key}/{attempt}")
        return there == manifest

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
        with filling(target) as staging:
            staging.mkdir()
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

    def probe(self) -> None:
        """See `Store.probe`: an object is put twice, and the second time must be refused."""
        from botocore.exceptions import ClientError

        key = f".probe-{new_attempt()}"
        with _reported(f"{self.uri}/{key}"):
            try:
                refuses = not (self._put_if_absent(key, b"first") and self._put_if_absent(key, b"second"))
            except ClientError as error:
                if error.response["Error"]["Code"] not in {"NotImplemented", "501"}:
                    raise
                refuses = False
        self._delete(key)
        if not refuses:
            raise ConfigError(
                f"output_uri: {self.uri}: the server at {self.client.meta.endpoint_url} ignores If-None-Match, so that "
                f"two attempts at a stage would delete each other's files; use {SERVERS}, or a folder"
            )

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._delete(f"{key}/{MANIFEST}")
        self._delete_prefix(key)

    def committed(self, key: str) -> set[str]:
        """See `Store.committed`."""
        found = (name.removesuffix(f"/{MANIFEST}") for name in self._listed(key) if name.endswith(f"/{MANIFEST}"))
        return {f"{key}/{name}" for name in found if "/" not in name}

    def names(self, key: str) -> set[str]:
        """See `Store.names`."""
        return {name for name in self._listed(key) if "/" not in name}

    def files(self) -> dict[str, int]:
        """See `Store.files`."""
        return {name: int(entry["Size"]) for name, entry in self._listed("").items()}

    def entries(self, key: str) -> dict[str, str]:
        """Every object under a key: its path from there, and its ETag."""
        return {name: str(entry["ETag"]) for name, entry in self._listed(key).items()}

    def _listed(self, key: str) -> dict[str, Any]:
        prefix = f"{self._key(key)}/".lstrip("/")
        with _reported(f"{self.uri}/{key}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return {entry["Key"].removeprefix(prefix): entry for page in pages for entry in page.get("Contents", [])}

    def _remove(self, folder: str, names: Iterable[str]) -> list[str]:
        there = sorted(self.entries(folder).keys() & set(names))
        for name in there:
            self._delete(f"{folder}/{name}")
        return there

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

        waits = iter(_WAITS)
        while True:
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code in _REFUSED:
                    return False
                wait = next(waits, None) if code in _IN_FLIGHT else None
                if wait is None:
                    raise
                time.sleep(wait * random.uniform(0.5, 1.0))
            else:
                return True


class S3Folder:
    """A folder in S3: one that a run committed, or a plain one that another tool uploaded."""

    def __init__(self, uri: str) -> None:
        """Look what is there.

        Raises:
            ConfigError: if nothing lies under the prefix, or the weights that a run committed there were dropped.
        """
        self.uri, self.store = uri, S3Store(uri)
        self.manifest = self.store.manifest("")
        if self.manifest is not None:
            self.manifest.refuse_dropped(uri)
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
    if not (target.is_file() and target.stat().st_size == len(data)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:  # others may read it already
            (Path(folder) / name).write_bytes(data)
            (Path(folder) / name).replace(target)
    return target


def _client(uri: str) -> Any:
    """What speaks to S3 as the environment and the files of the AWS command line say.

    Raises:
        ConfigError: if these contradict each other, or name what is not there.
    """
    import boto3
    from botocore.config import Config

    with _reported(uri):
        try:
            return boto3.client("s3", config=Config(retries={"max_attempts": 8, "mode": "standard"}))
        except ValueError as error:  # of an address that is none (botocore/endpoint.py, `create_endpoint`)
            raise ConfigError(f"{uri}: {one_line(error)}; {_MEND}") from error


_MEND = "mend AWS_ENDPOINT_URL, AWS_PROFILE, AWS_DEFAULT_REGION or ~/.aws/config"


def _place_of(uri: str) -> S3:
    place = parse(uri)
    if not isinstance(place, S3):
        raise ConfigError(f"{uri}: not in S3; write s3://bucket/prefix")
    return place


@contextmanager
def _reported(uri: str) -> Iterator[None]:
    """Turn what boto3 raises into one line that names the object: wrong settings, or a request that failed."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as aws

    settings = (
        aws.ProfileNotFound,
        aws.NoRegionError,
        aws.ConfigNotFound,
        aws.ConfigParseError,
        aws.InvalidConfigError,
        aws.PartialCredentialsError,
        aws.ValidationError,  # of a region's name, among others
        aws.EndpointProviderError,  # an address of a kind that no request can go to
        aws.InvalidChecksumConfigError,
    )
    try:
        yield
    except settings as error:
        raise ConfigError(f"{uri}: {one_line(error)}; {_MEND}") from error
    except aws.ParamValidationError as error:
        raise ConfigError(f"{uri}: {one_line(error)}; mend the bucket or the path") from error
    except aws.NoCredentialsError as error:  # a cloud's own come from a server of its, which may not answer yet
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise InfrastructureError(f"{uri}: {one_line(error)}; set {keys}") from error
    except (aws.BotoCoreError, aws.ClientError, Boto3Error) as error:
        raise InfrastructureError(f"{uri}: {one_line(error)}") from error
