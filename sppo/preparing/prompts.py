"""Reading prompts, cleaning them, and dividing them into one part an iteration and a held-out part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from sppo.config.plugins import FORMATS
from sppo.config.sections.prepare import PrepareConfig
from sppo.errors import ConfigError
from sppo.models.hub import refuse_page
from sppo.preparing.datasets import read_dataset
from sppo.preparing.files import suffix_of
from sppo.preparing.formats.base import Format
from sppo.preparing.jsonl import SUFFIXES, read_jsonl
from sppo.preparing.tabular import no_column, read_csv, read_parquet
from sppo.store.opening import fetch_file

_FILES = "a .jsonl, .json, .csv or .parquet file"


@dataclass(frozen=True)
class Prompt:
    """A cleaned prompt; its identity is its text."""

    text: str
    prompt_id: str


@dataclass
class Counts:
    """What became of the rows that were read."""

    read: int = 0
    empty: int = 0
    duplicate: int = 0
    special: int = 0
    """Prompts in which a special token of the model is written out, which would be read as control."""
    too_long: int = 0
    kept: int = 0

    def line(self) -> str:
        """The counts as one line for people."""
        dropped = f"{self.empty} empty, {self.duplicate} duplicate, {self.special} with special tokens, "
        dropped += f"{self.too_long} too long"
        return f"{self.read} prompts read, {self.kept} kept, dropped: {dropped}"


@dataclass(frozen=True)
class Parts:
    """Disjoint parts of the prompts: `iterations[t - 1]` is played in iteration t, `held_out` is never trained on."""

    iterations: list[list[Prompt]] = field(default_factory=list)
    held_out: list[Prompt] = field(default_factory=list)


def read_prompts(uri: str, config: PrepareConfig) -> list[str]:
    """All prompts of a source, in its order.

    Args:
        uri: a .jsonl, .json, .csv or .parquet file, all but the last also as .gz; `s3://…` to one; `hf://org/name` of a
            data set; or `package:sppo`.
        config: the column that holds the user's message, its format, and the split of a Hugging Face dataset.

    Raises:
        ConfigError: naming the source, and the row where there is one.
    """
    if uri == "package:sppo":
        with as_file(files("sppo") / "preparing" / "bundled" / "prompts.jsonl") as path:
            return list(read_texts(_rows(path, uri, config), uri, config))
    if uri.startswith("hf://"):
        return list(read_texts(read_dataset(uri, config.split), uri, config))
    refuse_page(uri)
    path = fetch_file(uri, f"prompts: {uri}: no such file; give {_FILES}, s3://…, hf://org/name or package:sppo")
    return list(read_texts(_rows(path, uri, config), uri, config))


def clean(texts: list[str], counts: Counts) -> list[Prompt]:
    """Trim all but the indentation, drop empty prompts and repeats, and identify each by the digest of its text.

    A prompt may be code, which another indentation of its first line would break; two that differ in nothing else are
    the same.
    """
    kept: dict[str, Prompt] = {}
    for text in texts:
        counts.read += 1
        bare = text.strip()
        if not bare:
            counts.empty += 1
        elif bare in kept:
            counts.duplicate += 1
        else:
            before = text[: len(text) - len(text.lstrip())]
            text = before[len(before.rstrip(" \t")) :] + bare
            kept[bare] = Prompt(text, hashlib.sha256(text.encode()).hexdigest()[:16])
    return list(kept.values())


def divide(prompts: list[Prompt], iterations: int, held_out: int, per_iteration: int) -> Parts:
    """Divide prompts by content: the same prompt gets the same place whatever the order of the file or the seed.

    Prompts are ordered by their digest. The first `held_out` are held out, the next ones fill the iterations' parts.

    Raises:
        ConfigError: if there are too few prompts.
    """
    each = per_iteration or (len(prompts) - held_out) // iterations
    needed = held_out + iterations * max(each, 1)
    if len(prompts) < needed:
        raise ConfigError(
            f"prompts: {len(prompts)} usable prompts, but {held_out} held out and {iterations} iterations of "
            f"{max(each, 1)} need {needed}; give more prompts, or lower prepare.held_out, "
            "prepare.prompts_per_iteration or iterations"
        )
    ordered = sorted(prompts, key=lambda p: p.prompt_id)
    parts = [ordered[held_out + t * each : held_out + (t + 1) * each] for t in range(iterations)]
    return Parts(iterations=parts, held_out=ordered[:held_out])


def read_texts(rows: Iterable[Mapping[str, Any]], uri: str, config: PrepareConfig) -> Iterator[str]:
    """The texts of rows, which `prepare.format` tells from their column.

    Args:
        rows: of the source, counted from 1.
        uri: the source, for messages.
        config: the column and its format.

    Raises:
        ConfigError: naming the first row that has no such column, or not in this format.
    """
    form: Format = FORMATS.load(config.format)
    column = config.prompt_column
    for number, row in enumerate(rows, start=1):
        where = f"prompts: {uri}: row {number}"
        if column not in row:
            raise no_column(where, column, row)
        try:
            text = form.text(row, column)
            text.encode()
        except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
            raise ConfigError(f"{where}: column {column!r} is not Unicode ({error})") from error
        except ValueError as error:
            needed = f"prepare.format={config.format} reads such as {form.EXAMPLE!r}"
            raise ConfigError(f"{where}: column {column!r} {error}; {needed}") from None
        yield text


def _rows(path: Path, uri: str, config: PrepareConfig) -> Iterator[Mapping[str, Any]]:
    name = f"prompts: {uri}"
    match suffix_of(path):
        case suffix if suffix in SUFFIXES:
            return (row for _, row in read_jsonl(path, name))
        case ".csv":
            return read_csv(path, name, config.prompt_column)
        case ".parquet":
            return read_parquet(path, name, config.prompt_column)
        case suffix:
            raise ConfigError(f"{name}: unknown format {suffix or '(no suffix)'}; give {_FILES}")
