"""What is asked before a command: the version, and one whose name is nearly right."""

import re
import shlex
from importlib.metadata import version

import pytest
import yaml
from sppo_pipelines import cli
from sppo_pipelines.overview import EXAMPLES
from sppo_pipelines.words import answer_at_once, values_together

from .real_commands import ROOT, check


def test_the_version_is_the_packages(run_sppo):
    result = run_sppo("--version")
    assert (result.code, result.out) == (0, f"sppo {version('sppo')}\n")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rnu", "rnu: no such command; did you mean run?"),
        ("sumbit", "did you mean submit?"),
        ("xyz", "commands are run,"),
    ],
)
def test_a_command_that_does_not_exist_names_the_one_that_is_meant(run_sppo, word, said):
    result = run_sppo(word)
    assert result.code == 2 and said in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("run", "--iterations", "1"), "iterations=1"),
        (("run", "--plan-only", "--train.eta=500"), "train.eta=500"),
        (("submit", "--base-model", "hf://a/b"), "base_model=hf://a/b"),
    ],
)
def test_a_value_that_is_written_as_a_flag_is_told_how_it_is_written(run_sppo, words, meant):
    result = run_sppo(*words)
    assert result.code == 2 and result.err.endswith(f"values of a run are no flags; write {meant}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["compile", "output_uri=s3://x/y"],
            "`sppo compile` takes no values of a run; `sppo run` and `sppo submit` do",
        ),
        (["run", "training_gpus=2"], "training_gpus: is the hardware of pods; `sppo submit` takes it"),
    ],
)
def test_values_of_another_command_are_told_where_they_go(run_sppo, words, said):
    result = run_sppo(*words)
    assert result.code == 2 and said in result.err and len(result.err.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["--verbose"], ["iterations=1", "--plan-only"]])
def test_flags_and_values_as_they_should_be_are_left_alone(words, capsys):
    answer_at_once(["run", *words], cli.GROUPS)
    assert capsys.readouterr() == ("", "")


def test_the_overview_names_every_command_and_real_examples(run_sppo):
    result = run_sppo("--help")
    assert result.code == 0
    shown = re.findall(r"^  ([a-z-]+)  +\S", result.out, re.MULTILINE)
    assert shown == list(cli.COMMANDS) and [title in result.out for title in cli.GROUPS] == [True] * 4
    examples = [line.strip() for line in result.out.splitlines() if line.startswith("  sppo ")]
    assert examples == list(EXAMPLES)
    for line in examples:
        if not line.endswith("--help"):
            check(shlex.split(line))


def test_a_missing_command_is_answered_with_what_there_is(run_sppo):
    result = run_sppo()
    assert result.code == 2 and result.out == run_sppo("--help").out


def test_the_version_is_the_same_in_every_file():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == declared
    assert re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1) == declared


@pytest.mark.parametrize(
    ("words", "together"),
    [
        ("run seed=1 --plan-only iterations=2", "run seed=1 iterations=2 --plan-only"),
        ("config show --preset cpu train.eta=5 seed=1", "config show --preset cpu train.eta=5 seed=1"),
        ("resume runs/x --host https://h base_model=/m", "resume runs/x --host https://h base_model=/m"),
        ("judge a.jsonl --license f=MIT", "judge a.jsonl --license f=MIT"),
        ("run --config a.yaml seed=1 --plan-only iterations=2", "run --config a.yaml seed=1 iterations=2 --plan-only"),
        (
            "judge --judge j judge.cache=false --benchmark a.jsonl",
            "judge --judge j judge.cache=false --benchmark a.jsonl",
        ),
        ("submit training_gpus=8 --host h seed=1", "submit training_gpus=8 seed=1 --host h"),
        ("run", "run"),
        (
            "train-preference --train a.jsonl epochs=1 --evaluate rank=b.jsonl rank=2 --output j",
            "train-preference epochs=1 rank=2 --train a.jsonl --evaluate rank=b.jsonl --output j",
        ),
    ],
)
def test_values_may_stand_on_both_sides_of_a_flag(words, together):
    assert values_together(words.split()) == together.split()


def test_values_after_a_flag_are_read(run_sppo):
    result = run_sppo("config", "show", "iterations=1", "--preset", "cpu", "train.eta=5")
    shown = yaml.safe_load(result.out)
    assert (shown["iterations"], shown["train"]["eta"]) == (1, 5.0)
