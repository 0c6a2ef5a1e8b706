"""Rank: the preference model judges every pair of responses, and some become a training pair with soft targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sppo.algorithm.probability import mean_logits, probabilities, win_probabilities, without_length
from sppo.algorithm.selections.base import Ranked, select
from sppo.config.plugins import SELECTIONS
from sppo.config.run import RunConfig
from sppo.config.sections.rank import RankConfig
from sppo.errors import RunFailedError
from sppo.judging import diagnostics
from sppo.judging.load import judge_digest, load_judge
from sppo.judging.similarity import check_similarity, similarities
from sppo.models.fetch import fetch_model
from sppo.preparing.chunks import chunks
from sppo.progress import heartbeat
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import file_sha256
from sppo.store.lineage import Lineage
from sppo.store.once import run_once
from sppo.store.opening import open_store


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
    digest = Lineage(config, store).rank(iteration)
    key = keys.preferences_shard(iteration, digest, shard, shards)
    inputs = {
        "stage": digest,
        "responses": file_sha256(responses),
        "judge": judge_digest(config.preference_model, config.judge),
    }
    run_once(store, key, inputs, lambda output: _rank(config, iteration, responses, output))
    return store.fetch(key)


def figures(per_shard: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The ranking figures of an iteration from the sums that its shards counted."""
    total = diagnostics.add(per_shard)
    pairs = max(total["pairs"], 1.0)
    return {
        "rank/seconds": total["seconds"],
        "rank/comparisons_per_second": total["judge/asked"] / max(total["seconds"], 1e-9),
        **diagnostics.figures(total),
        **{name: value for name, value in total.items() if name.startswith("judge/")},
        "pairs/kept_fraction": total["pairs"] / max(total["prompts"], 1.0),
        "pairs/mean_p_chosen": total["p_chosen"] / pairs,
        "pairs/mean_p_rejected": total["p_rejected"] / pairs,
        "pairs/chosen_length": total["chosen_tokens"] / pairs,
        "pairs/rejected_length": total["rejected_tokens"] / pairs,
        "pairs/length_gap": (total["chosen_tokens"] - total["rejected_tokens"]) / pairs,
    }


def distribution(per_shard: Sequence[Mapping[str, float]]) -> list[float]:
    """The distribution of P over an iteration's comparisons; see `sppo.judging.diagnostics.distribution`."""
    return diagnostics.distribution(diagnostics.add(per_shard))


def _rank(config: RunConfig, iteration: int, responses: Path, output: Path) -> Mapping[str, float]:
    groups = group_by_prompt(tables.read(responses, tables.RESPONSES))
    check_similarity(config.rank)
    print(f"judging {len(groups)} prompts with {config.preference_model}", flush=True)
    judge = load_judge(config.preference_model, config.judge)
    preferences: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    shown = _shown(config)
    seconds = 0.0
    # Chunk by chunk, as they were generated: in bfloat16 a logit's last digits depend on what is judged with it, the
    # length correction on what it is fitted to, and chunks do not depend on the number of shards.
    with heartbeat("judging"):
        for chunk in chunks(groups, config.generate.chunk_size):
            start = time.monotonic()
            logits = judge.logits([shown(g[0]["prompt"]) for g in chunk], [[row["text"] for row in g] for g in chunk])
            seconds += time.monotonic() - start
            of_chunk = estimate(config, iteration, chunk, logits)
            preferences += of_chunk[0]
            pairs += of_chunk[1]
    tables.write(output / keys.PREFERENCES_FILE, tables.PREFERENCES, preferences)
    tables.write(output / keys.PAIRS_FILE, tables.PAIRS, pairs)
    judge.save(output)
    costs = judge.tracked()
    asked, known = costs["judge/asked"], costs["judge/cached"]
    print(f"{asked:.0f} comparisons in {seconds:.1f} s, {known:.0f} known already, {len(pairs)} pairs", flush=True)
    for member in _without_opinion(config, costs):
        print(f"warning: {member} knows none of these prompts, so that all responses tie by it", flush=True)
    return {**_count(groups, preferences, pairs), **costs, "seconds": seconds}


def _without_opinion(config: RunConfig, costs: Mapping[str, float]) -> Iterator[str]:
    """Members of a mixture that check instructions, none of which any prompt has."""
    for number, uri in enumerate(config.rankers(), start=1):
        without = costs.get(f"judge/member_{number}_without_instructions", 0)
        if without and without == costs[f"judge/member_{number}_scored"]:
            yield uri


def _shown(config: RunConfig) -> Callable[[str], str]:
    """What the judge sees of a prompt (`rank.prompt`)."""
    if config.rank.prompt == "plain":
        return lambda prompt: prompt
    from sppo.preparing.chat import load_tokenizer, render_prompt

    tokenizer = load_tokenizer(fetch_model(config.base_model, weights=False))
    return lambda prompt: render_prompt(tokenizer, prompt)


def group_by_prompt(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of `tables.RESPONSES`, which lie prompt by prompt, as one list a prompt."""
    return [list(group) for _, group in groupby(rows, key=lambda row: row["prompt_id"])]


def estimate(
    config: RunConfig, iteration: int, groups: Sequence[Sequence[dict[str, Any]]], logits: Sequence[np.ndarray]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Probabilities and pairs of a chunk of prompts: rows of `tables.PREFERENCES` and of `tables.PAIRS`.

    Raises:
        RunFailedError: naming the prompt for which the preference model gave no finite logit.
    """
    for group, matrix in zip(groups, logits, strict=True):
        if not np.isfinite(matrix).all():
            raise RunFailedError(
                f"{config.preference_model}: a logit is not finite for prompt {group[0]['prompt_id']}; "
                "try judge.dtype=float32"
            )
    used = logits
    if config.rank.length_corrected:
        used = without_length(logits, [[len(row["token_ids"]) for row in group] for group in groups])
    preferences, pairs = [], []
    for group, raw, matrix in zip(groups, logits, used, strict=True):
        prompt_id, texts = group[0]["prompt_id"], [row["text"] for row in group]
        pairwise = probabilities(
            matrix,
            texts,
            config.rank.estimator,
            config.rank.temperature,
            config.rank.soft_duplicates,
            similarities(config.rank.similarity),
        )
        win = win_probabilities(pairwise)
        preferences.append(
            {
                "prompt_id": prompt_id,
                "responses": len(group),
                "logits": raw.ravel().tolist(),
                "probabilities": pairwise.ravel().tolist(),
                "win_probabilities": win.tolist(),
            }
        )
        seed = derive_seed(config.seed, "select", iteration, prompt_id)
        pair = build_pair(group, win, mean_logits(matrix), config.rank, seed)
        if pair is not None:
            pairs.append(pair)
    return preferences, pairs


def build_pair(
    responses: Sequence[dict[str, Any]], win: np.ndarray, scores: np.ndarray, config: RankConfig, seed: int
) -> dict[str, Any] | None:
    """A row of `tables.PAIRS` from a prompt's rows of `tables.RESPONSES`, or None where it is left out.

    Args:
        responses: K rows.
        win: P(y_i > pi_t | x), shape (K,).
        scores: mean logits, shape (K,).
        config: which selection, and what it reads.
        seed: of random choices.
    """
    texts, lengths = [each["text"] for each in responses], [len(each["token_ids"]) for each in responses]
    selected = select(SELECTIONS.load(config.selection), Ranked(win, scores, texts, lengths, seed), config)
    if selected is None:
        return None
    best, worst, others = selected
    row = {name: responses[0][name] for name in ("prompt_id", "prompt", "prompt_ids")}
    for role, index in (("chosen", best), ("rejected", worst)):
        response = responses[index]
        row |= {
            role: response["text"],
            f"{role}_index": index,
            f"p_{role}": float(win[index]),
            f"{role}_ids": response["token_ids"],
            f"{role}_logprobs": response["logprobs"],
        }
    return row | {
        "other_indices": others,
        "p_others": [float(win[index]) for index in others],
        "other_ids": [responses[index]["token_ids"] for index in others],
        "other_logprobs": [responses[index]["logprobs"] for index in others],
    }


def _count(
    groups: Sequence[Sequence[dict[str, Any]]], preferences: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Sums over a shard; fractions are taken over all shards together, in `figures`."""
    counted = []
    for group, row in zip(groups, preferences, strict=True):
        logits, pairwise = (np.array(row[name]).reshape(len(group), -1) for name in ("logits", "probabilities"))
        lengths = [len(response["token_ids"]) for response in group]
        counted.append(diagnostics.count(logits, pairwise, [response["text"] for response in group], lengths))
    return {
        **diagnostics.add(counted),
        "prompts": float(len(groups)),
        "pairs": float(len(pairs)),
        "p_chosen": float(sum(pair["p_chosen"] for pair in pairs)),
        "p_rejected": float(sum(pair["p_rejected"] for pair in pairs)),
        "chosen_tokens": float(sum(len(pair["chosen_ids"]) for pair in pairs)),
        "rejected_tokens": float(sum(len(pair["rejected_ids"]) for pair in pairs)),
    }
