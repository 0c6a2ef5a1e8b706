"""Instruction following: the share of verifiable instructions that a policy follows when it answers greedily.

The accuracies are IFEval's strict ones (Zhou et al., arXiv 2311.07911, section 2.2): over prompts, where all of a
prompt's instructions must be followed, and over instructions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sppo.config.run import RunConfig
from sppo.errors import ConfigError
from sppo.evaluation.statistics import bca_interval, mean_interval
from sppo.judging.instruction_checks import Instructions, checkers_for, follows, read_instructions
from sppo.preparing import chat
from sppo.progress import heartbeat
from sppo.sampling.engine import Sampling
from sppo.sampling.load import LazyEngine
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.base import Store
from sppo.store.once import run_once
from sppo.store.opening import fetch_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WHERE = "evaluate.instructions.prompts"


def write_instructions(config: RunConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Check the prompts of `evaluate.instructions`, if there are any, and write them, tokenised, into a folder.

    The file is `keys.INSTRUCTIONS_FILE`, a table of `tables.INSTRUCTIONS`.

    Raises:
        ConfigError: naming the line that is not in IFEval's form, has an unknown instruction, or is too long; where
            all are left out.
    """
    if not config.evaluate.instructions.count:
        return
    rows, special = [], 0
    for where, row in _read(config.evaluate.instructions.prompts)[: config.evaluate.instructions.count]:
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
            }
        )
    if not rows:
        raise ConfigError(f"{_WHERE}: all {special} prompts contain special tokens of the model; give others")
    tables.write(folder / keys.INSTRUCTIONS_FILE, tables.INSTRUCTIONS, rows)
    print(f"{keys.INSTRUCTIONS_FILE}: {len(rows)} prompts, {special} left out", flush=True)


def _read(uri: str) -> list[tuple[str, Instructions]]:
    if uri == "package:sppo":
        with as_file(files("sppo") / "preparing" / "bundled" / "instructions.jsonl") as path:
            return read_instructions(path, f"{_WHERE}: {uri}")
    absent = f"{_WHERE}: {uri}: no such file; give a .jsonl file, s3://… or package:sppo"
    rows = read_instructions(fetch_file(uri, absent), f"{_WHERE}: {uri}")
    if not rows:
        raise ConfigError(f"{_WHERE}: {uri}: holds no prompt; give others, or set evaluate.instructions.count to 0")
    return rows


def answer_instructions(
    config: RunConfig, store: Store, engine: LazyEngine, inputs: Mapping[str, str], table: Path
) -> list[dict[str, Any]]:
    """A model's answers and what each follows; each model answers once in a run, whichever iterations ask for it.

    Args:
        config: the run's resolved configuration.
        store: the run's store.
        engine: of the model.
        inputs: what the answers depend on, the digest of the model as `model`.
        table: the prompts, `tables.INSTRUCTIONS`.

    Returns:
        Rows of `tables.INSTRUCTION_ANSWERS`.
    """
    key = keys.instruction_answers(inputs["model"])
    run_once(store, key, inputs, lambda output: _answer(config, engine, table, output))
    return tables.read(store.fetch(key) / keys.ANSWERS_FILE, tables.INSTRUCTION_ANSWERS)


def _answer(config: RunConfig, engine: LazyEngine, table: Path, output: Path) -> Mapping[str, float]:
    prompts = tables.read(table, tables.INSTRUCTIONS)
    greedy = Sampling(1, 0.0, 1.0, config.evaluate.instructions.max_tokens)
    seeds = [derive_seed(config.seed, "instructions", row["prompt_id"]) for row in prompts]
    loaded = engine.load()
    with heartbeat(f"answering {len(prompts)} prompts with verifiable instructions"):
        sampled = loaded.sample([row["prompt_ids"] for row in prompts], greedy, seeds)
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
    tables.write(output / keys.ANSWERS_FILE, tables.INSTRUCTION_ANSWERS, rows)
    return {}


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
    by_instruction = bca_interval(
        lambda weights: (weights @ followed) / (weights @ asked), len(new), config.evaluate.bootstrap, seed
    )
    base_followed, _ = _counts(base)
    drop = bca_interval(
        lambda weights: (weights @ (base_followed - followed)) / (weights @ asked),
        len(new),
        config.evaluate.bootstrap,
        seed,
    )
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


def _counts(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Instructions followed and asked for in each prompt, each of shape (prompts,)."""
    followed = np.array([sum(row["followed"]) for row in rows], dtype=np.float64)
    return followed, np.array([len(row["followed"]) for row in rows], dtype=np.float64)
