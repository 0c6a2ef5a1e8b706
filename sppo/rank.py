"""Rank: the preference model judges every pair of responses, and the best and worst become a training pair."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sppo import layout, tables
from sppo.config import RunConfig
from sppo.errors import RunFailedError
from sppo.generate import chunks
from sppo.pairs import build_pair
from sppo.preference import judge_digest, load_judge
from sppo.probability import intransitive_triads, probabilities, win_probabilities
from sppo.progress import heartbeat
from sppo.store import file_sha256, open_store, run_once


def rank(config: RunConfig, iteration: int, shard: int, shards: int, responses: Path) -> Path:
    """Judge a shard of responses and commit its preferences and pairs.

    Args:
        config: the run's resolved configuration.
        iteration: t, from 1.
        shard: which shard, from 0.
        shards: how many shards share the iteration.
        responses: the shard's responses table.

    Returns:
        A local folder with `preferences.parquet` and `pairs.parquet`.
    """
    store = open_store(config.output_uri)
    key = layout.preferences(iteration, shard, shards)
    inputs = {
        "config": config.digest(),
        "responses": file_sha256(responses),
        "judge": judge_digest(config.preference_model, config.judge),
    }
    run_once(store, key, inputs, lambda output: _rank(config, responses, output))
    return store.fetch(key)


def figures(per_shard: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The ranking figures of an iteration from the sums that its shards counted."""
    total = {name: sum(shard[name] for shard in per_shard) for name in per_shard[0]}
    pairs = max(total["pairs"], 1.0)
    return {
        "rank/seconds": total["seconds"],
        "rank/comparisons_per_second": total["comparisons"] / max(total["seconds"], 1e-9),
        "rank/saturation": 2 * float(np.sqrt(total["squared_margin"] / max(total["entries"], 1.0))),
        "rank/duplicate_fraction": total["duplicates"] / max(total["responses"], 1.0),
        "rank/intransitive_fraction": total["cycles"] / max(total["triads"], 1.0),
        "pairs/kept_fraction": total["pairs"] / max(total["prompts"], 1.0),
        "pairs/mean_p_chosen": total["p_chosen"] / pairs,
        "pairs/mean_p_rejected": total["p_rejected"] / pairs,
        "pairs/length_gap": total["length_gap"] / pairs,
    }


def _rank(config: RunConfig, responses: Path, output: Path) -> Mapping[str, float]:
    groups = group_by_prompt(tables.read(responses, tables.RESPONSES))
    print(f"judging {len(groups)} prompts with {config.preference_model}", flush=True)
    judge = load_judge(config.preference_model, config.judge)
    start = time.monotonic()
    logits: list[np.ndarray] = []
    with heartbeat("judging"):
        # Chunk by chunk, as they were generated: in bfloat16 a logit's last digits depend on what is judged with it,
        # and chunks do not depend on the number of shards.
        for chunk in chunks(groups, config.generate.chunk_size):
            logits += judge.logits([g[0]["prompt"] for g in chunk], [[row["text"] for row in g] for g in chunk])
    seconds = time.monotonic() - start
    preferences, pairs = estimate(config, groups, logits)
    tables.write(output / layout.PREFERENCES_FILE, tables.PREFERENCES, preferences)
    tables.write(output / layout.PAIRS_FILE, tables.PAIRS, pairs)
    counted = _count(groups, preferences, pairs)
    print(f"{counted['comparisons']:.0f} comparisons in {seconds:.1f} s, {len(pairs)} pairs", flush=True)
    return {**counted, "seconds": seconds}


def group_by_prompt(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of `tables.RESPONSES`, which lie prompt by prompt, as one list a prompt."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row["prompt_id"])]


def estimate(
    config: RunConfig, groups: Sequence[Sequence[dict[str, Any]]], logits: Sequence[np.ndarray]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Probabilities and pairs of all prompts: rows of `tables.PREFERENCES` and of `tables.PAIRS`.

    Raises:
        RunFailedError: naming the prompt for which the preference model gave no finite logit.
    """
    preferences, pairs = [], []
    for group, matrix in zip(groups, logits, strict=True):
        if not np.isfinite(matrix).all():
            raise RunFailedError(
                f"{config.preference_model}: a logit is not finite for prompt {group[0]['prompt_id']}; "
                "try judge.dtype=float32"
            )
        texts = [row["text"] for row in group]
        pairwise = probabilities(matrix, texts, config.rank.estimator, config.rank.temperature)
        win = win_probabilities(pairwise)
        preferences.append(
            {
                "prompt_id": group[0]["prompt_id"],
                "responses": len(group),
                "logits": matrix.ravel().tolist(),
                "probabilities": pairwise.ravel().tolist(),
                "win_probabilities": win.tolist(),
            }
        )
        pair = build_pair(group, win)
        if pair is not None:
            pairs.append(pair)
    return preferences, pairs


def _count(
    groups: Sequence[Sequence[dict[str, Any]]], preferences: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Sums over a shard; fractions are taken over all shards together, in `figures`."""
    total: dict[str, float] = dict.fromkeys(
        ("squared_margin", "entries", "cycles", "triads", "comparisons", "duplicates", "responses"), 0.0
    )
    for group, row in zip(groups, preferences, strict=True):
        count = len(group)
        pairwise = np.array(row["probabilities"]).reshape(count, count)
        margins = pairwise[~np.eye(count, dtype=bool)] - 0.5
        cycles, triads = intransitive_triads(pairwise)
        total["squared_margin"] += float((margins**2).sum())
        total["entries"] += count * (count - 1)
        total["comparisons"] += count * (count - 1)
        total["cycles"] += cycles
        total["triads"] += triads
        total["duplicates"] += count - len({r["text"] for r in group})
        total["responses"] += count
    total["prompts"] = float(len(groups))
    total["pairs"] = float(len(pairs))
    total["p_chosen"] = float(sum(pair["p_chosen"] for pair in pairs))
    total["p_rejected"] = float(sum(pair["p_rejected"] for pair in pairs))
    total["length_gap"] = float(sum(len(pair["chosen_ids"]) - len(pair["rejected_ids"]) for pair in pairs))
    return total
