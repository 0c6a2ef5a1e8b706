"""An evaluation from the models' answers to the verdict, with judges that can be gamed, and one that cannot."""

import json

import numpy as np
import pytest

from sppo.config.run import resolve
from sppo.errors import ConfigError
from sppo.evaluation.evaluate import evaluate
from sppo.judging import registry
from sppo.models.fetch import model_digest
from sppo.store import keys, tables
from sppo.store.local import LocalStore
from sppo.store.once import run_once
from tests.conftest import lineage_of, prepare

PROMPTS, SAMPLES = 24, 2


class Taste:
    """A kind of judge that likes an answer as much as a function of its text says."""

    example = "taste:…"

    def __init__(self, name, liking):
        self.name, self.liking, self.asked, self.schemes = name, liking, [], (name,)

    def check(self, uri, settings):
        pass

    def digest(self, uri, settings):
        return f"{self.name:0<64}"

    def load(self, uri, settings):
        return self

    def compare(self, comparisons):
        self.asked += comparisons
        return np.array([self.liking(first) - self.liking(second) for _, first, second in comparisons], np.float32)

    def figures(self):
        return {}


@pytest.fixture
def judges(monkeypatch, tmp_path):
    """`long:` prefers the longer answer whatever it says, `fact:` the one with more facts and less padding."""
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))  # what another test had judged would not be asked
    tastes = {"long": len, "fact": lambda text: 10 * text.count("fact") - text.count("very")}
    found = {name: Taste(name, liking) for name, liking in tastes.items()}
    monkeypatch.setattr(registry, "_KINDS", [*registry.kinds(), *found.values()])
    return found


class Run:
    """A run whose models have given their answers; `answers` are functions of a prompt's and a sample's number."""

    def __init__(self, folder, model, **overrides):
        self.folder, self.model = folder, model
        values = {"output_uri": str(folder / "run"), "base_model": str(folder / "base"), "preference_model": "long:"}
        values |= {"evaluate.second_judge": "", "evaluate.instructions.final": 0}
        values["evaluate.instructions.count"] = 0  # these answers are written, and a model's would be asked for
        self.config = resolve(values | overrides)
        self.store = LocalStore(folder / "run")
        self.held_out = folder / "held-out.parquet"
        rows = [{"prompt_id": f"p{i}", "prompt": f"prompt {i}", "prompt_ids": [i]} for i in range(PROMPTS)]
        tables.write(self.held_out, tables.PROMPTS, rows)

    def answered(self, name, answer):
        """The URI of a model that answers so."""
        folder = self.folder / name
        folder.mkdir()
        for path in self.model.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "name.txt").write_text(name)
        texts = {(i, sample): answer(i, sample) for i in range(PROMPTS) for sample in range(SAMPLES)}
        rows = [
            {"prompt_id": f"p{i}", "prompt": f"prompt {i}", "sample": sample, "text": text, "tokens": len(text.split())}
            for (i, sample), text in texts.items()
        ]

        def work(output):
            tables.write(output / keys.ANSWERS_FILE, tables.ANSWERS, rows)
            return {}

        digest = model_digest(folder)
        made = lineage_of(self.config).answers()
        run_once(self.store, keys.answers(digest, made), {"stage": made, "model": digest}, work)
        return str(folder)

    def evaluate(self, iteration, new, previous):
        return evaluate(self.config, iteration, new, previous, self.held_out)


def sentence(words, facts=0, filler="very"):
    """An answer of so many words."""
    return " ".join([*["fact"] * facts, *[filler] * (words - facts)])


def plain(i, sample):
    return sentence(10 + i % 3 + sample)


def padded(share):
    """The same answers, longer by a share."""
    return lambda i, sample: sentence(round((1 + share) * (10 + i % 3 + sample)))


def better(i, sample):
    return sentence(10 + i % 3 + sample, facts=2, filler="words")


def test_a_judge_that_prefers_longer_answers_is_caught_by_the_length_limit(judges, tmp_path, tiny_llama):
    run = Run(tmp_path, tiny_llama)
    base, padding = run.answered("base", plain), run.answered("padding", padded(0.8))
    found = run.evaluate(1, padding, base)
    assert found.figures["eval/win_rate_vs_previous"] == 1.0, "the judge is fooled"
    assert found.decision == "keep-previous" and found.policy_uri == base
    assert "times as long as the base model's" in found.reason
    verdict = json.loads((found.folder / keys.VERDICT_FILE).read_text())
    assert (verdict["policy_uri"], verdict["best_iteration"]) == (base, 0) and verdict["reason"] == found.reason


def test_growth_in_small_steps_is_measured_against_the_base(judges, tmp_path, tiny_llama):
    run = Run(tmp_path, tiny_llama)
    base = run.answered("base", plain)
    first, second = run.answered("first", padded(0.3)), run.answered("second", padded(0.6))
    assert run.evaluate(1, first, base).decision == "continue"
    found = run.evaluate(2, second, first)
    assert found.decision == "keep-previous" and found.policy_uri == first


def test_a_judge_that_prefers_longer_answers_is_caught_by_the_second_judge(judges, tmp_path, tiny_llama):
    run = Run(tmp_path, tiny_llama, **{"evaluate.second_judge": "fact:"})
    base, padding = run.answered("base", plain), run.answered("padding", padded(0.4))
    found = run.evaluate(1, padding, base)
    assert found.figures["eval/win_rate_vs_previous_low"] > 0.5 > found.figures["eval/second_win_rate_vs_base_high"]
    assert found.figures["eval/second_disagreement"] > 0.9
    assert found.decision == "keep-previous" and found.policy_uri == base
    assert "by the second judge" in found.reason and "times as long" not in found.reason


def test_a_model_that_got_better_passes(judges, tmp_path, tiny_llama):
    run = Run(tmp_path, tiny_llama, **{"preference_model": "fact:", "evaluate.second_judge": "long:"})
    base, new = run.answered("base", plain), run.answered("new", better)
    found = run.evaluate(1, new, base)
    assert found.decision == "continue" and found.policy_uri == new
    figures = found.figures
    assert figures["eval/win_rate_vs_base_low"] == 1.0 and figures["eval/ties_vs_base"] == 0
    assert figures["eval/sign_test_p_vs_base"] == pytest.approx(2 * 0.5**PROMPTS)
    assert figures["eval/lc_win_rate_vs_base"] > 0.99
    assert figures["eval/length_matched_win_rate_vs_base"] == 1.0
    assert figures["eval/length_matched_win_rate_vs_base_prompts"] == PROMPTS
    rows = tables.read(found.folder / keys.COMPARISONS_FILE, tables.COMPARISONS)
    assert len(rows) == 2 * PROMPTS and {row["win_rate"] for row in rows} == {1.0}


def test_the_best_model_is_the_one_with_the_highest_probability_and_not_the_last(judges, tmp_path, tiny_llama):
    run = Run(tmp_path, tiny_llama, **{"preference_model": "fact:", "evaluate.gate.keep_previous_below": 0})
    names = {"two": 2, "one": 1, "too": 2}
    models = {
        name: run.answered(name, lambda i, sample, facts=facts: sentence(11, facts)) for name, facts in names.items()
    }
    previous, verdicts = run.answered("base", plain), []
    for t, uri in enumerate((models["two"], models["one"], models["too"]), start=1):
        found = run.evaluate(t, uri, previous)
        assert found.policy_uri == uri, "the next iteration begins with the newest one that the gate keeps"
        verdicts.append(json.loads((found.folder / keys.VERDICT_FILE).read_text()))
        previous = uri
    assert [verdict["decision"] for verdict in verdicts] == ["continue", "continue", "stop"]
    assert [verdict["best_iteration"] for verdict in verdicts] == [1, 1, 3], "of equals the last one"


def test_no_comparison_is_judged_twice(judges, tmp_path, tiny_llama):
    run = Run(tmp_path, tiny_llama, **{"evaluate.second_judge": "fact:"})
    base, first = run.answered("base", plain), run.answered("first", better)
    second = run.answered("second", lambda i, sample: better(i, sample) + f" {sample}")
    run.evaluate(1, first, base)  # the previous model is the base
    asked = judges["long"].asked
    assert len(asked) == len(set(asked)) == 2 * PROMPTS * SAMPLES**2
    run.evaluate(2, second, first)
    assert len(asked) == len(set(asked)) == 3 * 2 * PROMPTS * SAMPLES**2
    assert sorted(judges["fact"].asked) == sorted(asked)
    run.evaluate(2, second, first)
    assert len(asked) == 3 * 2 * PROMPTS * SAMPLES**2


def test_the_second_judge_is_checked_before_anything_is_played(tmp_path, tiny_llama, write_prompts):
    def prepared(second):
        values = {
            "output_uri": str(tmp_path / "run"),
            "base_model": str(tiny_llama),
            "preference_model": "package:sppo",
        }
        return prepare(resolve(values | {"evaluate.second_judge": second}))

    with pytest.raises(ConfigError, match=r"evaluate.second_judge: package:sppo is the training judge"):
        prepared("package:sppo")
    with pytest.raises(ConfigError, match="no such model folder"):
        prepared(str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="not a preference model"):
        prepared(str(tiny_llama))
