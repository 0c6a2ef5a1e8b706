"""Evaluate: the new policy against the previous one and the base model, on prompts that nobody trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sppo.config.run import RunConfig
from sppo.evaluation.contests import Answers, hold_contests
from sppo.evaluation.gate import EXPORT_SLOPE, decide
from sppo.evaluation.ifeval import answer_instructions, instruction_figures
from sppo.judging.load import judge_digest
from sppo.models.fetch import fetch_policy
from sppo.progress import heartbeat
from sppo.sampling.engine import Sampling
from sppo.sampling.load import LazyEngine
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import Manifest, Store, file_sha256
from sppo.store.once import check_made_from, run_once
from sppo.store.opening import open_store


@dataclass(frozen=True)
class Evaluation:
    """What an iteration's evaluation found."""

    decision: str
    reason: str
    best_uri: str
    figures: dict[str, float]
    folder: Path


def evaluate(config: RunConfig, iteration: int, model_uri: str, previous_uri: str, held_out: Path) -> Evaluation:
    """Measure pi_{t+1} against pi_t and pi_1, decide whether to go on, and commit both.

    Args:
        config: the run's resolved configuration.
        iteration: t, from 1.
        model_uri: where pi_{t+1} is.
        previous_uri: where pi_t is.
        held_out: the held-out prompts table; that of the verifiable instructions lies beside it, as prepare wrote it.
    """
    store = open_store(config.output_uri)
    uris = {"new": model_uri, "previous": previous_uri, "base": config.base_model}
    policies = {role: fetch_policy(uri) for role, uri in uris.items()}
    digests = {role: policy.digest() for role, policy in policies.items()}
    check_made_from(store, keys.model(iteration), ("reference",), digests["previous"], previous_uri)
    common = {"config": config.digest(), "held_out": file_sha256(held_out)}
    instructions = held_out.with_name(keys.INSTRUCTIONS_FILE)
    measured = config.evaluate.instructions.count > 0
    if measured:
        common["instructions"] = file_sha256(instructions)
    inputs = {**common, **digests, "judge": judge_digest(config.preference_model, config.judge)}
    if config.evaluate.second_judge:
        inputs["second_judge"] = judge_digest(config.evaluate.second_judge, config.judge)

    def work(output: Path) -> Mapping[str, float]:
        prompts = tables.read(held_out, tables.PROMPTS)
        answers, checked = {}, {}
        for role, policy in policies.items():
            engine, made_from = LazyEngine(policy, config), {**common, "model": digests[role]}
            answers[role] = _answers(config, store, engine, made_from, prompts)
            if measured:
                checked[role] = answer_instructions(config, store, engine, made_from, instructions)
            engine.close()
        figures = hold_contests(config, prompts, answers, output)
        if measured:
            figures |= instruction_figures(config, checked["new"], checked["base"])
        trained = store.manifest(keys.model(iteration))
        slope = trained.figures.get(EXPORT_SLOPE) if trained else None
        verdict = decide(config, iteration, figures if slope is None else {**figures, EXPORT_SLOPE: slope})
        best = previous_uri if verdict.decision == "keep-previous" else model_uri
        (output / keys.VERDICT_FILE).write_text(
            json.dumps(
                {
                    "iteration": iteration,
                    "decision": verdict.decision,
                    "reason": verdict.reason,
                    "export_slope": slope,
                    "best_uri": best,
                    **{f"{role}_uri" if role != "new" else "model_uri": uri for role, uri in uris.items()},
                    "answers": {role: answer.key for role, answer in answers.items()},
                },
                indent=1,
            )
        )
        print(f"iteration {iteration}: {verdict.decision}: {verdict.reason}", flush=True)
        return {**figures, "gate/continue": float(verdict.decision == "continue")}

    manifest = run_once(store, keys.evaluation(iteration), inputs, work)
    return _read(store, iteration, manifest)


def _read(store: Store, iteration: int, manifest: Manifest) -> Evaluation:
    folder = store.fetch(keys.evaluation(iteration))
    verdict = json.loads((folder / keys.VERDICT_FILE).read_text())
    return Evaluation(verdict["decision"], verdict["reason"], verdict["best_uri"], dict(manifest.figures), folder)


def _answers(
    config: RunConfig, store: Store, engine: LazyEngine, inputs: Mapping[str, str], prompts: Sequence[dict[str, Any]]
) -> Answers:
    """A model's answers; each model answers once in a run, whichever iterations ask for it."""
    key = keys.answers(inputs["model"])
    run_once(store, key, inputs, lambda output: _answer(config, engine, prompts, output))
    rows = tables.read(store.fetch(key) / keys.ANSWERS_FILE, tables.ANSWERS)
    samples = max(row["sample"] for row in rows) + 1
    grouped = [rows[i : i + samples] for i in range(0, len(rows), samples)]
    return Answers(
        key,
        [[row["text"] for row in group] for group in grouped],
        np.array([[row["tokens"] for row in group] for group in grouped], dtype=np.float64),
    )


def _answer(
    config: RunConfig, engine: LazyEngine, prompts: Sequence[dict[str, Any]], output: Path
) -> Mapping[str, float]:
    wanted = config.evaluate
    loaded = engine.load()
    sampling = Sampling(wanted.samples, wanted.temperature, wanted.top_p, wanted.max_tokens)
    seeds = [derive_seed(config.seed, "evaluate", row["prompt_id"]) for row in prompts]
    with heartbeat(f"answering {len(prompts)} held-out prompts {wanted.samples} times"):
        sampled = loaded.sample([row["prompt_ids"] for row in prompts], sampling, seeds)
    rows = [
        {
            "prompt_id": row["prompt_id"],
            "prompt": row["prompt"],
            "sample": index,
            "text": response.text,
            "tokens": len(response.token_ids),
        }
        for row, responses in zip(prompts, sampled, strict=True)
        for index, response in enumerate(responses)
    ]
    tables.write(output / keys.ANSWERS_FILE, tables.ANSWERS, rows)
    return {"eval/mean_length": float(np.mean([row["tokens"] for row in rows]))}
