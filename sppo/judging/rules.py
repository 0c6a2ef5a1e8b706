"""Preferences without a model: a function of the user's, or checks of what a prompt asks for in so many words."""

from __future__ import annotations

import importlib
import importlib.util
import math
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sppo.errors import ConfigError
from sppo.judging.instruction_checks import follows, read_instructions
from sppo.judging.preference_model import Comparison
from sppo.judging.scores import Scored, differences
from sppo.store.base import file_sha256
from sppo.store.opening import fetch_file

FOLLOWED = 4.0
"""Logits between a response that follows all instructions of its prompt and one that follows none: P = 0.98."""


class Rules:
    """A score of every prompt with its response, in logits; implements `PreferenceModel`."""

    def __init__(self, name: str, score: Callable[[str, str], float]) -> None:
        """Judge by a function.

        Args:
            name: identity for reports.
            score: of a prompt and a response; where it is 4 higher, the response is preferred with P = sigmoid(4).
        """
        self.name, self.score = name, score
        self._scored = 0

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`; each response is scored once."""
        return differences(comparisons, self._scores)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`: responses scored."""
        return {"scored": float(self._scored)}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""

    def _scores(self, texts: Sequence[Scored]) -> list[float]:
        self._scored += len(texts)
        return [self.score(prompt, response) for prompt, response in texts]


# A function of the user's


def module_source(entry_point: str) -> Path:
    """The file of the module that an entry point `module:function` names.

    Raises:
        ConfigError: if it is written in another way, or there is no such module.
    """
    module, _, function = entry_point.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not function.isidentifier():
        raise ConfigError(f"rules:{entry_point}: write rules:MODULE:FUNCTION, such as rules:my_rules:score")
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as error:  # of a package around the module
        raise ConfigError(f"rules:{entry_point}: cannot be imported ({error})") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"rules:{entry_point}: no module {module}; install it, or add its folder to PYTHONPATH")
    return Path(spec.origin)


def load_function(entry_point: str) -> Callable[[str, str], float]:
    """The function that an entry point `module:function` names; its result is checked at every call.

    Raises:
        ConfigError: if it cannot be imported or is no function; when called, if it returns no finite number.
    """
    module_source(entry_point)
    module, _, name = entry_point.partition(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"rules:{entry_point}: cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(function):
        raise ConfigError(f"rules:{entry_point}: {module} has no function {name}")

    def checked(prompt: str, response: str) -> float:
        score = function(prompt, response)
        if not isinstance(score, numbers.Real) or not math.isfinite(score):
            raise ConfigError(
                f"rules:{entry_point}: returned {score!r} for the prompt {prompt[:60]!r}; return a finite number"
            )
        return float(score)

    return checked


# Instructions that can be checked


def instructions_file(uri: str) -> Path:
    """The local file of `instructions:FILE`.

    Raises:
        ConfigError: if there is none.
    """
    absent = f"{uri}: no such file; give a .jsonl file with prompt, instruction_id_list and kwargs"
    return fetch_file(uri.partition(":")[2], absent)


def load_instructions(uri: str) -> Rules:
    """The judge that prefers the response which follows more of its prompt's instructions.

    Raises:
        ConfigError: if the file is missing or wrong; when judging, for a prompt that is not in it.
    """
    path = instructions_file(uri)
    known = {row.prompt.strip(): row for _, row in read_instructions(path, uri)}

    def score(prompt: str, response: str) -> float:
        asked = known.get(prompt.strip())
        if asked is None:
            raise ConfigError(f"{uri}: has no instructions for the prompt {prompt[:60]!r}; add them, or leave it out")
        followed = follows(prompt, response, asked.instruction_id_list, asked.values)
        return FOLLOWED * followed.count(True) / len(followed)

    return Rules(f"{uri} ({file_sha256(path)[:12]})", score)
