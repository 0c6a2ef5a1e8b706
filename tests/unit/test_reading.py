"""KEY=VALUE and YAML: text is text, the type of a field decides, and every mistake is one line."""

import json

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from sppo_pipelines.submission.package import kinds_of_keys

from sppo.cli import collect_values
from sppo.config.reading import parse_yaml, read_mapping, read_overrides
from sppo.config.run import Form, RunConfig, all_keys, kinds, resolve
from sppo.errors import ConfigError
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig

KINDS = kinds(RunConfig)
TEXTS = sorted(key for key, kind in KINDS.items() if kind is str)
ODD = ["runs/exp #2", "no", "1_000", "12:30:45", "2024-05-01", "[x", "{", "null", "~", "", " a ", "a: b", "'q'", "="]


def read(*arguments):
    return read_overrides(arguments, KINDS)


@given(st.sampled_from(TEXTS), st.text() | st.sampled_from(ODD))
def test_text_for_a_text_field_is_taken_as_it_is(key, text):
    assert read(f"{key}={text}") == {key: text}


@pytest.mark.parametrize("text", [text for text in ODD if text])
def test_it_reaches_the_configuration_from_the_command_line_and_from_a_form(text):
    assert resolve(collect_values(None, None, [f"experiment={text}"])).experiment == text
    assert resolve(Form({"experiment": text, "iterations": 0}, {}).values()).experiment == text


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("iterations=3", 3),
        ("seed=010", 10),
        ("train.eta=5e-7", 5e-7),
        ("judge.cache=no", False),
        ("judge.cache=true", True),
        ("generate.engine=transformers", "transformers"),
        ("train.lora.target_modules=all-linear", "all-linear"),
        ("train.lora.target_modules=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ('judge.mixture=[{"model": "a: #b", "weight": 2}]', [{"model": "a: #b", "weight": 2}]),
        ("iterations=many", "many"),
        ("prompts={a}.jsonl", "{a}.jsonl"),
        ("prompts=[a].jsonl", "[a].jsonl"),
        ("prompts=[a.jsonl, s3://b/c.jsonl]", ["a.jsonl", "s3://b/c.jsonl"]),
    ],
)
def test_the_type_of_the_field_decides(argument, value):
    (found,) = read(argument).values()
    assert (found, type(found)) == (value, type(value))


def test_hardware_and_the_training_of_judges_have_types_too():
    arguments = ['training_node_selector={"pool": "no"}', "ranking_gpus=2", "generation_tolerations=[{key: a}]"]
    assert read_overrides(arguments, kinds_of_keys()) == {
        "training_node_selector": {"pool": "no"}, "ranking_gpus": 2, "generation_tolerations": [{"key": "a"}],
    }  # fmt: skip
    assert read_overrides(["epochs=7", "encoder=no"], kinds(TrainPreferenceConfig)) == {"epochs": 7, "encoder": "no"}


def message(call, *of):
    with pytest.raises(ConfigError) as caught:
        call(*of)
    return str(caught.value)


def test_a_key_twice_is_refused_by_name(tmp_path):
    assert message(read, "seed=1", "seed=1") == "seed: given twice on the command line; give it once"
    assert message(read, "train.eta=1", "train={eta: 2}").startswith("train.eta: given twice")
    assert "preset: given twice" in message(collect_values, "paper", None, ["preset=cpu"])
    for text, told in [
        ("seed: 1\ntrain:\n  eta: 1\n  eta: 2\n", "eta is given twice, the second time in line 4"),
        ("train: {eta: 1}\ntrain.eta: 2\n", "train.eta is given twice"),
        ("evaluate: {gate: {stop_below: 0}, gate.stop_below: 0}", "evaluate.gate.stop_below is given twice"),
    ]:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        assert message(collect_values, None, path, []) == f"config: {path}: {told}; give it once"
    assert message(read, "judge.mixture=[{model: a, model: b}]").startswith("judge.mixture: model is given twice")


def test_the_command_line_wins_over_every_way_to_write_a_key_in_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train.eta: 1\ntrain: {epochs: 2, schedule_epochs: 2}\n")
    train = resolve(collect_values(None, path, ["train.eta=3", "train={epochs: 1}"])).train
    assert (train.eta, train.epochs, train.schedule_epochs) == (3, 1, 2)


@pytest.mark.parametrize("value", ["no", "1", "2024-05-01", "12:30:45", "~"])
def test_a_file_is_yaml_and_the_error_says_to_quote(value):
    told = message(resolve, read_mapping(f"experiment: {value}", "mine.yaml"))
    assert told.startswith("experiment: Input should be a valid string (got ") and "; write text in quotes" in told
    assert resolve(read_mapping(f"experiment: '{value}'", "mine.yaml")).experiment == value


YAML = st.text("[]{}:,-?&*!|>'\"#%@`~<=ab01. \n") | st.text()


@given(YAML)
@example("[2024-13-45]")
@example("[0b_, 0x_]")
@example("[!!timestamp a]")
@example("[!!bool a]")
@example("[!!int a]")
@example("{a: &a {b: *a}}")
@example("[" * 5000)
@example("{a: {[b]: c}}")
@example("{<<: 1}")
def test_yaml_that_is_none_is_one_line(text):
    try:
        parse_yaml(text, "it")
    except ConfigError as error:
        assert str(error).startswith("it: ") and "\n" not in str(error)


KEYS = st.sampled_from([*all_keys(), "a." * 5000 + "a"]) | st.text() | st.text("train.eta", min_size=1)
VALUES = YAML | YAML.map("[{}]".format) | YAML.map("{{{}}}".format) | st.integers().map(str) | st.floats().map(str)
SURROGATES = st.text(st.characters(categories=["Cs", "Ll"]), max_size=3)


@given(KEYS | SURROGATES, VALUES | SURROGATES)
@example("iterations", "1" * 5000)
@example("judge.mixture", "[{model: &a [*a]}]")
@example("preset.x", "1")
@example("train", "{a: 1, 2: 3, ~: 4}")
def test_any_argument_is_a_configuration_or_one_line(key, value):
    try:
        assert isinstance(resolve(read(f"{key}={value}")), RunConfig)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error).replace(key, "")


@given(st.dictionaries(st.sampled_from(TEXTS), st.text(min_size=1)))
def test_what_yaml_writes_is_read_as_it_was(values):
    assert read_mapping(yaml.safe_dump(values), "it") == values
    assert read_mapping(json.dumps(values), "it") == values
