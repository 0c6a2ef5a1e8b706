"""What each iteration of a run will do: prompts, responses, tokens, judge passes and steps, told before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sppo.config.run import RunConfig
from sppo.errors import SppoError
from sppo.judging.registry import kind_of
from sppo.preparing.datasets import count_rows
from sppo.preparing.prompts import Counts, clean_all, read_prompts

UNKNOWN = "not known from here"


def workload(config: RunConfig) -> dict[str, Any]:
    """The work of each iteration, as far as it can be told before it is prepared.

    Prompts that prepare drops, and those that give no pair, make it less; so does a gate that ends the run.

    Returns:
        `iterations`: numbers of each; `notes`: why a number is not known or an upper bound.
    """
    notes: dict[str, str] = {}
    prompts = _prompts(config, notes)
    passes = _passes(config, notes)
    counted = [_iteration(config, t, count, passes) for t, count in enumerate(prompts, start=1)]
    return {"iterations": counted, **({"notes": notes} if notes else {})}


def _iteration(config: RunConfig, number: int, prompts: int | None, passes: int) -> Mapping[str, Any]:
    settings, train = config.generate, config.train
    each = {
        "responses": settings.responses,
        "tokens": settings.responses * settings.max_tokens,
        "judge passes": passes,
    }
    if prompts is None:
        return {"iteration": number, "prompts": UNKNOWN, "of each prompt": {**each, "pairs": 1}}
    numbers = {name: count * prompts for name, count in each.items()}
    steps = train.epochs * -(-prompts // train.global_batch)
    return {"iteration": number, "prompts": prompts, **numbers, "steps": steps}


def _prompts(config: RunConfig, notes: dict[str, str]) -> list[int | None]:
    """How many prompts each iteration plays; None where the places cannot be read from here."""
    wanted, iterations = config.prepare, config.iterations
    notes["tokens"] = "at most: every response as long as generate.max_tokens allows"
    if wanted.prompts_per_iteration:
        return [wanted.prompts_per_iteration] * iterations
    notes["prompts"] = "at most: prepare drops those that are too long or hold special tokens"
    try:
        rows = _rows(config)
    except (SppoError, ImportError) as error:  # the extra `pipeline` has no library that asks hubs
        notes["prompts"] = f"{UNKNOWN} ({error}); prepare.prompts_per_iteration would set them"
        return [None] * iterations
    left = [rows[0] - wanted.held_out, *rows[1:]]
    return [max(each, 0) for each in left] if len(rows) > 1 else [max(left[0], 0) // iterations] * iterations


def _rows(config: RunConfig) -> list[int]:
    """Rows of each place: a hub says how many, other places are read, and repeats left out."""
    sets, split = config.prompt_sets(), config.prepare.split
    if all(uri.startswith("hf://") for uri in sets):
        return [count_rows(uri, split) for uri in sets]
    cleaned = clean_all((read_prompts(uri, config.prepare) for uri in sets), Counts())
    return [sum(prompt.source == source for prompt in cleaned) for source in range(len(sets))]


def _passes(config: RunConfig, notes: dict[str, str]) -> int:
    """How often the judge is asked about a prompt's responses; an upper bound where its kind cannot be looked up."""
    uri, responses = config.preference_model, config.generate.responses
    try:
        return kind_of(uri).passes(uri, config.judge, responses)
    except (SppoError, ImportError) as error:
        notes["judge passes"] = f"at most: what kind of judge this is, is {UNKNOWN} ({error})"
        return responses * (responses - 1)
