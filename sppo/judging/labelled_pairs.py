"""Preference pairs from JSON lines, and their division into training and development pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from sppo.errors import ConfigError
from sppo.preparing.files import suffix_of
from sppo.preparing.jsonl import SUFFIXES, read_jsonl
from sppo.seeds import derive_seed

COLUMNS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, and which of them was preferred."""

    prompt: str
    chosen: str
    rejected: str
    group: str
    """Pairs of one group (the same conversation) are never divided between training and development."""


def read_pairs(path: str) -> list[Pair]:
    """Read a JSON Lines file with the columns prompt, chosen, rejected; `group` defaults to the prompt.

    Raises:
        ConfigError: naming the file, the line and the column.
    """
    return [_parse(*each) for each in read_file(path, "preference pairs")]


def read_file(path: str, what: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each after the file and line for messages.

    Args:
        path: the file, whose name ends in .jsonl or .json, and in .gz if it is compressed.
        what: what it holds, in the plural, for messages.

    Raises:
        ConfigError: as `read_jsonl`; also where there is no such file, or nothing in it.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file of {what}")
    if suffix_of(Path(path)) not in SUFFIXES:
        raise ConfigError(f"{path}: {what} are read from .jsonl or .json, or from one of them as .gz")
    rows = list(read_jsonl(Path(path), path))
    if not rows:
        raise ConfigError(f"{path}: holds no {what}")
    return rows


def _parse(where: str, row: dict[str, Any]) -> Pair:
    for column in COLUMNS:
        if not is_text(row.get(column)):
            raise ConfigError(f"{where}: column {column!r} is missing or not a string of Unicode characters")
    group = row["prompt"] if row.get("group") is None else str(row["group"])
    if not is_text(group):
        raise ConfigError(f"{where}: column 'group' is not a string of Unicode characters")
    return Pair(row["prompt"], row["chosen"], row["rejected"], group)


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value of JSON is a string of characters; it can hold half a surrogate pair, which is none."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and development pairs; a group's side depends on the seed and the group alone."""
    training: list[Pair] = []
    development: list[Pair] = []
    for pair in pairs:
        aside = derive_seed(seed, "development", pair.group) < share * 2**31
        (development if aside else training).append(pair)
    return training, development
