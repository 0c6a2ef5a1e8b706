"""From what a user writes to a store, or to the local copy of one file."""

from __future__ import annotations

from pathlib import Path

from sppo.errors import ConfigError
from sppo.store import uri as places
from sppo.store.base import Store
from sppo.store.local import LocalStore
from sppo.store.s3 import S3Store, s3_file


def open_store(uri: str) -> Store:
    """The store behind a folder path, `file:` URI or `s3://bucket/prefix`.

    Raises:
        ConfigError: for another scheme.
    """
    match places.parse(uri):
        case places.S3():
            return S3Store(uri)
        case places.Local(path):
            return LocalStore(path)
        case _:
            raise ConfigError(f"output_uri: {uri!r} is not supported; give a folder or s3://bucket/prefix")


def fetch_file(uri: str, otherwise: str) -> Path:
    """The local copy of a file that a user names as `s3://…`, `file://…` or a path.

    Args:
        uri: what the user wrote.
        otherwise: the message for a file that is not there.

    Raises:
        ConfigError: if there is no such file or object.
    """
    match places.parse(uri):
        case places.S3():
            return s3_file(uri)
        case places.Local(path) if path.is_file():
            return path
        case _:
            raise ConfigError(otherwise)
