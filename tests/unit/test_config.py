import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sppo.config.run import (
    PRESETS,
    RunConfig,
    all_keys,
    flatten,
    load_preset,
    preset_values,
    read_config,
    resolve,
)
from sppo.errors import ConfigError, SppoError


def flat(values: dict, prefix: str = "") -> dict:
    result = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_whole_configuration(name):
    values = load_preset(name)
    config = resolve({"preset": name})
    assert config.preset == values["preset"] == name
    dumped = flat(preset_values(name))
    assert {key: dumped[key] for key in flat(values)} == flat(values)


def test_presets_differ_where_the_paper_and_the_released_code_do():
    paper, official = (flat(resolve({"preset": name}).model_dump()) for name in ("paper", "official"))
    assert {name for name in paper if paper[name] != official[name]} == {
        "preset",
        "generate.temperature",
        "generate.top_p",
        "rank.estimator",
        "train.schedule_epochs",
        "train.cut",
        "evaluate.temperature",
        "evaluate.top_p",
    }


def test_a_configuration_survives_its_own_json():
    config = resolve({"preset": "official", "train.eta": 12.5})
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert resolve(config.model_dump(mode="json")) == config


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        resolve({}).train.eta = 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.learning_rat": 1}, "train.learning_rat: unknown key; did you mean train.learning_rate?"),
        ({"iteratoins": 3}, "iteratoins: unknown key; did you mean iterations?"),
        (
            {"evaluate": {"gate": {"stop_belw": 1}}},
            "evaluate.gate.stop_belw: unknown key; did you mean evaluate.gate",
        ),
        ({"zzz": 1}, "zzz: unknown key; see `sppo config show` for the keys"),
        ({"train.eta": "high"}, "train.eta: Input should be a valid number"),
        ({"train.eta": float("nan")}, "train.eta: Input should be a finite number"),
        ({"train": 5}, "train: Input should be"),
        ({"generate.responses": 1}, "generate.responses: Input should be greater than or equal to 2 (got 1)"),
        ({"rank.estimator": "papr"}, "rank.estimator: Input should be 'paper' or 'official' (got 'papr')"),
        ({"preset": "papr"}, "preset: 'papr' is not one of cpu, paper, official, strong"),
        ({"train.epochs": 3, "train.schedule_epochs": 2}, "train: schedule_epochs (2) must be at least epochs (3)"),
        ({"evaluate": {"temperature": 0, "samples": 2}}, "evaluate: samples (2) must be 1 where temperature is 0"),
        ({"iterations": 2.5}, "iterations: Input should be a valid integer"),
    ],
)
def test_a_mistake_names_its_key_and_the_mend(overrides, message):
    with pytest.raises(ConfigError) as caught:
        resolve(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) and caught.value.exit_code == 2


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        resolve({"train.etaa": 1, "generate.top_p": 2, "seed": -1, "judge": {"dtype": "int8"}})
    for path in ("train.etaa", "generate.top_p", "seed", "judge.dtype"):
        assert f"{path}: " in str(caught.value)


@given(st.sampled_from([key for key in all_keys() if key not in flat(RunConfig().model_dump())]))
def test_sections_are_keys_too(key):
    """What `did you mean` offers are real paths: here the sections, whose values are mappings."""
    assert isinstance(resolve({key: {}}), RunConfig)


@given(st.integers(1, 50), st.integers(2, 9), st.floats(1, 5000))
def test_dotted_nested_and_half_dotted_overrides_are_the_same(iterations, responses, eta):
    dotted = {
        "iterations": iterations,
        "generate.responses": responses,
        "train.eta": eta,
        "evaluate.gate.stop_below": 0.1,
    }
    nested = {
        "iterations": iterations,
        "generate": {"responses": responses},
        "train": {"eta": eta},
        "evaluate": {"gate.stop_below": 0.1},
    }
    config = resolve(dotted)
    assert config == resolve(nested)
    assert (config.iterations, config.generate.responses, config.train.eta) == (iterations, responses, eta)


def test_the_last_override_wins_and_leaves_its_neighbours_alone():
    values = {"train": {"eta": 1.0, "epochs": 2}, "train.schedule_epochs": 4, "train.eta": 3.0}
    train = resolve(values).train
    assert (train.eta, train.epochs, train.schedule_epochs) == (3.0, 2, 4)
    assert train.global_batch == load_preset("cpu")["train"]["global_batch"]


@given(st.integers(1, 2**31 - 1))
def test_kubeflow_turns_integers_into_floats_which_changes_nothing(number):
    """Protobuf's Struct, which carries a dict parameter, knows one kind of number."""
    sent = resolve({"seed": float(number), "train": {"global_batch": float(number)}})
    assert sent == resolve({"seed": number, "train": {"global_batch": number}})
    assert type(sent.seed) is int


def test_the_digest_ignores_places_and_shards_only():
    digest = resolve({}).digest()
    assert resolve({"output_uri": "elsewhere", "experiment": "x", "shards": 7}).digest() == digest
    for change in ({"seed": 1}, {"train.eta": 1}, {"prompts": "other.csv"}, {"evaluate.gate.stop_below": 0.1}):
        assert resolve(change).digest() != digest


def test_every_failure_has_an_exit_code_of_its_own():
    codes = [kind.exit_code for kind in SppoError.__subclasses__()]
    assert sorted(codes) == [2, 3, 4, 5]


def test_a_run_of_another_version_is_told(tmp_path):
    values = json.loads(resolve({}).model_dump_json())
    values["train"]["micro_batch"] = 4
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        ConfigError, match=r"written by another version \(train\.micro_batch: unknown key; .*start a new run"
    ):
        read_config(tmp_path / "config.json")


def test_every_value_is_one_that_a_pipeline_can_hand_on():
    """Kubeflow Pipelines refuses a missing value (None) inside a parameter: a switch needs a value that is off."""
    for name in PRESETS:
        assert [
            key for key, value in flatten(resolve({"preset": name}).model_dump(mode="json")).items() if value is None
        ] == []


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a.jsonl", "b.jsonl"], "prompts: 2 places for 3 iterations; give one place, or one for each iteration"),
        ([], "prompts: give a place, or a list of places, one for each iteration; write text in quotes"),
        (["a.jsonl", 5, "c.jsonl"], "prompts: give a place, or a list"),
        ("", "prompts: give a place, or a list"),
        (5, "prompts: give a place, or a list"),
    ],
)
def test_prompts_are_a_place_or_one_for_each_iteration(prompts, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve({"prompts": prompts, "iterations": 3})


def test_of_more_places_than_iterations_the_first_are_played():
    paper = resolve({"preset": "paper", "iterations": 2})
    assert [uri[-5:] for uri in paper.prompt_sets()] == ["iter1", "iter2"]
    assert resolve({"prompts": "a.jsonl"}).prompt_sets() == ("a.jsonl",)


def test_one_place_has_the_digest_that_it_had_without_lists():
    config = resolve({"prompts": "a.jsonl"})
    assert config.read_by("prepare")["prompts"] == "a.jsonl"
    assert config.digest() != resolve({"prompts": ["a.jsonl"] * 3}).digest()
