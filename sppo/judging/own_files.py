"""A judge on files of one's own: the work of `sppo judge`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sppo.algorithm.probability import probabilities, win_probabilities
from sppo.config.run import RunConfig
from sppo.errors import ConfigError, RunFailedError
from sppo.judging import diagnostics
from sppo.judging.agreement import agreement, logits_of_pairs
from sppo.judging.labelled_pairs import is_text, read_file, read_pairs
from sppo.judging.load import load_judge
from sppo.judging.similarity import similarities
from sppo.progress import heartbeat
from sppo.store import tables

FORMATS = (".jsonl", ".parquet")
SCORING_KEYS = ("judge.", "rank.estimator", "rank.temperature", "rank.soft_duplicates", "rank.similarity")
"""Beginnings of the keys of the configuration that `score` reads."""
BENCHMARK_KEYS = ("judge.",)
"""The same of `benchmark`."""


@dataclass(frozen=True)
class Question:
    """A prompt with the responses to compare, and where it was read."""

    prompt: str
    responses: list[str]
    where: str


def read_questions(path: str) -> list[Question]:
    """Read a .jsonl or .jsonl.gz file with the columns prompt and responses, a list of at least two texts.

    Raises:
        ConfigError: naming the file, the line and the column.
    """
    return [_question(*each) for each in read_file(path, "prompts with responses")]


def score(config: RunConfig, questions: Sequence[Question]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Judge every question's responses.

    Args:
        config: its `preference_model`, `judge`, and of `rank` the estimator, temperature and soft duplicates.
        questions: what to judge.

    Returns:
        Rows of `tables.JUDGEMENTS`, and the figures of `sppo.judging.diagnostics` with those of the judge itself; the
        length of a response is taken in characters.

    Raises:
        RunFailedError: naming the line for which the judge gave no finite logit.
    """
    judge = load_judge(config.preference_model, config.judge)
    with heartbeat(f"judging {len(questions)} prompts with {judge.name}"):
        logits = judge.logits([each.prompt for each in questions], [each.responses for each in questions])
    rows, counted = [], []
    for question, matrix in zip(questions, logits, strict=True):
        _finite(matrix, question.where)
        texts, rank = question.responses, config.rank
        alike = similarities(rank.similarity)
        pairwise = probabilities(matrix, texts, rank.estimator, rank.temperature, rank.soft_duplicates, alike)
        win = win_probabilities(pairwise)
        counted.append(diagnostics.count(matrix, pairwise, texts, [len(text) for text in texts]))
        rows.append(
            {
                "prompt": question.prompt,
                "responses": texts,
                "logits": matrix.tolist(),
                "probabilities": pairwise.tolist(),
                "win_probabilities": win.tolist(),
                "best": int(win.argmax()),
            }
        )
    return rows, diagnostics.figures(diagnostics.add(counted)) | judge.tracked()


def benchmark(config: RunConfig, path: str) -> dict[str, float]:
    """How well a judge agrees with labelled preference pairs; see `sppo.judging.agreement.agreement`.

    Args:
        config: its `preference_model` and `judge`.
        path: a file as `sppo.judging.labelled_pairs.read_pairs` reads it.

    Returns:
        The figures of `agreement` with those of the judge itself.
    """
    pairs = read_pairs(path)
    judge = load_judge(config.preference_model, config.judge)
    with heartbeat(f"judging {len(pairs)} pairs with {judge.name}"):
        logits = logits_of_pairs(judge, pairs)
    for number, row in enumerate(logits, start=1):
        _finite(row, f"{path}: pair {number}")
    return agreement(pairs, logits) | judge.tracked()


def check_output(path: str) -> None:
    """Refuse a file that `write` cannot write, before anything is judged.

    Raises:
        ConfigError: for another format, or a folder that is not there.
    """
    if Path(path).suffix not in FORMATS:
        raise ConfigError(f"{path}: judgements are written as {' or '.join(FORMATS)}")
    if not Path(path).parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {Path(path).parent}")


def check_keys(values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse settings that would change nothing.

    Raises:
        ConfigError: naming the first.
    """
    for key in values:
        if not key.startswith(tuple(known)):
            readable = ", ".join(f"{each}*" if each.endswith(".") else each for each in known)
            raise ConfigError(f"{key}: changes nothing here; the settings are {readable}")


def write(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write judgements as JSON lines, or as Parquet (`tables.JUDGEMENTS`), by the suffix."""
    if path.endswith(".parquet"):
        tables.write(Path(path), tables.JUDGEMENTS, rows)
    else:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        Path(path).write_text("".join(lines), encoding="utf-8")


def _question(where: str, row: dict[str, Any]) -> Question:
    prompt, responses = row.get("prompt"), row.get("responses")
    if not is_text(prompt):
        raise ConfigError(f"{where}: column 'prompt' is missing or not a string of Unicode characters")
    if not isinstance(responses, list) or len(responses) < 2:
        pairs = "; it has preference pairs, which --benchmark FILE takes" if "chosen" in row else ""
        raise ConfigError(f"{where}: column 'responses' is missing or not a list of at least two texts{pairs}")
    for number, text in enumerate(responses):
        if not is_text(text):
            raise ConfigError(f"{where}: column 'responses': number {number} is not a string of Unicode characters")
    return Question(prompt, responses, where)


def _finite(logits: np.ndarray, where: str) -> None:
    if not np.isfinite(logits).all():
        raise RunFailedError(f"{where}: the judge gave a logit that is not finite; try judge.dtype=float32")
