"""benchmarks/objectives.py: its values are ones that `sppo run` takes, and its page says what the runs left."""

import re

import numpy as np
import pytest

from sppo.config.reading import read_overrides
from sppo.config.run import RunConfig, kinds, resolve

from .by_hand import few_tokens

PLAYED = ("sppo", "dpo")
SMALL = {
    "publish.dtype": "float32", "prepare.held_out": 4, "train.learning_rate": 0.01,
    "evaluate.second_judge": "[unbroken]", "evaluate.instructions.final": 6, "evaluate.instructions.max_tokens": 8,
    "evaluate.gate.required_vs_base": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def scripts(benchmark_script):
    """The script that writes the page, and what it plays the runs with."""
    return benchmark_script("objectives"), benchmark_script("objective_runs")


@pytest.fixture
def played(scripts, tmp_path, tracked_folder, tiny_llama, run_sppo, no_charts, monkeypatch):
    """Two objectives of one judge and seed, in one place; a run of seconds, whose stages are called here."""
    page, runs = scripts
    small = few_tokens(tmp_path, tiny_llama, **SMALL)
    taken = []

    def take(place, arguments):
        values = small | {"output_uri": str(place)}
        ended = run_sppo("prepare", *(f"{key}={value}" for key, value in values.items()), *arguments)
        assert ended.code == 0, ended.err
        for stage in ("generate", "rank", "train", "evaluate", "publish"):
            ended = run_sppo(stage, str(place))
            assert ended.code == 0, ended.err
        taken.append(arguments)
        return runs.Measured("abc1234", "a processor", "2026-01-01", 1.5, 2.0, 0.1)

    monkeypatch.setattr(runs, "take", take)
    monkeypatch.setattr(runs, "COMMON", ("iterations=1", "prepare.prompts_per_iteration=4", *runs.COMMON[2:]))
    tracked_folder.rename(tmp_path / "seed-0")
    monkeypatch.setattr(page, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "PLOT", tmp_path / "plot.svg")
    monkeypatch.setattr(page, "revision", lambda: "abc1234")
    for _ in range(2):
        page.main(["--only", *PLAYED, "--judges", "encoder", "--seeds", "0", "--place", str(tmp_path)])
    assert len(taken) == len(PLAYED), "what is there is not played again"
    keys = [runs.Key("encoder", objective, 0) for objective in PLAYED]
    return page, runs, {key: runs.read(tmp_path / "kept", key) for key in keys}, tmp_path


def test_every_run_is_one_that_sppo_takes(scripts):
    page, runs = scripts
    assert len(page.KEYS) == len(set(page.KEYS)) == 24
    for key in page.KEYS:
        values = read_overrides(runs.values(key), kinds(RunConfig))
        config = resolve(values)
        assert config.train.objective == key.objective
        assert (config.preference_model == "mixture") == (key.judge == "mixture")
        untrained = runs.ASKED["second"]
        assert untrained in config.evaluate.second_judge
        assert untrained not in (config.preference_model, *(member.model for member in config.judge.mixture))
        assert f"η = {config.train.eta:g}" in re.search(rf"^\| `{key.objective}` \| (.*)", page.SETTINGS, re.M)[1]


def test_the_page_says_what_the_runs_left(played, tmp_path):
    page, runs, rows, place = played
    assert len(list(place.glob("seed-0/iteration-1/responses-*"))) == 1, "the first iteration's responses are shared"
    assert len(list(place.glob("seed-0/iteration-1/model-*"))) == len(PLAYED)
    the_page_lists_what_is_there_and_what_is_not(page, (place / "page.md").read_text())
    nothing_that_is_kept_names_this_machine(place / "kept")
    contests_count_every_prompt_and_turn_round(runs, rows)
    the_difference_is_that_of_the_means(runs, rows)
    for name in ("a.svg", "b.svg"):
        page.draw(rows, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "encoder" in (tmp_path / "a.svg").read_text()


def the_page_lists_what_is_there_and_what_is_not(page, text):
    assert "revision abc1234, a processor, 2026-01-01" in text
    assert len(re.findall(r"^\| encoder \| `(?:sppo|dpo)` \| 0 \|", text, re.M)) == len(PLAYED)
    missing = re.search(r"Not played yet: (.*)\.$", text, re.M)[1]
    assert len(re.findall(r"`(?:sppo|rspo|dpo|ipo)`", missing)) == len(page.KEYS) - len(PLAYED)
    assert "with `encoder`, seed 0 `rspo`, `ipo`;" in missing
    assert "- against `dpo` with the judge `encoder`, the paper's order does not show" in text
    assert "against `ipo`" not in text
    assert text.count("Trained on `encoder`, compared by") == 2 and "Trained on `mixture`" not in text


def nothing_that_is_kept_names_this_machine(folder):
    kept = [path.read_text() for path in folder.iterdir()]
    assert len(kept) == len(PLAYED) and not any(str(folder.parent) in each for each in kept)


def contests_count_every_prompt_and_turn_round(runs, rows):
    for asked in runs.ASKED:
        found = runs.matrix(rows, "encoder", asked)
        assert set(found) == {("sppo", "dpo"), ("dpo", "sppo")}
        forth, back = found["sppo", "dpo"], found["dpo", "sppo"]
        assert forth.signs.wins + forth.signs.ties + forth.signs.losses == 4 > forth.signs.ties
        assert (forth.signs.wins, forth.signs.losses) == (back.signs.losses, back.signs.wins)
        assert forth.interval.value == pytest.approx(1 - back.interval.value)


def the_difference_is_that_of_the_means(runs, rows):
    beside = runs.against(rows, "encoder", "dpo")
    sppo, dpo = (rows[runs.Key("encoder", objective, 0)] for objective in PLAYED)
    assert len(sppo.followed) == 6
    assert beside.followed.interval.value == pytest.approx(np.mean(dpo.followed) - np.mean(sppo.followed))
    difference = np.mean(dpo.win_rates) - np.mean(sppo.win_rates)
    assert beside.win_rate.interval.value == pytest.approx(difference)
    assert runs.against(rows, "mixture", "dpo") is None


def test_seeds_are_averaged_by_prompt_and_counted_each(scripts):
    _, runs = scripts
    found = runs.evidence([np.array([1.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0])], 0.5)
    assert found.interval.value == pytest.approx(2 / 3)
    assert (found.signs.wins, found.signs.ties, found.signs.losses) == (3, 2, 1)
