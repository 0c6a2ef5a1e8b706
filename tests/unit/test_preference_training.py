import gzip
import json
import re
import shlex
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.agreement import agreement, calibrate, calibration_error, paired_test, reliability
from sppo.judging.labelled_pairs import Pair, read_pairs, split
from sppo.judging.load import load_judge
from sppo.judging.pairwise import fit
from sppo.judging.pairwise.card import command
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig
from sppo.judging.pairwise.fit import train_preference

from .untrained_encoders import write_first_layer


def write_pairs(path, count):
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"A kind and complete answer {i}.", "rejected": f"No {i}."}
        for i in range(count)
    ]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def test_an_interrupted_training_leaves_what_was_there(tmp_path, monkeypatch):
    train, output = write_pairs(tmp_path / "train.jsonl", 16), tmp_path / "judge"
    made = {"epochs": 1, "rank": 2, "max_length": 64, "dtype": "float32"}
    config = TrainPreferenceConfig(train=(train,), output=str(output), **made)
    train_preference(config)
    (output / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "calibrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_preference(config.model_copy(update={"seed": 2}))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    train_preference(config.model_copy(update={"seed": 2}))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert (
        after.keys() == before.keys()
        and after[output / "adapter.safetensors"] != before[output / "adapter.safetensors"]
    )


@pytest.mark.parametrize(
    ("made", "cost"),
    [
        ({"encodes": "pair"}, "K responses to a prompt cost K(K-1) passes"),
        ({"encodes": "response"}, "K passes, and no preferences run in a circle"),
        ({"kind": "gpm", "dimension": 4}, "K passes, and preferences can run in a circle"),
    ],
    ids=["pair", "response", "gpm"],
)
def test_training_is_reproducible_and_learns(tmp_path, capsys, made, cost):
    train, test = write_pairs(tmp_path / "train.jsonl.gz", 32), write_pairs(tmp_path / "test.jsonl", 8)
    encoder = write_first_layer(tmp_path / "encoder")

    def run(name):
        config = TrainPreferenceConfig(
            train=(train,), evaluate={"easy": test}, baseline="package:sppo", output=str(tmp_path / name),
            licenses={"train.jsonl.gz": "MIT"}, **made, seed=1, epochs=3, batch_size=8, learning_rate=2e-3,
            rank=2, max_length=64, dtype="float32", encoder=encoder,
        )  # fmt: skip
        return train_preference(config), (tmp_path / name / "adapter.safetensors").read_bytes()

    (result, weights), (_, again) = run("one"), run("two")
    assert weights == again
    assert result["evaluate"]["easy"]["accuracy"] == 1.0
    assert result["train_pairs"] + result["development"]["train.jsonl.gz"]["pairs"] == 32
    told = capsys.readouterr().out
    assert "step" in told and "pairs to train on show the way, and hardly more" in told
    card = (tmp_path / "one" / "README.md").read_text()
    assert "| easy | 8 | 100.0% ± 0.0% | 100.0% |" in card
    assert result["baseline"].startswith("package:sppo (") and result["baseline"] in card
    assert result["comparison"]["easy"] == result["comparison"]["all"] and result["comparison"]["all"]["only_old"] == 0
    assert "| all | 8 | 0 |" in card and "| 100.0% | 100.0% | none |" in card
    assert sum(each.pairs for each in result["reliability"]) == 8
    assert "`train.jsonl.gz`, MIT" in card and f"--train {train}" in card
    assert cost in card
    model = load_judge(str(tmp_path / "one"), JudgeConfig(cache=False))
    (matrix,) = model.logits(["Question 99?"], [["A kind and complete answer 99.", "No 99."]])
    assert matrix[0, 1] > 0 > matrix[1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"prompt": "p", "chosen": "c", "rejected": "r"}\n{"prompt": "p", "chosen": "c"}\n',
            "line 2: column 'rejected'",
        ),
        ('{"prompt": 1, "chosen": "c", "rejected": "r"}\n', "line 1: column 'prompt'"),
        ('{"prompt": "p", "chosen": "c", "rejected": "r", "group": "\\ud800"}\n', "line 1: column 'group' is not a"),
        ("{\n", "line 1: not JSON"),
        ("[]\n", "line 1: not a JSON object"),
        ("", "holds no preference pairs"),
    ],
)
def test_wrong_pair_files_are_named(tmp_path, content, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_pairs(str(path))


def test_missing_and_foreign_files_are_named_before_any_training(tmp_path):
    config = TrainPreferenceConfig(train=(str(tmp_path / "absent.jsonl"),), output=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"absent\.jsonl: no such file"):
        train_preference(config)
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(ConfigError, match=r"are read from \.jsonl"):
        read_pairs(str(tmp_path / "pairs.csv"))
    (tmp_path / "broken.jsonl.gz").write_text("not gzip")
    with pytest.raises(ConfigError, match="not readable"):
        read_pairs(str(tmp_path / "broken.jsonl.gz"))


def test_a_pair_without_a_group_is_of_its_prompts(tmp_path):
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"} | group for group in ({}, {"group": None}, {"group": 3})]
    (tmp_path / "pairs.JSON").write_text(json.dumps(rows))
    assert [pair.group for pair in read_pairs(str(tmp_path / "pairs.JSON"))] == ["p", "p", "3"]


def test_split_keeps_groups_together_and_depends_on_the_seed():
    pairs = [Pair(f"prompt {i}", "a", "b", f"group {i // 3}") for i in range(300)]
    training, development = split(pairs, 0.2, seed=0)
    assert len(training) + len(development) == 300 and 30 <= len(development) <= 90
    assert not {pair.group for pair in training} & {pair.group for pair in development}
    assert split(pairs, 0.2, seed=1) != (training, development)


def test_agreement_counts_ties_and_disagreeing_orders():
    pairs = [Pair("p", "long text", "short", "p"), Pair("p", "s", "long text", "p"), Pair("p", "aa", "bb", "p")]
    figures = agreement(pairs, np.array([[2.0, -1.0], [1.0, 3.0], [0.0, 0.0]]))
    assert figures["accuracy"] == figures["longer_wins"] == 0.5
    assert figures["order_disagreement"] == pytest.approx(1 / 3)


def test_agreement_tells_length_and_position_bias_from_accuracy():
    pairs = [Pair("p", "long text", "short", "p"), Pair("p", "s", "long text", "p"), Pair("p", "aa", "bb", "p")]
    longer_and_first = np.array([[3.0, -1.0], [-1.0, 3.0], [1.0, 1.0]])
    figures = agreement(pairs, longer_and_first)
    assert figures["prefers_longer"] == figures["accuracy_longer"] == 1 and figures["accuracy_shorter"] == 0
    assert figures["position_bias"] == 1
    assert np.isnan(agreement(pairs[:1], longer_and_first[:1])["accuracy_shorter"])


def test_reliability_of_probabilities_that_are_true_and_of_overconfident_ones():
    random = np.random.default_rng(0)
    margin = random.normal(size=20000)
    right = random.random(20000) < 1 / (1 + np.exp(-np.abs(margin)))
    signed = np.where(right, 1, -1) * np.abs(margin)
    curve = reliability(np.stack((signed, -signed), axis=1))
    assert len(curve) == 10 and sum(each.pairs for each in curve) == 20000
    assert [each.confidence for each in curve] == sorted(each.confidence for each in curve)
    assert curve[0].confidence == pytest.approx(0.5, abs=0.02) and calibration_error(curve) < 0.02
    assert calibration_error(reliability(np.stack((4 * signed, -4 * signed), axis=1))) > 0.15
    assert len(reliability(np.array([[1.0, -1.0]] * 3))) == 3


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 2.0]), st.sampled_from([-1.0, 0.0, 2.0])), min_size=1))
def test_paired_test_is_the_sign_test_of_the_pairs_that_differ(margins):
    old, new = (np.stack((column, -column), axis=1) for column in np.array(margins).T)
    result = paired_test(old, new)
    assert result["only_old"] == sum(a > 0 >= b for a, b in margins)
    assert result["only_new"] == sum(b > 0 >= a for a, b in margins)
    differing = int(result["only_old"] + result["only_new"])
    expected = binomtest(int(result["only_old"]), differing).pvalue if differing else 1.0
    assert result["p_value"] == pytest.approx(expected)


def test_calibration_recovers_the_temperature_of_overconfident_logits():
    random = np.random.default_rng(0)
    margin = random.normal(size=20000)
    correct = random.random(20000) < 1 / (1 + np.exp(-margin))
    signed = np.where(correct, margin, -margin)
    assert calibrate(np.stack((4 * signed, -4 * signed), axis=1)) == pytest.approx(4, rel=0.1)


def test_command_leaves_defaults_out():
    config = TrainPreferenceConfig(
        kind="gpm", train=("a b.jsonl",), evaluate={"x": "y.jsonl"}, output="out", seed=2, epochs=7, dtype="bfloat16"
    )
    words = command(config).split(" \\\n    ")
    assert words == [
        "sppo train-preference epochs=7 dtype=bfloat16",
        "--kind gpm",
        "--train 'a b.jsonl'",
        "--evaluate x=y.jsonl",
        "--output out",
        "--seed 2",
    ]


def arguments_of(line):
    """What a shell makes of a command line of `sppo`."""
    program, *arguments = shlex.split(line.replace("\\\n", ""))
    assert program == "sppo"
    return arguments


def test_the_command_of_a_card_repeats_its_training(tmp_path, run_sppo):
    train, test = write_pairs(tmp_path / "my train.jsonl", 32), write_pairs(tmp_path / "test.jsonl", 4)
    config = TrainPreferenceConfig(
        train=(train,), evaluate={"easy": test}, output=str(tmp_path / "out"), licenses={"my train.jsonl": "MIT; mine"},
        seed=3, epochs=1, learning_rate=1e-5, rank=2, max_length=64, dtype="float32",
    )  # fmt: skip
    assert run_sppo(*arguments_of(command(config))).code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"```\n{command(config)}\n```" in card
    assert "`my train.jsonl`, MIT; mine" in card and "peak learning rate\n1e-05," in card and "| easy | 4 |" in card


@pytest.mark.parametrize("folder", ["embedded", "second"])
def test_the_command_of_a_shipped_card_is_accepted(tmp_path, monkeypatch, run_sppo, folder):
    card = (files("sppo") / "judging" / "pairwise" / folder / "README.md").read_text()
    line = re.search(r"```\n(sppo train-preference .*?)\n```", card, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)  # where its files are not
    result = run_sppo(*arguments_of(line))
    assert result.code == 2
    assert result.err.endswith("hh_helpful_test.jsonl.gz: no such file of preference pairs\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluate", "foo"], "--evaluate: 'foo' has no '='; give NAME=FILE"),
        (["--license", "MIT"], "--license: 'MIT' has no '='; give FILENAME=LICENCE"),
        (["--baseline", "package:sppo"], "baseline: it is compared on held-out pairs; give --evaluate NAME=FILE too"),
        (["--license", "a.jsonl=MIT", "epochs=0"], "epochs: Input should be greater than or equal to 1 (got 0)"),
        (["--seed", "-1"], "seed: Input should be greater than or equal to 0 (got -1)"),
        (["seed=-1"], "seed: Input should be greater than or equal to 0 (got -1)"),
        (["epoch=7"], "epoch: unknown key; did you mean epochs?"),
        (["zzz=7"], "zzz: unknown key; the keys are kind, train, evaluate"),
        (["dimension=4"], "dimension: only --kind gpm reads it; leave it out"),
        (["--kind", "gpm", "encodes=pair"], "encodes: only --kind encoder reads it; leave it out"),
        (["--kind", "gpm", "dimension=3"], "dimension: Input should be a multiple of 2 (got 3)"),
        (["epochs=x", "rank=0"], "epochs: Input should be a valid integer"),
        (["epochs"], "'epochs' is not KEY=VALUE"),
        (["epochs=7"], "absent.jsonl: no such file"),
        (["--kind", "gpm"], "absent.jsonl: no such file"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, run_sppo, arguments, message):
    train, output = str(tmp_path / "absent.jsonl"), tmp_path / "out"
    code, _, error = run_sppo("train-preference", "--train", train, "--output", str(output), *arguments)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not output.exists()
