"""A language model as the judge: it is shown two responses, and the first token of its reply is the verdict."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sppo.judging.preference_model import Comparison

TRANSCRIPT = "transcript.jsonl"
LETTERS = ("A", "B")
MESSAGE = """Two assistants replied to the same message. Which reply is better: more helpful, more correct, and closer \
to what was asked for?

<message>
{prompt}
</message>

<reply A>
{first}
</reply A>

<reply B>
{second}
</reply B>

Which of the two is shown first does not matter, and a longer reply is not better for its length. Reply with one \
letter and nothing else: A or B."""

FLOOR = -30.0
"""Log-probabilities below are taken for this one: endpoints write anything from -100 to -9999 for "hardly ever"."""
_AROUND_A_LETTER = " \t\r\n▁ĠĊ\"'`*_([{<)]}>.:"
"""What may stand around a letter in one token, including how vocabularies write spaces and newlines."""


def letter_of(token: str) -> str | None:
    """Which letter a token says, if any: " A" and "**A" say A, "An" and "a" do not."""
    bare = token.strip(_AROUND_A_LETTER)
    return bare if bare in LETTERS else None


@dataclass(frozen=True)
class Reply:
    """How likely a model's reply begins with each letter.

    Attributes:
        logprobs: log-probability of each letter in nats, all its spellings together; without a letter that is not among
            the tokens that are known.
        bound: no unknown token is more likely than this, in nats.
        prompt_tokens: what the model read.
        completion_tokens: what it wrote.
    """

    logprobs: dict[str, float]
    bound: float
    prompt_tokens: int
    completion_tokens: int

    @property
    def logit(self) -> float:
        """log P(A) - log P(B); where one of them is only bounded, nearer to 0 than the truth; 0 if both are."""
        if not self.logprobs:
            return 0.0
        a, b = (max(self.logprobs.get(letter, self.bound), FLOOR) for letter in LETTERS)
        return a - b


def read_letters(tokens: Iterable[tuple[str, float]]) -> tuple[dict[str, float], float]:
    """`Reply.logprobs` and `Reply.bound` from the most likely tokens with their log-probabilities."""
    listed = list(tokens)
    spelled: dict[str, list[float]] = {}
    for token, logprob in listed:
        letter = letter_of(token)
        if letter is not None:
            spelled.setdefault(letter, []).append(max(logprob, FLOOR))
    together = {letter: float(np.logaddexp.reduce(values)) for letter, values in spelled.items()}
    return together, min((logprob for _, logprob in listed), default=0.0)


class Asker(Protocol):
    """A language model that can be asked for the first token of its replies."""

    name: str

    def ask(self, messages: Sequence[str]) -> Iterator[tuple[int, Reply]]:
        """The replies to messages of a user, each with the message's number, in any order.

        Raises:
            SppoError: once all replies that came are given.
        """
        ...

    def figures(self) -> dict[str, float]:
        """Sums of what asking cost."""
        ...


class LlmJudge:
    """A language model, ready to judge; implements `PreferenceModel` and `OneByOne`."""

    def __init__(self, asker: Asker, max_characters: int) -> None:
        """Judge by asking.

        Args:
            asker: the language model.
            max_characters: longer prompts and responses are cut to this length.
        """
        self.name, self.asker, self.max_characters = asker.name, asker, max_characters
        self._transcript: list[dict[str, Any]] = []
        self._sums = dict.fromkeys(("undecided", "letter_mass", "prompt_tokens", "completion_tokens"), 0.0)

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`."""
        logits = np.full(len(comparisons), np.nan, np.float32)
        for row, logit in self.one_by_one(comparisons):
            logits[row] = logit
        return logits

    def one_by_one(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[int, float]]:
        """See `OneByOne.one_by_one`; raises what the asker raises, once all replies that came are given."""
        messages = [self.message(each) for each in comparisons]
        for row, reply in self.asker.ask(messages):
            self._note(comparisons[row], messages[row], reply)
            yield row, reply.logit

    def message(self, comparison: Comparison) -> str:
        """What the model is shown."""
        prompt, first, second = (self._cut(text) for text in comparison)
        return MESSAGE.format(prompt=prompt, first=first, second=second)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`.

        Returns:
            undecided: comparisons whose reply began with neither letter, as far as is known.
            letter_mass: the sum of P(A) + P(B); far below one a comparison, the model does not reply as it is asked to.
            prompt_tokens: that it read.
            completion_tokens: that it wrote.
        """
        return {**self._sums, **self.asker.figures()}

    def save(self, folder: Path) -> None:
        """Write every comparison with its verdict to `transcript.jsonl`, in the order in which the replies came."""
        lines = (json.dumps(entry) + "\n" for entry in self._transcript)
        (folder / TRANSCRIPT).write_text("".join(lines), encoding="utf-8")

    def _cut(self, text: str) -> str:
        return text if len(text) <= self.max_characters else text[: self.max_characters] + " [cut]"

    def _note(self, comparison: Comparison, message: str, reply: Reply) -> None:
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        for name, tokens in usage.items():
            self._sums[name] += tokens
        self._sums["undecided"] += not reply.logprobs
        self._sums["letter_mass"] += sum(math.exp(logprob) for logprob in reply.logprobs.values())
        self._transcript.append(
            {
                "message_sha256": hashlib.sha256(message.encode("utf-8", "surrogatepass")).hexdigest(),
                **comparison._asdict(),
                "logprobs": reply.logprobs,
                "logit": reply.logit,
                **usage,
            }
        )
