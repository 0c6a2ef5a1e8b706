"""Writing weights where there may be no room for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How Rust's `std::io::Error` ends, which safetensors hands on as text."""


@contextmanager
def weights_written(target: Path) -> Iterator[None]:
    """Turn safetensors' error into the one of the file system that it tells of.

    Args:
        target: where the weights are written.

    Raises:
        OSError: such as that the disk is full; see `sppo.errors.storage_errors`.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        told = _NUMBER.search(str(error))
        if told is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(target)) from error
