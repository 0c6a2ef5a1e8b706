"""Cutting pairs to the tokens that are trained on (`train.max_tokens`, docs/training.md)."""

from __future__ import annotations

from collections.abc import Sequence

from sppo.config.sections.train import TrainConfig
from sppo.training.update import Pair, group_of, reference_of


def cut(pairs: Sequence[Pair], config: TrainConfig) -> tuple[list[Pair], int]:
    """The pairs as they are trained on, and how many of them were cut.

    A prompt loses its beginning and a response its end, where the prompt and the longest of its responses are too long
    together. After a cut prompt the sampler's log-probabilities no longer hold: they are left empty, for the audit to
    compute.

    Args:
        pairs: rows of `tables.PAIRS`.
        config: `max_tokens`, and how to cut.
    """
    if not config.max_tokens:
        return list(pairs), 0
    done = [_cut(pair, config.max_tokens, config.cut == "halves") for pair in pairs]
    return done, sum(new is not old for new, old in zip(done, pairs, strict=True))


def has_reference(pair: Pair) -> bool:
    """Whether the sampler's log-probabilities of a pair's responses hold."""
    return all(reference_of(pair))


def _cut(pair: Pair, limit: int, halves: bool) -> Pair:
    """As `tokenize_row` of github.com/uclaml/SPPO (sppo/trainer.py) cuts into halves: at 1024, of a prompt at 512."""
    group = group_of(pair)
    longest = max(map(len, group.responses))
    if len(group.prompt) + longest <= limit:
        return pair
    half = limit // 2
    kept = half if halves else max(half, limit - longest)
    prompt = group.prompt[-kept:]
    room = longest
    if len(prompt) + longest > limit:
        room = limit - half if halves else limit - len(prompt)
    whole = len(prompt) == len(group.prompt)
    chosen, rejected, *others = ([*values[:room]] if whole else [] for values in reference_of(pair))
    return pair | {
        "prompt_ids": prompt,
        "chosen_ids": pair["chosen_ids"][:room],
        "rejected_ids": pair["rejected_ids"][:room],
        "other_ids": [ids[:room] for ids in pair["other_ids"]],
        "chosen_logprobs": chosen,
        "rejected_logprobs": rejected,
        "other_logprobs": others,
    }
