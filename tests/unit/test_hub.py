"""Models of a hub, asked over HTTP: which commit they are, and what their weights are before any is downloaded."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file

from sppo.errors import InfrastructureError
from sppo.models.headers import tensors_of
from sppo.preparing.recorded import recorded_config
from tests.unit.hub import Hub

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture
def prepare(hub, tmp_path, write_prompts, run_sppo, monkeypatch):
    """`sppo prepare` with a cache of its own, which asks the hub; its result and the run's folder."""
    prompts = write_prompts([f"What is {i} and {i}?" for i in range(8)])

    def play(base_model: str, run: str = "run", *, online: bool = True, **changes: str):
        folder = tmp_path / run
        values = {
            "output_uri": folder, "base_model": base_model, "prompts": prompts, "iterations": 1,
            "prepare.held_out": 2, "prepare.prompts_per_iteration": 6,
            "generate.max_tokens": 32, "evaluate.max_tokens": 32,
            "evaluate.instructions.count": 0, "evaluate.instructions.final": 0,
            "prepare.max_prompt_tokens": 128, **changes,
        }  # fmt: skip
        # What HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE set where the library is imported afterwards.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not online)
        return run_sppo("prepare", *(f"{name}={value}" for name, value in values.items())), folder

    return play


def recorded(folder: Path) -> dict:
    return recorded_config(str(folder)).asked()


def test_the_weights_are_looked_at_and_not_downloaded(hub, prepare, tiny_llama):
    commit = hub.push("org/tiny", tiny_llama)
    result, folder = prepare("hf://org/tiny")
    assert result.code == 0, result.err
    assert recorded(folder)["base_model"] == f"hf://org/tiny@{commit}"
    spans = [span for path, span in hub.asked if path.endswith(WEIGHTS)]
    assert spans and all(spans), "a range of the file, never the file"


def test_a_damaged_model_of_a_hub_is_refused(hub, prepare, tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "damaged")
    weights = load_file(folder / WEIGHTS)
    weights.pop("model.norm.weight")
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    hub.push("org/damaged", folder)
    result, run = prepare("hf://org/damaged")
    assert result.code == 2 and "lack model.norm.weight; download or save the model again" in result.err
    assert not any(run.glob("prepared-*"))


def test_a_later_start_takes_the_commit_of_the_first(hub, prepare, tiny_llama, tmp_path):
    first = hub.push("org/tiny", tiny_llama)
    assert prepare("hf://org/tiny")[0].code == 0
    newer = shutil.copytree(tiny_llama, tmp_path / "newer")
    (newer / "config.json").write_text((newer / "config.json").read_text().replace("256", "512"))
    second = hub.push("org/tiny", newer)
    result, other = prepare("hf://org/tiny", "other")
    assert result.code == 0 and recorded(other)["base_model"] == f"hf://org/tiny@{second}"
    for online in (True, False):
        result, folder = prepare("hf://org/tiny", online=online)
        assert result.code == 0, result.err
        assert recorded(folder)["base_model"] == f"hf://org/tiny@{first}"
    result, _ = prepare(f"hf://org/tiny@{second}")
    assert result.code == 0 and f"changed: base_model: hf://org/tiny@{first} -> hf://org/tiny@{second}" in result.out
    assert prepare(f"hf://org/tiny@{first}")[0].code == 0


def test_a_branch_is_the_commit_that_it_was(hub, prepare, tiny_llama, tmp_path):
    first = hub.push("org/tiny", tiny_llama)
    assert prepare("hf://org/tiny@main")[0].code == 0
    hub.push("org/tiny", shutil.copytree(tiny_llama, tmp_path / "newer"))
    result, folder = prepare("hf://org/tiny@main")
    assert result.code == 0 and recorded(folder)["base_model"] == f"hf://org/tiny@{first}"


def test_judges_of_a_hub_are_commits_too(hub, prepare, tiny_llama):
    commit = hub.push("org/tiny", tiny_llama)
    judge = "transformers:hf://org/tiny"
    result, folder = prepare("hf://org/tiny", preference_model=judge, **{"evaluate.second_judge": "vllm:hf://org/tiny"})
    assert result.code == 0, result.err
    values = recorded(folder)
    assert values["preference_model"] == f"{judge}@{commit}"
    assert values["evaluate"]["second_judge"] == [f"vllm:hf://org/tiny@{commit}"]
    members = json.dumps([{"model": judge}, {"model": "package:sppo"}])
    result, folder = prepare("hf://org/tiny", "mixed", preference_model="mixture", **{"judge.mixture": members})
    assert result.code == 0, result.err
    assert [member["model"] for member in recorded(folder)["judge"]["mixture"]] == [f"{judge}@{commit}", "package:sppo"]


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("hf://org/absent", 2, "hf://org/absent: "),
        ("hf://org/tiny@v9", 2, "hf://org/tiny@v9: "),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(hub, prepare, tiny_llama, uri, code, message):
    hub.push("org/tiny", tiny_llama)
    result, _ = prepare(uri)
    assert result.code == code and message in result.err and "Traceback" not in result.err


def test_without_a_hub_and_a_cache_it_says_so(hub, prepare, tiny_llama):
    hub.push("org/tiny", tiny_llama)
    result, _ = prepare("hf://org/tiny", online=False)
    assert result.code == 3 and "not in the local cache and the hub cannot be reached" in result.err


@pytest.mark.parametrize(
    ("uri", "status", "code", "message"),
    [
        ("hf://org/none", 0, 2, "no such repository on the hub; check its name, or set HF_TOKEN if private"),
        ("hf://org/tiny@none", 0, 2, "no such revision on the hub"),
        ("hf://org/tiny", 403, 2, "403"),
        ("hf://org/tiny", 503, 3, "503"),
    ],
)
def test_what_a_hub_refuses_is_one_line(hub, prepare, tiny_llama, monkeypatch, uri, status, code, message):
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    hub.push("org/tiny", tiny_llama)
    hub.status = status
    result, run = prepare(uri)
    assert (result.code, result.err.count("\n")) == (code, 1), result.err
    assert result.err.startswith(f"error: {uri}: ") and message in result.err
    assert not any(run.glob("prepared-*"))


def test_headers_that_a_busy_hub_does_not_give_are_no_mistake(hub, prepare, tiny_llama, monkeypatch):
    """The model's small files are in the cache, and the hub fails when it is asked for the weights' headers."""
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    hub.push("org/tiny", tiny_llama)
    assert prepare("hf://org/tiny")[0].code == 0
    hub.status = 503
    with pytest.raises(InfrastructureError, match=r"^hf://org/tiny: "):
        tensors_of("hf://org/tiny", Path("/none"))
    dead = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", dead + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(InfrastructureError, match=r"^hf://org/tiny: the hub cannot be reached"):
        tensors_of("hf://org/tiny", Path("/none"))
