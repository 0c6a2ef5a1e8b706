"""The runs of `objectives.py`: how each is played, what it left, and how two of them compare."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from results import Measured, take

from sppo.algorithm.sign_test import sign_test
from sppo.evaluation.statistics import mean_interval
from sppo.evaluation.winrate import Values, contest
from sppo.judging.load import load_judge
from sppo.preparing.recorded import recorded_config, run_name
from sppo.reporting.compare.comparison import Evidence
from sppo.reporting.compare.side import EVEN, Side, read_side
from sppo.seeds import derive_seed
from sppo.store import keys, tables
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store

OBJECTIVES: Mapping[str, Sequence[str]] = {
    "sppo": (),
    "rspo": ("train.objective=rspo",),
    "dpo": ("train.objective=dpo", "train.eta=10"),
    "ipo": ("train.objective=ipo", "train.eta=10"),
}
"""What differs from the default run, by objective."""
JUDGES: Mapping[str, Sequence[str]] = {"mixture": (), "encoder": ("preference_model=package:sppo",)}
"""And by judge."""
UNTRAINED = "package:sppo/second"
"""A judge that no run trains on."""
RESAMPLES = 2000

load = functools.cache(load_judge)


class Key(NamedTuple):
    """Which run."""

    judge: str
    objective: str
    seed: int


class Row(NamedTuple):
    """A run that is there."""

    side: Side
    followed: Values
    """Of each prompt with verifiable instructions at the run's end, the share that the best model follows."""
    measured: Measured


class Against(NamedTuple):
    """An objective beside SPPO, over the seeds with which both were played."""

    seeds: int
    win_rate: Evidence
    """Over the base, by the judge that is trained on, less SPPO's."""
    followed: Evidence
    """Share of a prompt's instructions, less SPPO's."""


def record_of(place: Path, key: Key) -> Path:
    """Where is kept what a run took, and how it is named."""
    return place / f"seed-{key.seed}-{key.judge}-{key.objective}.json"


def play(record: Path, key: Key) -> None:
    """Play a run in the place of its seed, unless its record is there, and keep that."""
    if record.exists():
        return
    run = record.with_name(f"seed-{key.seed}").absolute()
    taken = take(run, [f"seed={key.seed}", *JUDGES[key.judge], *OBJECTIVES[key.objective]])
    record.write_text(json.dumps({"run": run_name(recorded_config(str(run))), **taken._asdict()}, indent=1))


def read(record: Path) -> Row:
    """A run from what it committed."""
    kept = json.loads(record.read_text())
    side = read_side("A", kept.pop("run"))
    return Row(side, _followed(side), Measured(**kept))


def _followed(side: Side) -> Values:
    config = side.report.config
    store = open_store(config.output_uri)
    asked = Lineage(config, store).instructions(config.evaluate.instructions.final)
    folder = store.fetch(keys.instruction_answers(side.report.best_digest, asked))
    rows = tables.read(folder / keys.ANSWERS_FILE, tables.INSTRUCTION_ANSWERS)
    return np.array([np.mean(row["followed"]) for row in rows])


def evidence(values: Sequence[Values], even: float) -> Evidence:
    """The mean of the seeds' values of the same prompts.

    The interval is over prompts, whose values are means over seeds; the sign test counts each seed's prompts.
    """
    together = np.stack(values)
    interval = mean_interval(together.mean(axis=0), RESAMPLES, derive_seed(0, "bootstrap", "objectives"))
    return Evidence(interval, sign_test(together.ravel() - even), even)


def against(rows: Mapping[Key, Row], judge: str, objective: str) -> Against | None:
    """An objective less SPPO, over the seeds with which both were played; None where there are none."""
    pairs = [
        (row, rows[key._replace(objective="sppo")])
        for key, row in rows.items()
        if key[:2] == (judge, objective) and key._replace(objective="sppo") in rows
    ]
    if not pairs:
        return None
    return Against(
        len(pairs),
        evidence([ours.side.best_win_rates - theirs.side.best_win_rates for ours, theirs in pairs], 0.0),
        evidence([ours.followed - theirs.followed for ours, theirs in pairs], 0.0),
    )


def matrix(rows: Mapping[Key, Row], judge: str, asked: str) -> dict[tuple[str, str], Evidence]:
    """Best models against each other, by objective, over the seeds with which both were played.

    Args:
        rows: the runs that are there.
        judge: that they were trained on, of `JUDGES`.
        asked: URI of the judge that compares; empty: the one that they were trained on.

    Returns:
        By two objectives, how often a prompt's answer of the first is preferred, each pair in both orders.
    """
    found = {}
    for first, second in itertools.combinations(OBJECTIVES, 2):
        seeds = [key.seed for key in rows if key[:2] == (judge, first) and key._replace(objective=second) in rows]
        sides = [(rows[Key(judge, first, seed)].side, rows[Key(judge, second, seed)].side) for seed in seeds]
        rates = [_win_rates(ours, theirs, asked) for ours, theirs in sides]
        if rates:
            found[first, second] = evidence(rates, EVEN)
            found[second, first] = evidence([1 - each for each in rates], EVEN)
    return found


def _win_rates(ours: Side, theirs: Side, asked: str) -> Values:
    config = ours.report.config
    judge = load(asked or config.preference_model, config.judge)
    prompts = [each.prompt for each in ours.held_out]
    answers = [[each.answers for each in side.held_out] for side in (ours, theirs)]
    return contest(judge, prompts, *answers, config.rank.temperature).win_rates
