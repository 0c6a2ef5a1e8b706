"""From what a user writes to a store, or to the local copy of one file."""

from __future__ import annotations

from pathlib import Path

from sppo.errors import ConfigError
from sppo.store.base import Store
from sppo.store.local import LocalStore
from sppo.store.s3 import S3Store, s3_file


def open_store(uri: str) -> Store:
    """The store behind a folder path, `file:` URI or `s3://bucket/prefix`.

    Raises:
        ConfigError: for another scheme.
    """
    if uri.startswith("s3://"):
        return S3Store(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise ConfigError(f"output_uri: {uri!r} is not supported; give a folder or s3://bucket/prefix")
    return LocalStore(Path(uri.removeprefix("file://").removeprefix("file:")))


def fetch_file(uri: str, otherwise: str) -> Path:
    """The local copy of a file that a user names as `s3://…`, `file://…` or a path.

    Args:
        uri: what the user wrote.
        otherwise: the message for a file that is not there.

    Raises:
        ConfigError: if there is no such file or object.
    """
    if uri.startswith("s3://"):
        return s3_file(uri)
    path = Path(uri.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise ConfigError(otherwise)
    return path
