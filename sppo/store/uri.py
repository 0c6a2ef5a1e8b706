"""What a URI of ours names: every one that a user writes is parsed here, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from sppo.errors import ConfigError


class Local(NamedTuple):
    """A file or folder of this machine; the path is as it was written, relative ones among it."""

    path: Path


class S3(NamedTuple):
    """An object, or everything under a prefix. Keys are taken as written: nothing in them is a query or an escape."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        """The URI, without a slash at its end."""
        return f"s3://{self.bucket}/{self.key}".rstrip("/")


class Hub(NamedTuple):
    """A repository of the Hugging Face hub; the revision may be empty."""

    repository: str
    revision: str


class Package(NamedTuple):
    """An installed Python package, or the folder of this name in it."""

    name: str
    folder: str = ""


class Foreign(NamedTuple):
    """A place of a kind that nothing here reads."""

    scheme: str


Place: TypeAlias = Local | S3 | Hub | Package | Foreign

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9._:-]{1,255}")
"""As botocore takes it (`VALID_BUCKET` and the ARNs of its handlers.py, 1.44), but for ARNs that hold a slash."""
_REPOSITORY = re.compile(r"\w[\w.-]*(/[\w.-]*\w)?", re.ASCII)

_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""NAME_MAX and PATH_MAX of Linux, in bytes."""


def last_part(uri: str) -> str:
    """The last part of a URI: what people and MLflow call a run that is played there."""
    return uri.rstrip("/").rpartition("/")[2]


def parse(uri: str) -> Place:
    """What a URI names: a path, `file:`, `s3://bucket/key`, `hf://org/name[@revision]` or `package:NAME[/FOLDER]`.

    Raises:
        ConfigError: naming the URI, if it is none of these and not of another scheme either.
    """
    if not uri or "\0" in uri or not _is_unicode(uri):
        raise ConfigError(f"{uri!r}: not the name of a place; write a path in Unicode, or a URI")
    if uri.startswith("file:"):
        return Local(_from_file_uri(uri))
    if uri.startswith("package:"):
        name, _, folder = uri.removeprefix("package:").partition("/")
        return Package(name, folder)
    found = _SCHEME.fullmatch(uri)
    if found is None:
        return Local(_from_path(uri))
    scheme, rest = found.groups()
    if scheme == "s3":
        bucket, _, key = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"{uri}: name a bucket, as in s3://bucket/prefix")
        return S3(bucket, key.strip("/"))
    if scheme == "hf":
        repository, at, revision = rest.partition("@")
        if not _REPOSITORY.fullmatch(repository) or (at and not revision):
            raise ConfigError(
                f"{uri}: no repository of a hub is named so; write hf://org/name or hf://org/name@revision"
            )
        return Hub(repository, revision)
    return Foreign(scheme)


def _from_path(path: str) -> Path:
    scheme = path.partition(":")[0]
    if path.startswith(("s3:", "hf:")):
        raise ConfigError(f"{path}: write {scheme}:// with two slashes; a folder of that name is ./{path}")
    try:
        return _fitting(Path(path).expanduser(), path)
    except RuntimeError:
        raise ConfigError(f"{path}: this machine has no such user; write the whole path") from None


def _fitting(path: Path, uri: str) -> Path:
    """Refuse what a file system has no room for: asking it whether the file is there would be an error."""
    if len(bytes(path)) >= _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise ConfigError(f"{uri[:60]}…: too long for a path; a name has at most {_LONGEST_NAME} bytes")
    return path


def _from_file_uri(uri: str) -> Path:
    """The path of a `file:` URI (RFC 8089): its characters may be escaped, its host is this machine."""
    rest = uri.removeprefix("file:")
    if rest.startswith("//"):
        host, slash, path = rest.removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(f"{uri}: {host} would be another machine; write file:/// before a whole path")
        rest = slash + path
    try:
        path = unquote(rest, errors="strict")
    except UnicodeDecodeError:
        raise ConfigError(f"{uri}: its escapes are not UTF-8; write them so, or give the path itself") from None
    if re.search("%(?![0-9A-Fa-f]{2})", rest):
        raise ConfigError(f"{uri}: in a file: URI a % begins an escape such as %20; write %25, or give the path itself")
    if not path or "\0" in path:
        raise ConfigError(f"{uri}: names no file or folder; write file:/// before a whole path")
    return _fitting(Path(path), uri)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # an argument that is not UTF-8
        return False
    return True
