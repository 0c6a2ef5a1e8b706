"""Model folders of a run: whole paths are recorded, and a folder that moved is found where its owner says it is."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sppo_pipelines import local

from sppo.errors import ConfigError, InfrastructureError
from sppo.judging.load import judge_digest
from sppo.models.fetch import BASE_FILE, Base, fetch_model, fetch_policy, model_digest
from sppo.preparing.recorded import recorded_config
from sppo.process.contents import find_folders
from sppo.process.stage import playing
from sppo.store import keys
from sppo.store.opening import open_store


@pytest.fixture
def prepare(run_sppo, tmp_path, tiny_llama, write_prompts, monkeypatch):
    """`sppo prepare` of a run in `run`, from a folder with the models `models/base` and `models/judge`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_llama, "models/base")
    shutil.copytree(fetch_model("package:sppo"), "models/judge")
    values = {
        "output_uri": "run", "prompts": write_prompts([f"What is {i} and {i}?" for i in range(8)]), "iterations": 1,
        "prepare.held_out": 2, "prepare.prompts_per_iteration": 6, "prepare.max_prompt_tokens": 128,
        "generate.max_tokens": 32, "evaluate.max_tokens": 32,
        "evaluate.instructions.count": 0, "evaluate.instructions.final": 0,
        "base_model": "models/base", "preference_model": "models/judge",
    }  # fmt: skip

    def play(**changes):
        return run_sppo("prepare", *(f"{key}={value}" for key, value in (values | changes).items()))

    return play


@pytest.fixture
def moved(prepare, tmp_path):
    """The configuration of a run whose models were moved since it was prepared."""
    assert prepare().code == 0
    (tmp_path / "models").rename(tmp_path / "new place")
    return recorded_config("run")


def config_path(config):
    """A file with a configuration, as a stage takes it."""
    path = Path("config.json").absolute()
    path.write_text(config.model_dump_json())
    return str(path)


def refused(config, **places):
    with pytest.raises(ConfigError) as caught:
        find_folders(config, places)
    return str(caught.value)


def test_relative_folders_are_recorded_as_whole_paths(prepare, tmp_path, monkeypatch):
    assert prepare().code == 0
    config = recorded_config("run")
    assert (config.base_model, config.preference_model) == (f"{tmp_path}/models/base", f"{tmp_path}/models/judge")
    judge = judge_digest(config.preference_model, config.judge)
    digests = {"base_model": model_digest(tmp_path / "models" / "base"), "preference_model": judge}
    assert {key: config.contents[key] for key in digests} == digests
    monkeypatch.chdir(tmp_path / "models")
    there = prepare(output_uri="../run", base_model=(tmp_path / "models" / "base").as_uri(), preference_model="judge")
    assert there.code == 0, there.err
    assert prepare(output_uri="../run").code == 2, "the same words mean another folder there"


def test_every_judge_that_is_a_folder_has_a_whole_path(prepare, tmp_path):
    members = '[{"model": "models/judge"}, {"model": "package:sppo"}]'
    result = prepare(preference_model="mixture", **{"judge.mixture": members, "evaluate.second_judge": "models/judge"})
    assert result.code == 0, result.err
    config = recorded_config("run")
    assert config.evaluate.second_judge == (config.judge.mixture[0].model,) == (f"{tmp_path}/models/judge",)
    assert (config.preference_model, config.judge.mixture[1].model) == ("mixture", "package:sppo")


def test_a_stage_finds_what_moved(moved, prepare, tmp_path):
    base, judge = tmp_path / "new place" / "base", tmp_path / "new place" / "judge"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"a": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    (adapter / BASE_FILE).write_text(Base(uri=moved.base_model, sha256=model_digest(base)).model_dump_json())

    @playing
    def rank(config_path, uri):
        return fetch_policy(uri).base, judge_digest(moved.preference_model, moved.judge)

    path = config_path(moved)
    with pytest.raises(ConfigError, match=r"is an adapter of .*models/base, which is not there; put it back"):
        rank(path, str(adapter))
    assert "base_model: " in refused(moved) and refused(moved).endswith("name its new place: base_model=FOLDER")
    find_folders(moved, {"base_model": "new place/base", "preference_model": judge.as_uri()})
    found = base, judge_digest(str(judge), moved.judge)
    assert rank(path, moved.base_model) == rank(path, str(adapter)) == found
    assert fetch_policy(str(base)).base == base
    with pytest.raises(ConfigError, match="no such model folder"):
        fetch_model(moved.base_model)
    find_folders(recorded_config("run"), {})
    for word in ("models", "new place"):
        again = prepare(base_model=f"{word}/base", preference_model=f"{word}/judge")
        assert again.code == 0, again.err
    assert recorded_config("run") == moved


def test_another_model_is_not_taken_for_the_one_that_moved(moved, prepare, tmp_path):
    weights = tmp_path / "new place" / "base" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    assert "new place/base holds another model than " in refused(moved, base_model="new place/base")
    assert "new place/base: not a preference model" in refused(moved, preference_model="new place/base")
    assert "base_model: /none: no such model folder" in refused(moved, base_model="/none")
    assert prepare().code == 2, "the folders are not there"
    assert refused(moved, seed="1").startswith("seed: a resumed run keeps its values")
    assert open_store("run").read(keys.PLACES) is None


def test_a_model_that_is_no_folder_does_not_move(prepare):
    assert prepare(preference_model="package:sppo", **{"evaluate.second_judge": ""}).code == 0
    config = recorded_config("run")
    told = refused(config, preference_model="models/judge")
    assert told.startswith("preference_model: this run's is package:sppo, of which it recorded no folder")


def test_resume_names_the_new_place(moved, run_sppo, monkeypatch):
    played = []
    monkeypatch.setattr(local, "run_locally", lambda values, plan_only, verbose: played.append(values))
    result = run_sppo("resume", "run", "base_model=new place/base")
    assert result.code == 2 and "preference_model: " in result.err and result.err.count("\n") == 1
    result = run_sppo("resume", "run", "base_model=new place/base", "preference_model=new place/judge")
    assert result.code == 0, result.err
    assert played == [moved.asked()]
    result = run_sppo("resume", "a-b", "base_model=x", "--host", "http://127.0.0.1:9")
    assert result.code == 2 and "base_model=x: names a folder of this machine" in result.err


def test_an_error_of_the_store_is_one_of_the_stage(moved, monkeypatch):
    def read(*_):
        raise InfrastructureError("the store is away")

    @playing
    def rank(config_path):
        raise AssertionError

    path = config_path(moved)
    monkeypatch.setattr("sppo.process.stage.places", read)
    with pytest.raises(InfrastructureError, match="the store is away"):
        rank(path)
