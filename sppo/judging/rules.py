"""Preferences without a model: a score of each response, such as how much it follows of what its prompt asks for."""

from __future__ import annotations

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
