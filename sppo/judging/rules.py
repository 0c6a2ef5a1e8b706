"""Preferences without a model: a score of each response, such as how much it follows of what its prompt asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sppo.judging.instruction_checks import Instructions, follows, read_instructions
from sppo.judging.preference_model import Comparison
from sppo.judging.scores import Scored, differences
from sppo.preparing.files import bundled
from sppo.store.base import file_sha256
from sppo.store.opening import fetch_file

FOLLOWED = 4.0
"""Logits between a response that follows all instructions of its prompt and one that follows none: P = 0.98."""
ENDS = re.compile(
    r"[.!?…)\]}\"'\u00bb\u201d\u2019*`>|"
    r"\u3002\uff01\uff1f\uff0e\uff61\u0964\u0965\u061f\u06d4\u300d\u300f\uff09\u3011\u300b"
    r"\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]\s*\Z"
)
"""What a text ends with that was not cut: a mark that closes a sentence, or what it is in; a table, or an emoji.

The second line has the marks of Chinese, Japanese, Hindi, Arabic and Urdu.
"""


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


class InstructionFollowing(Rules):
    """Prefers the response that follows more of its prompt's instructions; without any, all responses tie."""

    def __init__(self, name: str, known: Mapping[str, Instructions]) -> None:
        """Judge by checks.

        Args:
            name: identity for reports.
            known: the instructions of each prompt, by its text without space around it.
        """
        super().__init__(name, self._share_followed)
        self.known = known
        self._without = 0

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`: responses scored, and how many of them to a prompt without instructions."""
        return super().figures() | {"without_instructions": float(self._without)}

    def _share_followed(self, prompt: str, response: str) -> float:
        asked = self.known.get(prompt.strip())
        if asked is None:
            self._without += 1
            return 0.0
        followed = follows(prompt, response, asked.instruction_id_list, asked.values)
        return FOLLOWED * followed.count(True) / len(followed)


@contextmanager
def instructions_file(uri: str) -> Iterator[Path]:
    """The local file of `instructions:FILE`, while it is read.

    Raises:
        ConfigError: if there is none.
    """
    place = uri.partition(":")[2]
    if place == "package:sppo":
        with bundled("verifiable.jsonl") as path:
            yield path
    else:
        absent = "no such file; give a .jsonl file with prompt, instruction_id_list and kwargs, or package:sppo"
        yield fetch_file(place, f"{uri}: {absent}")


def load_instructions(uri: str) -> InstructionFollowing:
    """The judge that `instructions:FILE` names.

    Raises:
        ConfigError: if the file is missing or wrong.
    """
    with instructions_file(uri) as path:
        known = {row.prompt.strip(): row for _, row in read_instructions(path, uri)}
        return InstructionFollowing(f"{uri} ({file_sha256(path)[:12]})", known)


def ends(response: str) -> bool:
    """Whether a response ends as a text does, and does not break off in the middle of a sentence."""
    return bool(ENDS.search(response))
