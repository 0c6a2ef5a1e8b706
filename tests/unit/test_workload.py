"""What a run says that it will do, before it is submitted."""

import json
import sys

import pytest

from sppo.config.run import resolve
from sppo.process.workload import UNKNOWN, workload
from tests.unit.pairrm_checkpoints import write_checkpoint
from tests.unit.reward_models import write_reward_model


def write_set(path, count, name="prompt"):
    path.write_text("".join(json.dumps({"prompt": f"{name} {i}"}) + "\n" for i in range(count)))
    return str(path)


def test_the_papers_sizes_with_its_sets_and_judge(tmp_path):
    sets = [write_set(tmp_path / f"{name}.jsonl", 70, name) for name in "abc"]
    judge = str(write_checkpoint(tmp_path / "PairRM", "llm-blender"))
    values = {"preset": "paper", "prompts": sets, "preference_model": judge, "prepare.held_out": 4}
    told = workload(resolve(values))
    first = {"iteration": 1, "prompts": 66, "responses": 330, "tokens": 675_840, "judge passes": 1320, "steps": 2}
    later = {"prompts": 70, "responses": 350, "tokens": 716_800, "judge passes": 1400, "steps": 2}
    assert told["iterations"] == [first, {"iteration": 2, **later}, {"iteration": 3, **later}]
    assert told["notes"].keys() == {"tokens", "prompts"} and "at most" in told["notes"]["prompts"]


def test_one_place_is_divided_and_repeats_are_not_counted(tmp_path):
    place = write_set(tmp_path / "a.jsonl", 31)
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() + '{"prompt": " prompt 3 "}\n')
    told = workload(resolve({"prompts": place, "prepare.held_out": 4, "prepare.prompts_per_iteration": 0}))
    assert [each["prompts"] for each in told["iterations"]] == [9, 9, 9]


@pytest.mark.parametrize("kind", ["reward", "function", "mixture", "encoder"])
def test_passes_are_those_of_the_kind_of_judge(kind, tmp_path, tiny_llama):
    reward = str(write_reward_model(tmp_path / "reward", tiny_llama))
    members = [{"model": "package:sppo"}, {"model": reward}]
    uri, each = {
        "reward": (reward, 5),
        "function": ("rules:mine:score", 5),
        "mixture": ("mixture", 10),
        "encoder": ("package:sppo", 5),
    }[kind]
    values = {"preference_model": uri, "judge.mixture": members if kind == "mixture" else []}
    assert [each["judge passes"] for each in workload(resolve(values))["iterations"]] == [96 * each] * 3


def test_what_cannot_be_counted_from_here_is_said_with_its_reason():
    told = workload(resolve({"preset": "paper"}))
    each = {"responses": 5, "tokens": 10240, "judge passes": 20, "pairs": 1}
    assert told["iterations"][2] == {"iteration": 3, "prompts": UNKNOWN, "of each prompt": each}
    assert "hf://UCLA-AGI/data-mistral-7b-instruct-sppo-iter1" in told["notes"]["prompts"]
    assert "hf://llm-blender/PairRM" in told["notes"]["judge passes"]
    known = workload(resolve({"preset": "paper", "prepare.prompts_per_iteration": 20_000}))["iterations"][0]
    assert (known["responses"], known["judge passes"], known["steps"]) == (100_000, 400_000, 313)


def test_without_the_libraries_that_ask_hubs_it_says_so(monkeypatch):
    """The extra `pipeline`, with which CI submits, has neither."""
    for library in ("datasets", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, library, None)
    told = workload(resolve({"preset": "paper"}))
    assert told["iterations"][0]["prompts"] == UNKNOWN
    assert "import of datasets halted" in told["notes"]["prompts"]
    assert "import of huggingface_hub halted" in told["notes"]["judge passes"]
