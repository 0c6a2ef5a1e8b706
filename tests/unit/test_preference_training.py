import gzip
import json

import numpy as np
import pytest

from sppo.errors import ConfigError
from sppo.preference import load_preference_model
from sppo.preference.card import command
from sppo.preference.config import TrainPreferenceConfig
from sppo.preference.measure import agreement, calibrate
from sppo.preference.pairs import Pair, read_pairs, split
from sppo.preference.training import train_preference


def write_pairs(path, count):
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"A kind and complete answer {i}.", "rejected": f"No {i}."}
        for i in range(count)
    ]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def test_training_is_reproducible_and_learns(tmp_path, capsys):
    train, test = write_pairs(tmp_path / "train.jsonl.gz", 32), write_pairs(tmp_path / "test.jsonl", 8)

    def run(name):
        config = TrainPreferenceConfig(
            train=(train,), evaluate={"easy": test}, output=str(tmp_path / name), licenses={"train.jsonl.gz": "MIT"},
            seed=1, epochs=3, batch_size=8, learning_rate=2e-3, rank=2, max_length=64, dtype="float32",
        )  # fmt: skip
        return train_preference(config), (tmp_path / name / "adapter.safetensors").read_bytes()

    (result, weights), (_, again) = run("one"), run("two")
    assert weights == again
    assert result["evaluate"]["easy"]["accuracy"] == 1.0
    assert result["train_pairs"] + result["development"]["train.jsonl.gz"]["pairs"] == 32
    assert "step" in capsys.readouterr().out
    card = (tmp_path / "one" / "README.md").read_text()
    assert "| easy | 8 | 100.0% ± 0.0% | 100.0% |" in card
    assert "`train.jsonl.gz`, MIT" in card and f"--train {train}" in card
    model = load_preference_model(str(tmp_path / "one"))
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
        ("{\n", "line 1: not JSON"),
        ("[]\n", "line 1: column 'prompt'"),
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


def test_calibration_recovers_the_temperature_of_overconfident_logits():
    random = np.random.default_rng(0)
    margin = random.normal(size=20000)
    correct = random.random(20000) < 1 / (1 + np.exp(-margin))
    signed = np.where(correct, margin, -margin)
    assert calibrate(np.stack((4 * signed, -4 * signed), axis=1)) == pytest.approx(4, rel=0.1)


def test_command_leaves_defaults_out():
    config = TrainPreferenceConfig(train=("a b.jsonl",), evaluate={"x": "y.jsonl"}, output="out", epochs=7)
    words = command(config).split(" \\\n    ")
    assert words == [
        "sppo train-preference",
        "--train 'a b.jsonl'",
        "--evaluate x=y.jsonl",
        "--output out",
        "--epochs 7",
    ]
