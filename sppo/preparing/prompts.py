"""Reading prompts, cleaning them, and dividing them into one part an iteration and a held-out part."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from sppo.config.plugins import FORMATS
from sppo.config.sections.prepare import PrepareConfig
from sppo.errors import ConfigError
from sppo.models.hub import refuse_page
from sppo.preparing.datasets import read_dataset
from sppo.preparing.files import bundled, shown, suffix_of
from sppo.preparing.formats.base import Format
from sppo.preparing.jsonl import SUFFIXES, read_jsonl
from sppo.preparing.tabular import no_column, read_csv, read_parquet
from sppo.store.opening import fetch_file

Part = Literal["train", "held-out", ""]
"""What the optional column `part` says of a row: only trained on, only held out, or either (`divide`)."""

BUNDLED = ("prompts.jsonl", "verifiable.jsonl")
"""The prompts of `package:sppo`: without instructions that code can check, and with."""

_PART = "part"
_KINDS = "instruction_id_list"
"""IFEval's column of the kinds of instructions that a prompt has."""
_BESIDE = ("input", "context")
"""What data like Alpaca's and Dolly's have beside the instruction that it belongs to."""
_FILES = "a .jsonl, .json, .csv or .parquet file"


class Row(NamedTuple):
    """What is read of a row of the source."""

    text: str
    part: Part = ""
    kinds: tuple[str, ...] = ()
    """The kinds of instructions that it has, where the source says so in IFEval's column."""


@dataclass(frozen=True)
class Prompt:
    """A cleaned prompt; its identity is its text."""

    text: str
    prompt_id: str
    part: Part = ""
    source: int = 0
    """Which of several sources has it, from 0."""
    kinds: tuple[str, ...] = ()
    """See `Row.kinds`."""


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


def read_prompts(uri: str, config: PrepareConfig) -> list[Row]:
    """All rows of a source, in its order.

    Args:
        uri: a .jsonl, .json, .csv or .parquet file, all but the last also as .gz; `s3://…` to one; `hf://org/name` of a
            data set; or `package:sppo`.
        config: the column that holds the user's message, its format, and the split of a Hugging Face dataset.

    Raises:
        ConfigError: naming the source, and the row where there is one.
    """
    if uri == "package:sppo":
        rows: list[Row] = []
        for name in BUNDLED:
            with bundled(name) as path:
                rows += read_rows(_records(path, uri, config), uri, config)
        return rows
    if uri.startswith("hf://"):
        return list(read_rows(read_dataset(uri, config.split), uri, config))
    return list(read_rows(_records(_file(uri), uri, config), uri, config))


def check_places(uris: Iterable[str]) -> None:
    """Refuse places of prompts on this machine that are not there, before anything slower is looked at.

    Raises:
        ConfigError: naming the first.
    """
    for uri in uris:
        if uri != "package:sppo" and not uri.startswith(("hf://", "s3://")):
            _file(uri)


def _file(uri: str) -> Path:
    refuse_page(uri)
    return fetch_file(uri, f"prompts: {uri}: no such file; give {_FILES}, s3://…, hf://org/name or package:sppo")


def clean(rows: Iterable[Row], counts: Counts) -> list[Prompt]:
    """The prompts of one source; see `clean_all`."""
    return clean_all([rows], counts)


def clean_all(sources: Iterable[Iterable[Row]], counts: Counts) -> list[Prompt]:
    """Trim all but the indentation, drop empty prompts and repeats, and identify each by the digest of its text.

    A prompt may be code, which another indentation of its first line would break; two that differ in nothing else are
    the same. Of sources that share a prompt, the first one has it.

    Raises:
        ConfigError: if one of two that are the same is only for training, and the other only held out.
    """
    kept: dict[str, Prompt] = {}
    for source, (text, part, kinds) in ((number, row) for number, rows in enumerate(sources) for row in rows):
        counts.read += 1
        bare = text.strip()
        if not bare:
            counts.empty += 1
        elif bare in kept:
            counts.duplicate += 1
            before = kept[bare]
            if before.part and part and before.part != part:
                raise ConfigError(f"prompts: {bare[:60]!r} is there with the part train and with held-out; drop one")
            kept[bare] = replace(before, part=before.part or part, kinds=before.kinds or kinds)
        else:
            space = text[: len(text) - len(text.lstrip())]
            text = space[len(space.rstrip(" \t")) :] + bare
            kept[bare] = Prompt(text, hashlib.sha256(text.encode()).hexdigest()[:16], part, source, kinds)
    return list(kept.values())


def divide(prompts: list[Prompt], iterations: int, held_out: int, per_iteration: int, sources: int = 1) -> Parts:
    """Divide prompts by content: the same prompt gets the same place whatever the order of the file or the seed.

    Prompts are ordered by their digest. The first `held_out` of the first source that are not only for training are
    held out. The next ones that are not only for holding out fill the iterations' parts: of one source all iterations
    take theirs in turn, of several each has its own.

    Args:
        prompts: all that are usable.
        iterations: how many.
        held_out: how many prompts are held out.
        per_iteration: how many an iteration plays; 0: as many as there are.
        sources: how many the prompts are from: 1, or one for each iteration.

    Raises:
        ConfigError: if there are too few prompts.
    """
    ordered = sorted(prompts, key=lambda p: p.prompt_id)
    testable = [prompt for prompt in ordered if prompt.part != "train" and prompt.source == 0]
    held = set(testable[:held_out])
    left = [prompt for prompt in ordered if prompt.part != "held-out" and prompt not in held]
    if sources > 1:
        own = [[prompt for prompt in left if prompt.source == source] for source in range(sources)]
        _check_sources(own, len(testable), held_out, per_iteration)
        return Parts([each[: per_iteration or None] for each in own], testable[:held_out])
    each = per_iteration or len(left) // iterations
    played = iterations * max(each, 1)
    if len(held) < held_out or len(left) < played:
        have, needed = f"{len(prompts)} usable prompts", f"{held_out + played}"
        if any(prompt.part for prompt in prompts):
            have += f", {len(testable)} that may be held out and {len(left)} then left to train on"
            needed = f"{held_out} and {played}"
        raise ConfigError(
            f"prompts: {have}, but {held_out} held out and {iterations} iterations of {max(each, 1)} need {needed}; "
            "give more prompts, or lower prepare.held_out, prepare.prompts_per_iteration or iterations"
        )
    parts = [left[t * each : (t + 1) * each] for t in range(iterations)]
    return Parts(iterations=parts, held_out=testable[:held_out])


def _check_sources(own: list[list[Prompt]], testable: int, held_out: int, per_iteration: int) -> None:
    """Refuse a first source without enough prompts to hold out, and one without enough for its iteration."""
    needed = max(per_iteration, 1)
    short = [f"the one for iteration {t} has {len(each)}" for t, each in enumerate(own, start=1) if len(each) < needed]
    if testable < held_out:
        short = [f"the first has {testable} that may be held out, of which {held_out} are needed", *short]
    if short:
        raise ConfigError(
            f"prompts: {'; '.join(short)}; each needs {needed} to play that no earlier one has, beside those held out; "
            "give more prompts, or lower prepare.held_out or prepare.prompts_per_iteration"
        )


def read_rows(records: Iterable[Mapping[str, Any]], uri: str, config: PrepareConfig) -> Iterator[Row]:
    """The text of each record, which `prepare.format` tells from its column, its part, and its kinds of instructions.

    Args:
        records: of the source, counted from 1.
        uri: the source, for messages.
        config: the column and its format.

    Raises:
        ConfigError: naming the first row that has no such column, or not in this format, or a part that there is not.
    """
    form: Format = FORMATS.load(config.format)
    column = config.prompt_column
    beside: Counter[str] = Counter()
    for number, row in enumerate(records, start=1):
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
        part: Any = row.get(_PART) or "" if column != _PART else ""
        if part not in get_args(Part):
            mend = "write train, held-out or nothing, or rename the column"
            raise ConfigError(f"{where}: column {_PART!r} is '{shown(part)}'; {mend}")
        beside.update(
            name for name in _BESIDE if name != column and isinstance(row.get(name), str) and row[name].strip()
        )
        yield Row(text, part, _kinds(row))
    for name, count in beside.items():
        print(
            f"warning: prompts: {uri}: {count} rows have a column {name!r} too, which is not read; if it belongs to "
            f"the prompt, write both into {column!r}",
            flush=True,
        )


def _kinds(row: Mapping[str, Any]) -> tuple[str, ...]:
    listed = row.get(_KINDS)
    return tuple(each for each in listed if isinstance(each, str)) if isinstance(listed, list) else ()


def _records(path: Path, uri: str, config: PrepareConfig) -> Iterator[Mapping[str, Any]]:
    name = f"prompts: {uri}"
    match suffix_of(path):
        case suffix if suffix in SUFFIXES:
            return (row for _, row in read_jsonl(path, name))
        case ".csv":
            return read_csv(path, name, config.prompt_column, _PART)
        case ".parquet":
            return read_parquet(path, name, config.prompt_column, _PART, _KINDS, *_BESIDE)
        case suffix:
            raise ConfigError(f"{name}: unknown format {suffix or '(no suffix)'}; give {_FILES}")
