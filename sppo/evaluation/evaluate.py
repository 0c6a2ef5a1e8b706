"""Evaluate: the new policy against the previous one and the base model, on prompts that nobody trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sppo.config.run import RunConfig
from sppo.config.sections.evaluate import JUDGES
from sppo.evaluation.contests import Answers, hold_contests
from sppo.evaluation.gate import EXPORT_SLOPE, decide
from sppo.evaluation.ifeval import answer_instructions, expect_instructions, final_figures, instruction_figures
from sppo.judging.load import judge_digest
from sppo.models.fetch import policy_digest
from sppo.progress import heartbeat
from sppo.sampling.engine import Sampling
from sppo.sampling.load import LazyEngine, context_of
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import Manifest, Store, file_sha256
from sppo.store.lineage import GOES_ON, Lineage
from sppo.store.once import check_made_from, run_once
from sppo.store.opening import open_store

PROBABILITY = "eval/mean_probability_vs_base"


@dataclass(frozen=True)
class Evaluation:
    """What an iteration's evaluation found."""

    decision: str
    reason: str
    policy_uri: str
    """The policy that the gate keeps, with which a next iteration begins."""
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
    digests = {role: policy_digest(uri) for role, uri in uris.items()}
    lineage = Lineage(config, store)
    check_made_from(store, lineage.model_key(iteration), ("reference",), digests["previous"], previous_uri)
    asked = {"held_out": file_sha256(held_out)}
    instructions = held_out.with_name(keys.INSTRUCTIONS_FILE)
    wanted = config.evaluate.instructions
    if wanted.kept:
        asked["instructions"] = file_sha256(instructions)
    inputs = {"stage": lineage.evaluate(iteration), **asked, **digests}
    inputs["judge"] = judge_digest(config.preference_model, config.judge)
    for name, uri in zip(JUDGES, config.evaluate.second_judge, strict=False):
        inputs[f"{name}_judge"] = judge_digest(uri, config.judge)

    def work(output: Path) -> Mapping[str, float]:
        prompts = tables.read(held_out, tables.PROMPTS)
        context = context_of(prompts, config.evaluate.max_tokens)
        verifiable = tables.read(instructions, tables.INSTRUCTIONS) if wanted.kept else []
        if verifiable:
            context = max(context, context_of(verifiable, wanted.max_tokens))
        # Room for the held-out prompts at their longest: most answers are short, so that it holds many more of them.
        room = len(prompts)
        answers, checked = {}, {}
        for role, uri in uris.items():
            engine = LazyEngine(uri, config.generate, context, room)
            of_model = (config, lineage, engine, digests[role])
            if wanted.count:
                expect_instructions(*of_model, verifiable, wanted.count)
            answers[role] = _answers(*of_model, prompts)
            if wanted.count:
                checked[role] = answer_instructions(*of_model, verifiable, wanted.count)
            engine.close()
        figures = hold_contests(config, prompts, answers, output)
        if wanted.count:
            figures |= instruction_figures(config, checked["new"], checked["base"])
        trained = store.manifest(lineage.model_key(iteration))
        slope = trained.figures.get(EXPORT_SLOPE) if trained else None
        verdict = decide(config, iteration, figures if slope is None else {**figures, EXPORT_SLOPE: slope})
        kept = verdict.decision != "keep-previous"
        new = Best(iteration, model_uri, figures[PROBABILITY])
        best = _best(lineage, iteration, new if kept else None)
        if verdict.decision != GOES_ON and wanted.final:
            last, known = [], {uri: digests[role] for role, uri in uris.items()}
            for uri in (best.uri, config.base_model):
                engine = LazyEngine(uri, config.generate, context, room)
                of_model = (config, lineage, engine, known.get(uri) or policy_digest(uri))
                last.append(answer_instructions(*of_model, verifiable, wanted.final))
                engine.close()
            figures |= final_figures(config, verifiable[: wanted.final], *last)
        (output / keys.VERDICT_FILE).write_text(
            json.dumps(
                {
                    "iteration": iteration,
                    "decision": verdict.decision,
                    "reason": verdict.reason,
                    "export_slope": slope,
                    "best_iteration": best.iteration,
                    "policy_uri": uris["new" if kept else "previous"],
                    **{f"{role}_uri" if role != "new" else "model_uri": uri for role, uri in uris.items()},
                    "answers": {role: answer.key for role, answer in answers.items()},
                },
                indent=1,
            )
        )
        print(f"iteration {iteration}: {verdict.decision}: {verdict.reason}", flush=True)
        return {**figures, "gate/continue": float(verdict.decision == "continue")}

    key = keys.evaluation(iteration, inputs["stage"])
    return _read(store, key, run_once(store, key, inputs, work))


def _read(store: Store, key: str, manifest: Manifest) -> Evaluation:
    folder = store.fetch(key)
    verdict = json.loads((folder / keys.VERDICT_FILE).read_text(encoding="utf-8"))
    return Evaluation(verdict["decision"], verdict["reason"], verdict["policy_uri"], dict(manifest.figures), folder)


class Best(NamedTuple):
    """The best model so far."""

    iteration: int
    """0 is the base model."""
    uri: str
    probability: float
    """Its mean probability over the base."""


def _best(lineage: Lineage, iteration: int, new: Best | None) -> Best:
    """Of the models that the gates have kept, the one with the highest mean probability over the base.

    That tells apart what a win rate does not: the judge's certainty counts. Of equals the last one is the best.

    Args:
        lineage: of the run.
        iteration: the one that is evaluated now.
        new: its model, if the gate keeps it.
    """
    kept = [Best(0, lineage.config.base_model, -1.0)]
    for t in lineage.evaluated(iteration - 1) if iteration > 1 else ():
        manifest = lineage.store.manifest(lineage.evaluation_key(t))
        assert manifest is not None
        kept.append(Best(t, f"{lineage.store.uri}/{lineage.model_key(t)}", manifest.figures[PROBABILITY]))
    return max(reversed([*kept, *([new] if new else [])]), key=lambda model: model.probability)


def _answers(
    config: RunConfig, lineage: Lineage, engine: LazyEngine, model: str, prompts: Sequence[dict[str, Any]]
) -> Answers:
    """The answers of the model of a digest; each model answers once in a run, whichever iterations ask for it."""
    store, digest = lineage.store, lineage.answers()
    key = keys.answers(model, digest)
    run_once(store, key, {"stage": digest, "model": model}, lambda output: _answer(config, engine, prompts, output))
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
    engine.load()
    sampling = Sampling(wanted.samples, wanted.temperature, wanted.top_p, wanted.max_tokens)
    seeds = [derive_seed(config.seed, "evaluate", row["prompt_id"]) for row in prompts]
    often = f" {wanted.samples} times" if wanted.samples > 1 else ""
    with heartbeat(f"answering {len(prompts)} held-out prompts{often}"):
        sampled = engine.sample([row["prompt_ids"] for row in prompts], sampling, seeds)
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
