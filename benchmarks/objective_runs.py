"""The runs of `objectives.py`: how each is played, what it left, and how two of them compare."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import Measured, figures_of, take
from variants import FIGURES, read_kept, settings, with_ends

from sppo.algorithm.sign_test import sign_test
from sppo.evaluation.ifeval import read_answers
from sppo.evaluation.statistics import mean_interval
from sppo.evaluation.winrate import Values, contest
from sppo.judging.load import load_judge
from sppo.preparing.recorded import recorded_config, run_name
from sppo.reporting.compare.comparison import Evidence
from sppo.reporting.compare.side import EVEN, Side, read_side
from sppo.seeds import derive_seed
from sppo.store.lineage import Lineage
from sppo.store.opening import open_store

COMMON = (
    "iterations=2",
    "prepare.prompts_per_iteration=64",
    "evaluate.instructions.count=0",
    "evaluate.gate.keep_previous_below=0",
    "evaluate.gate.second_judge_below=0",
    "evaluate.gate.max_length_growth=0",
)
"""What differs from the default run in all of them: the second iteration is the first in which `rspo` meets a policy
that is not the base, and no gate refuses what an objective made."""
OBJECTIVES: Mapping[str, Sequence[str]] = {
    "sppo": (),
    "rspo": ("train.objective=rspo",),
    "dpo": ("train.objective=dpo", "train.eta=10"),
    "ipo": ("train.objective=ipo", "train.eta=10"),
}
"""What differs besides, by objective."""
JUDGES: Mapping[str, Sequence[str]] = {"mixture": (), "encoder": ("preference_model=package:sppo",)}
"""And by judge."""
ASKED = {"trained": "", "second": "package:sppo/second"}
"""Judges that compare objectives, by what they are called here: that of the training, and one that no run trains on."""
SHOWN = {**FIGURES, "second encoder's P": "eval/third_mean_probability_vs_base"}
"""Figures of a run, by the heads of their columns."""
RESAMPLES = 2000

load = functools.cache(load_judge)


class Key(NamedTuple):
    """Which run."""

    judge: str
    objective: str
    seed: int


class Row(NamedTuple):
    """What is kept of a run."""

    settings: Mapping[str, Any]
    """What the preset and the command line said, by dotted name."""
    measured: Measured
    figures: Mapping[str, float]
    win_rates: Sequence[float]
    """Of the best model over the base, a held-out prompt each."""
    followed: Sequence[float]
    """Of each prompt with verifiable instructions at the run's end, the share that the best model follows."""
    met: Mapping[str, Mapping[str, Sequence[float]]]
    """Win rates of the best model's answers over those of another objective with the same judge and seed, a prompt
    each: by objective, as far as it was played before in the same place, and by what `ASKED` calls the judge."""


class Against(NamedTuple):
    """An objective beside SPPO, over the seeds with which both were played."""

    seeds: int
    win_rate: Evidence
    """Over the base, by the judge that is trained on, less SPPO's."""
    followed: Evidence
    """Share of a prompt's instructions, less SPPO's."""


def values(key: Key) -> list[str]:
    """What differs from the default run, as KEY=VALUE."""
    return [f"seed={key.seed}", *COMMON, *JUDGES[key.judge], *OBJECTIVES[key.objective]]


def kept_as(folder: Path, key: Key) -> Path:
    """Where is kept what a run left."""
    return folder / f"seed-{key.seed}-{key.judge}-{key.objective}.json"


def read(folder: Path, key: Key) -> Row | None:
    """What is kept of a run; None where it was not played, or with other settings."""
    kept = read_kept(kept_as(folder, key), values(key))
    return Row(**kept) if kept else None


def play(folder: Path, place: Path, key: Key) -> None:
    """Play a run in the place of its seed, and keep what it left.

    Args:
        folder: where that is kept.
        place: of the runs.
        key: which.
    """
    run = (place / f"seed-{key.seed}").absolute()
    measured = take(run, values(key))
    named = run_name(recorded_config(str(run)))
    names = {other: place / f"{kept_as(folder, key._replace(objective=other)).stem}.name" for other in OBJECTIVES}
    names[key.objective].write_text(named, encoding="utf-8")
    side = read_side("A", named)
    others = {
        other: read_side("B", name.read_text(encoding="utf-8"))
        for other, name in names.items()
        if other != key.objective and name.exists()
    }
    met = {
        other: {asked: _win_rates(side, theirs, uri).tolist() for asked, uri in ASKED.items()}
        for other, theirs in others.items()
    }
    shown = with_ends(figures_of(side.report), SHOWN.values())
    row = Row(
        settings(values(key)), measured, shown, side.best_win_rates.tolist(), _followed(side).tolist(), met
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    kept = json.dumps(row._asdict() | {"measured": measured._asdict()})
    kept_as(folder, key).write_text(kept + "\n", encoding="utf-8")


def _followed(side: Side) -> Values:
    config = side.report.config
    store = open_store(config.output_uri)
    rows = read_answers(Lineage(config, store), side.report.best_digest, config.evaluate.instructions.final)
    return np.array([np.mean(row["followed"]) for row in rows])


def _win_rates(ours: Side, theirs: Side, asked: str) -> Values:
    config = ours.report.config
    judge = load(asked or config.preference_model, config.judge)
    prompts = [each.prompt for each in ours.held_out]
    answers = [[each.answers for each in side.held_out] for side in (ours, theirs)]
    return contest(judge, prompts, *answers, config.rank.temperature).win_rates


def evidence(each: Sequence[Values], even: float) -> Evidence:
    """The mean of the seeds' values of the same prompts.

    The interval is over prompts, whose values are means over seeds; the sign test counts each seed's prompts.
    """
    together = np.stack(each)
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
        evidence([np.subtract(ours.win_rates, theirs.win_rates) for ours, theirs in pairs], 0.0),
        evidence([np.subtract(ours.followed, theirs.followed) for ours, theirs in pairs], 0.0),
    )


def matrix(rows: Mapping[Key, Row], judge: str, asked: str) -> dict[tuple[str, str], Evidence]:
    """Best models against each other, by objective, over the seeds with which they met.

    Args:
        rows: the runs that are there.
        judge: that they were trained on, of `JUDGES`.
        asked: which judge compares, of `ASKED`.

    Returns:
        By two objectives, how often a prompt's answer of the first is preferred, each pair in both orders.
    """
    found = {}
    for first, second in itertools.combinations(OBJECTIVES, 2):
        rates = [
            turned(np.array(row.met[other][asked]))
            for mine, other, turned in ((first, second, np.array), (second, first, _turned))
            for key, row in rows.items()
            if key[:2] == (judge, mine) and other in row.met
        ]
        if rates:
            found[first, second] = evidence(rates, EVEN)
            found[second, first] = evidence([_turned(each) for each in rates], EVEN)
    return found


def _turned(win_rates: Values) -> Values:
    return 1 - win_rates
