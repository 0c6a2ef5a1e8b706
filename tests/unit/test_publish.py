import json

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sppo.errors import ConfigError
from sppo.models.fetch import check_safe
from sppo.reporting.publish import SAMPLES_FILE, publish
from sppo.store import keys
from tests.conftest import lineage_of

pytestmark = pytest.mark.usefixtures("no_charts")
WORDS = ["<unk>", "<end>", "user", "assistant", ":", "why", "is", "the", "sky", "blue"]
TEMPLATE = "{% for m in messages %}{{ m.role }} : {{ m.content }} <end> {% endfor %}assistant :"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A random two-layer Llama with a word tokenizer, in float32."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **shape)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<end>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_the_best_model_is_published_ready_to_use(play_run, tiny_model):
    run = play_run(model=tiny_model)
    published = publish(run.config)
    assert published.passed and published.model_uri == f"{run.store.uri}/{lineage_of(run.config).published_key}"
    assert published.figures == {
        "publish/best_iteration": 2.0,
        "publish/passed": 1.0,
        "publish/win_rate_vs_base": pytest.approx(0.62),
        "publish/win_rate_vs_base_low": 0.52,
        "publish/win_rate_vs_base_high": pytest.approx(0.72),
        "publish/mean_probability_vs_base": 0.5625,
    }
    folder = run.store.fetch(lineage_of(run.config).published_key)
    check_safe(folder, str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "why is the sky blue"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 4
    assert not {keys.TRAINING_LOG_FILE, keys.DISTRIBUTION_FILE} & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_have_the_wanted_type_and_values(play_run, tiny_model, dtype):
    run = play_run(model=tiny_model, **{"publish.dtype": dtype})
    publish(run.config)
    weights = load_file(run.store.root / lineage_of(run.config).published_key / "model.safetensors")
    before = load_file(tiny_model / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, dtype)}
    assert all(torch.equal(weights[name], before[name].to(getattr(torch, dtype))) for name in before)
    assert (
        json.loads((run.store.root / lineage_of(run.config).published_key / "config.json").read_text())["dtype"]
        == dtype
    )


def test_card_is_valid(play_run, tiny_model):
    (tiny_model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    run = play_run(model=tiny_model)
    publish(run.config)
    card = ModelCard.load(run.store.root / lineage_of(run.config).published_key / "README.md")
    assert card.data.base_model is None, "a folder is no name of the hub"
    assert run.config.base_model in card.text.replace("\\", "")
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["sppo", "preference-optimization"]
    assert (card.data.pipeline_tag, card.data.library_name) == ("text-generation", "transformers")
    assert "0.620 \\[0.520, 0.720\\]" in card.text and run.config.digest() in card.text


def test_unknown_licence_is_left_out(play_run, tiny_model):
    (tiny_model / "README.md").unlink(missing_ok=True)
    run = play_run(model=tiny_model)
    publish(run.config)
    text = (run.store.root / lineage_of(run.config).published_key / "README.md").read_text()
    assert "license" not in text
    assert ModelCard(text).data.license is None


def test_publishing_again_does_nothing(play_run, tiny_model, capsys):
    run = play_run(model=tiny_model)
    first = publish(run.config)
    stamps = {path: path.stat().st_mtime_ns for path in run.store.root.glob("[pr]*-*/*")}
    capsys.readouterr()
    assert publish(run.config) == first
    assert {path: path.stat().st_mtime_ns for path in run.store.root.glob("[pr]*-*/*")} == stamps
    assert capsys.readouterr().out.count("there already") == 2


def test_report_and_samples_are_published(play_run, tiny_model):
    run = play_run(model=tiny_model)
    published = publish(run.config)
    assert published.report_path == run.store.root / lineage_of(run.config).report_key / keys.REPORT_FILE
    assert "Iteration 2 gave the best model" in published.report_path.read_text()
    assert "Iteration 2 gave the best model" in published.summary_path.read_text()
    rows = [
        json.loads(line)
        for line in (run.store.root / lineage_of(run.config).report_key / SAMPLES_FILE).read_text().splitlines()
    ]
    assert [(row["iteration"], row["prompt_id"]) for row in rows] == [(t, f"p{i}") for t in (1, 2) for i in range(3)]
    assert rows[5]["win_rate_vs_base"] == 0.625


def test_base_is_published_when_it_is_the_best(play_run, tiny_model):
    run = play_run(model=tiny_model, decisions=("keep-previous",), lows=(0.9,))
    published = publish(run.config)
    assert not published.passed
    assert published.figures == {"publish/best_iteration": 0.0, "publish/passed": 0.0}
    folder = run.store.fetch(lineage_of(run.config).published_key)
    assert "unchanged but for their type" in (folder / "README.md").read_text()
    AutoModelForCausalLM.from_pretrained(folder)


def test_a_run_without_an_evaluated_iteration_publishes_nothing(play_run, tiny_model):
    run = play_run(model=tiny_model)
    run.store.delete(lineage_of(run.config).evaluation_key(1))
    with pytest.raises(ConfigError, match="no iteration is evaluated there yet"):
        publish(run.config)
    assert run.store.manifest(lineage_of(run.config).published_key) is None


def test_a_base_model_that_changed_meanwhile_is_refused(play_run, tiny_model, tmp_path):
    run = play_run(model=tiny_model, decisions=("keep-previous",), lows=(0.4,))
    (tmp_path / "base" / "generation_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="changed since it was evaluated"):
        publish(run.config)
    assert run.store.manifest(lineage_of(run.config).published_key) is None
