"""Instruction following: the share of verifiable instructions that a policy follows when it answers greedily.

The accuracies are IFEval's strict ones (Zhou et al., arXiv 2311.07911, section 2.2): over prompts, where all of a
prompt's instructions must be followed, and over instructions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sppo.config.run import RunConfig
from sppo.errors import ConfigError
from sppo.evaluation.statistics import bca_interval, mean_interval
from sppo.judging.instruction_checks import Instructions, checkers_for, follows, read_instructions
from sppo.preparing import chat
from sppo.preparing.files import bundled
from sppo.preparing.prompts import Prompt
from sppo.progress import heartbeat
from sppo.sampling.engine import Sampling
from sppo.sampling.load import LazyEngine
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.lineage import Lineage
from sppo.store.once import run_once
from sppo.store.opening import fetch_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WHERE = "evaluate.instructions.prompts"


def write_instructions(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, played: Sequence[Prompt], folder: Path
) -> None:
    """Check the prompts of `evaluate.instructions`, if there are any, and write them, tokenised, into a folder.

    The file is `keys.INSTRUCTIONS_FILE`, a table of `tables.INSTRUCTIONS`. What the run trains on is left out, and what
    has the part `train`.

    Args:
        config: the run's configuration.
        tokenizer: of the base model.
        played: the prompts of all iterations. The kinds of their instructions are those that are trained on.
        folder: gets the table.

    Raises:
        ConfigError: naming the line that is not in IFEval's form, has an unknown instruction, or is too long; where
            all are left out.
    """
    if not config.evaluate.instructions.kept:
        return
    rows, special = [], 0
    read = _read(config.evaluate.instructions.prompts)
    texts = {prompt.text.strip() for prompt in played}
    trained = {name for prompt in played for name in prompt.kinds}
    trained |= {name for _, row in read if row.prompt.strip() in texts for name in row.instruction_id_list}
    asked = [each for each in read if each[1].part != "train" and each[1].prompt.strip() not in texts]
    if not asked:
        raise ConfigError(f"{_WHERE}: every prompt is trained on, or has the part train; give others")
    for where, row in asked[: config.evaluate.instructions.kept]:
        try:
            checkers_for(row.prompt, row.instruction_id_list, row.values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if token := chat.special_token_in(tokenizer, row.prompt):
            print(f"warning: {where}: left out, as it contains {token!r}, a special token of the model", flush=True)
            special += 1
            continue
        ids = chat.encode_prompt(tokenizer, row.prompt)
        if len(ids) > config.prepare.max_prompt_tokens:
            raise ConfigError(f"{where}: has {len(ids)} tokens; raise prepare.max_prompt_tokens, or leave it out")
        rows.append(
            {
                "prompt_id": hashlib.sha256(row.prompt.encode()).hexdigest()[:16],
                "prompt": row.prompt,
                "prompt_ids": ids,
                "instruction_ids": row.instruction_id_list,
                "kwargs": [json.dumps(values, sort_keys=True) for values in row.values],
                "trained": trained.issuperset(row.instruction_id_list),
            }
        )
    if not rows:
        raise ConfigError(f"{_WHERE}: all {special} prompts contain special tokens of the model; give others")
    tables.write(folder / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS, rows)
    print(f"with verifiable instructions: {len(rows)} prompts, {special} left out", flush=True)


def _read(uri: str) -> list[tuple[str, Instructions]]:
    if uri == "package:sppo":
        with bundled("verifiable.jsonl") as path:
            return read_instructions(path, f"{_WHERE}: {uri}")
    absent = f"{_WHERE}: {uri}: no such file; give a .jsonl file, s3://… or package:sppo"
    rows = read_instructions(fetch_file(uri, absent), f"{_WHERE}: {uri}")
    if not rows:
        raise ConfigError(f"{_WHERE}: {uri}: holds no prompt; give others, or set evaluate.instructions.count to 0")
    return rows


def expect_instructions(
    config: RunConfig, lineage: Lineage, engine: LazyEngine, model: str, prompts: Sequence[dict[str, Any]], count: int
) -> None:
    """Tell the engine of a model that `answer_instructions` is to come with the same arguments, if it will be asked."""
    if lineage.store.manifest(keys.instruction_answers(model, lineage.instructions(count))) is None:
        engine.expect([row["prompt_ids"] for row in prompts[:count]], _greedy(config))


def answer_instructions(
    config: RunConfig, lineage: Lineage, engine: LazyEngine, model: str, prompts: Sequence[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """A model's answers and what each follows; each model answers once in a run, whichever iterations ask for it.

    Args:
        config: the run's resolved configuration.
        lineage: of the run.
        engine: of the model.
        model: its digest.
        prompts: rows of `tables.INSTRUCTIONS`, as prepare wrote them.
        count: `count` or `final` of `evaluate.instructions`: how many are asked, from the top, if there are so many.

    Returns:
        Rows of `tables.INSTRUCTION_ANSWERS`.
    """
    store, digest = lineage.store, lineage.instructions(count)

    def work(output: Path) -> Mapping[str, float]:
        return _answer(config, engine, prompts[:count], _given(lineage, model), output)

    run_once(store, keys.instruction_answers(model, digest), {"stage": digest, "model": model}, work)
    return read_answers(lineage, model, count)


def _given(lineage: Lineage, model: str) -> dict[str, dict[str, Any]]:
    """The rows of what a model has answered already, by prompt: the first of the prompts at the end."""
    wanted = lineage.config.evaluate.instructions
    rows = [*read_answers(lineage, model, wanted.count), *read_answers(lineage, model, wanted.final)]
    return {row["prompt_id"]: row for row in rows}


def read_answers(lineage: Lineage, model: str, count: int) -> list[dict[str, Any]]:
    """What the model of a digest answered when that many prompts were asked: as `answer_instructions`; else nothing."""
    key = keys.instruction_answers(model, lineage.instructions(count))
    if lineage.store.manifest(key) is None:
        return []
    return tables.read(lineage.store.fetch(key) / keys.ANSWERS_FILE, tables.INSTRUCTION_ANSWERS)


def _greedy(config: RunConfig) -> Sampling:
    return Sampling(1, 0.0, 1.0, config.evaluate.instructions.max_tokens)


def _answer(
    config: RunConfig,
    engine: LazyEngine,
    prompts: Sequence[dict[str, Any]],
    given: Mapping[str, dict[str, Any]],
    output: Path,
) -> Mapping[str, float]:
    asked = [row for row in prompts if row["prompt_id"] not in given]
    rows = {row["prompt_id"]: row for row in _sample(config, engine, asked)} if asked else {}
    together = [given.get(row["prompt_id"]) or rows[row["prompt_id"]] for row in prompts]
    tables.write(output / keys.ANSWERS_FILE, tables.INSTRUCTION_ANSWERS, together)
    return {}


def _sample(config: RunConfig, engine: LazyEngine, prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    seeds = [derive_seed(config.seed, "instructions", row["prompt_id"]) for row in prompts]
    engine.load()
    with heartbeat(f"answering {len(prompts)} prompts with verifiable instructions"):
        sampled = engine.sample([row["prompt_ids"] for row in prompts], _greedy(config), seeds)
    rows = []
    for row, (response,) in zip(prompts, sampled, strict=True):
        kwargs = [json.loads(text) for text in row["kwargs"]]
        verdicts = follows(row["prompt"], response.text, row["instruction_ids"], kwargs)
        rows.append(
            {
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
                "text": response.text,
                "tokens": len(response.token_ids),
                "instruction_ids": row["instruction_ids"],
                "followed": [bool(verdict) for verdict in verdicts],
                "unchecked": verdicts.count(None),
            }
        )
    return rows


def instruction_figures(
    config: RunConfig, new: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Both strict accuracies of the new policy with intervals over prompts, the base model's, and the fall from those.

    Args:
        config: the run's resolved configuration.
        new: the new policy's answers, rows of `tables.INSTRUCTION_ANSWERS`.
        base: the base model's.
    """
    followed, asked = _counts(new)
    seed = derive_seed(config.seed, "bootstrap", "instructions")
    by_prompt = mean_interval((followed == asked).astype(np.float64), config.evaluate.bootstrap, seed)
    by_instruction = bca_interval(_shares(followed, asked), len(new), config.evaluate.bootstrap, seed)
    base_followed, _ = _counts(base)
    drop = bca_interval(_shares(base_followed - followed, asked), len(new), config.evaluate.bootstrap, seed)
    print(
        f"instructions followed: {by_instruction.value:.3f} [{by_instruction.low:.3f}, {by_instruction.high:.3f}] of "
        f"{asked.sum():.0f}, by the base {base_followed.sum() / asked.sum():.3f}",
        flush=True,
    )
    return {
        **by_prompt.figures("eval/instructions_prompt_strict"),
        **by_instruction.figures("eval/instructions_instruction_strict"),
        **drop.figures("eval/instructions_drop"),
        "eval/instructions_prompt_strict_base": float((base_followed == asked).mean()),
        "eval/instructions_instruction_strict_base": float(base_followed.sum() / asked.sum()),
        "eval/instructions_prompts": float(len(new)),
        "eval/instructions_unchecked": float(sum(row["unchecked"] for row in new)),
    }


def final_figures(
    config: RunConfig,
    prompts: Sequence[Mapping[str, Any]],
    best: Sequence[Mapping[str, Any]],
    base: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """What the best model gained over the base at the end of a run, on kinds of instructions trained on and on others.

    The gain is the share of instructions followed by the best model less that of the base, on the same prompts, with
    an interval over prompts.

    Args:
        config: the run's resolved configuration.
        prompts: rows of `tables.INSTRUCTIONS`.
        best: the best model's answers to them, rows of `tables.INSTRUCTION_ANSWERS`.
        base: the base model's.
    """
    (followed, asked), (base_followed, _) = _counts(best), _counts(base)
    trained = np.array([row["trained"] for row in prompts])
    figures: dict[str, float] = {}
    for kinds, chosen in (("trained", trained), ("other", ~trained)):
        if not chosen.any():
            continue
        ours, theirs, total = followed[chosen], base_followed[chosen], asked[chosen]
        seed = derive_seed(config.seed, "bootstrap", "final", kinds)
        gain = bca_interval(_shares(ours - theirs, total), len(total), config.evaluate.bootstrap, seed)
        share, before = float(ours.sum() / total.sum()), float(theirs.sum() / total.sum())
        print(
            f"at the end, instructions of {kinds} kinds followed: {share:.3f} of {total.sum():.0f}, by the base "
            f"{before:.3f}; gain {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
            flush=True,
        )
        figures |= {
            f"final/instructions_{kinds}": share,
            f"final/instructions_{kinds}_base": before,
            **gain.figures(f"final/instructions_{kinds}_gain"),
            f"final/instructions_{kinds}_prompts": float(len(total)),
        }
    cut = [row["tokens"] >= config.evaluate.instructions.max_tokens for row in best]
    return figures | {"final/truncated_fraction": float(np.mean(cut))}


def _shares(counted: np.ndarray, of: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The ratio of two sums over prompts, for the weights of each resample."""

    def ratio(weights: np.ndarray) -> np.ndarray:
        shares: np.ndarray = (weights @ counted) / (weights @ of)
        return shares

    return ratio


def _counts(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Instructions followed and asked for in each prompt, each of shape (prompts,)."""
    followed = np.array([sum(row["followed"]) for row in rows], dtype=np.float64)
    return followed, np.array([len(row["followed"]) for row in rows], dtype=np.float64)
