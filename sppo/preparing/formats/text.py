"""The column holds the user's message as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXAMPLE = "Why is the sky blue?"


def text(row: Mapping[str, Any], column: str) -> str:
    """See `Format.text`."""
    value = row[column]
    if not isinstance(value, str):
        raise ValueError("is not text")
    return value
