"""The trials of the embedded judge: which pairs they train on, and the table of those that were made."""

import json

import pytest

from sppo.judging.labelled_pairs import Pair


@pytest.fixture(scope="module")
def trials(benchmark_script):
    """The script."""
    return benchmark_script("judge_trials")


def pair(prompt, chosen, rejected):
    return Pair(prompt, chosen, rejected, prompt)


def test_length_tells_nothing_where_as_many_choose_the_longer_one_as_not(trials):
    pairs = [pair(str(i), "longer" if i < 7 else "s", "short") for i in range(10)]
    kept = trials.of_like_length(pairs)
    assert sorted(len(each.chosen) > len(each.rejected) for each in kept) == [False] * 3 + [True] * 3
    assert {each.prompt for each in kept} <= {each.prompt for each in pairs}


def test_an_answer_to_the_most_similar_other_prompt_loses(trials):
    pairs = [
        pair("How do I water tomatoes?", "In the morning.", "Never."),
        pair("How do I water tomato plants?", "At their roots.", "Never."),
        pair("What is the capital of France?", "Paris.", "Rome."),
    ]
    made = trials.with_neighbours(pairs)[3:]
    assert [(each.chosen, each.rejected) for each in made[:2]] == [
        ("In the morning.", "At their roots."),
        ("At their roots.", "In the morning."),
    ]
    assert [each.group for each in made] == [each.group for each in pairs], "the same side of the division"


def test_the_table_has_what_was_made_and_names_the_rest(trials, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "KEPT", tmp_path)
    first, *others = trials.TRIALS
    figures = {"accuracy": 0.625, "standard_error": 0.02, "prefers_longer": 0.7, "calibration_error": 0.05}
    kept = {
        "revision": "abc1234", "machine": "here", "pairs": 1400,
        "development": {"a": figures}, "evaluate": dict.fromkeys(trials.HELD_OUT, figures),
    }  # fmt: skip
    trials.kept_as(first).write_text(json.dumps(kept))
    lines = trials.table().splitlines()
    assert f"| {first} | 1400 | 62.5 ± 2.0 | 62.5 ± 2.0 | 62.5 ± 2.0 | 0.70 | 0.050 |" in lines
    assert lines[-1] == f"Not tried yet: {'; '.join(others)}."
    assert len({trials.kept_as(name) for name in trials.TRIALS}) == len(trials.TRIALS)
