"""Packing: prompts with their responses in one row of tokens, without padding and with each prompt once.

A row is prompt, responses, next prompt, its responses, and so on. A response sees its prompt and itself, never a
sibling and never another prompt (`sppo.models.network.attention`); its positions go on from the prompt's end. So the
row computes what as many separate sequences would, and every token of it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Item = TypeVar("Item")
Groups = tuple[tuple[int, tuple[int, ...]], ...]
"""Tokens of each prompt of a row, and of each of its responses."""


@dataclass(frozen=True)
class Group:
    """A prompt and its responses, as token ids; no response is empty."""

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        """Tokens that it takes in a row."""
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True)
class Row:
    """A packed row of N tokens, R of them in responses.

    Attributes:
        ids: tokens, shape (1, N).
        positions: of each token in its own sequence, shape (1, N).
        groups: tokens of each prompt and of its responses, in the order of the row.
        predicting: the place in the row whose hidden state predicts each response token, shape (R,).
        targets: the response tokens, shape (R,).
    """

    ids: torch.Tensor
    positions: torch.Tensor
    groups: Groups
    predicting: torch.Tensor
    targets: torch.Tensor

    @property
    def response_lengths(self) -> list[int]:
        """Tokens of every response, in the order of the row."""
        return [length for _, lengths in self.groups for length in lengths]


def pack(groups: Sequence[Group], device: torch.device) -> Row:
    """Lay groups out in one row."""
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    for group in groups:
        last = len(ids) + len(group.prompt) - 1
        ids += group.prompt
        positions += range(len(group.prompt))
        for response in group.responses:
            # The prompt's last token predicts the first token of each of its responses.
            predicting += [last, *range(len(ids), len(ids) + len(response) - 1)]
            targets += response
            positions += range(len(group.prompt), len(group.prompt) + len(response))
            ids += response
    return Row(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        groups=tuple((len(group.prompt), tuple(map(len, group.responses))) for group in groups),
        predicting=torch.tensor(predicting, device=device),
        targets=torch.tensor(targets, device=device),
    )


def within_budget(items: Sequence[Item], size: Callable[[Item], int], budget: int) -> Iterator[list[Item]]:
    """Cut items, in their order, into runs of at most `budget` tokens; a larger item is a run of its own."""
    run: list[Item] = []
    room = budget
    for item in items:
        if run and size(item) > room:
            yield run
            run, room = [], budget
        run.append(item)
        room -= size(item)
    if run:
        yield run
