"""Every recipe of examples/ is a configuration that a run or a submission takes, and its data can be read."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sppo_pipelines.cli import collect_values

from sppo.config.run import resolve
from sppo.judging.load import load_judge
from sppo.preparing.prompts import Counts, clean, divide, read_prompts

from .real_commands import ROOT, commands_of_page, parsed

FOLDER = ROOT / "examples"
RECIPES = sorted(FOLDER.glob("*.yaml"))
TRIED = [recipe for recipe in RECIPES if recipe.stem != "cluster"]
"""Those that a machine without a GPU plays."""
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)


def comments(recipe: Path) -> str:
    return "\n".join(re.findall(r"^# ?(.*)$", recipe.read_text(), re.MULTILINE))


@pytest.fixture
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipes say that they are started."""
    monkeypatch.chdir(ROOT)


def test_there_are_the_five() -> None:
    assert [recipe.stem for recipe in RECIPES] == ["cluster", "lora", "own-judge", "own-prompts", "rules"]


@each_recipe
def test_a_recipe_says_how_it_is_started(recipe: Path) -> None:
    started = [parsed(words[1:])[1] for words in commands_of_page(comments(recipe)) if words[0] == "sppo"]
    files = [values["config_file"] for values in started if "config_file" in values]
    assert files == [Path("examples") / recipe.name]


@pytest.mark.parametrize("recipe", TRIED, ids=lambda recipe: recipe.stem)
def test_its_prompts_suffice(recipe: Path, in_the_root: None) -> None:
    config = resolve(collect_values(None, recipe, ()))
    prompts = clean(read_prompts(config.prompts, config.prepare), Counts())
    wanted = config.prepare
    parts = divide(prompts, config.iterations, wanted.held_out, wanted.prompts_per_iteration)
    assert [len(part) for part in parts.iterations] == [wanted.prompts_per_iteration] * config.iterations


@pytest.mark.parametrize("name", ["own-prompts", "lora"])
def test_a_run_of_it_is_planned(name: str, in_the_root: None, run_sppo: Callable[..., Any], tmp_path: Path) -> None:
    result = run_sppo("run", "--config", f"examples/{name}.yaml", f"output_uri={tmp_path / 'run'}", "--plan-only")
    assert (result.code, result.err) == (0, "")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_the_judge_of_the_pairs_is_trained_and_judges(
    in_the_root: None, run_sppo: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = FOLDER / "own-judge.yaml"
    (train,) = [words for words in commands_of_page(comments(recipe)) if words[1] == "train-preference"]
    output = train[train.index("--output") + 1]
    assert yaml.safe_load(recipe.read_text())["preference_model"] == output
    here = [str(tmp_path / "judge") if word == output else word for word in train[1:]]
    assert run_sppo(here[0], "epochs=1", "training_length=64", *here[1:]).code == 0
    place = tmp_path / "run"
    values = (f"preference_model={tmp_path / 'judge'}", f"output_uri={place}")
    assert run_sppo("run", "--config", str(recipe), *values, "--plan-only").code == 0


def test_the_rule_scores_as_it_says(in_the_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = FOLDER / "rules.yaml"
    (allowed, folder) = re.search(r"export SPPO_RULES=(\S+) PYTHONPATH=(\S+)", comments(recipe)).groups()
    monkeypatch.setenv("SPPO_RULES", allowed)
    monkeypatch.syspath_prepend(folder)
    config = resolve(collect_values(None, recipe, ("judge.cache=false",)))
    (rule, _) = config.judge.mixture
    logits = load_judge(rule.model, config.judge).logits(["p"], [["One. Two.", "One.", "1. 2. 3. 4. 5. 6. 7. 8."]])
    assert logits[0][0].tolist() == [0, 1, 4]
    load_judge(config.preference_model, config.judge)


def test_the_recipe_for_a_cluster_is_submitted_dry(in_the_root: None, run_sppo: Callable[..., Any]) -> None:
    (words,) = [words for words in commands_of_page(comments(FOLDER / "cluster.yaml")) if words[0] == "sppo"]
    result = run_sppo(*words[1:])
    assert result.code == 0, result.err
    sent = yaml.safe_load(result.out)
    assert sent["parameters"]["training_gpus"] == "8" and sent["configuration"]["shards"] == 4
