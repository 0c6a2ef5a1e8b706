import importlib.util
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sppo.config.sections.judge import JudgeConfig
from sppo.errors import ConfigError
from sppo.judging.batching import batches
from sppo.judging.load import check_judge, judge_digest, load_judge
from sppo.judging.pairrm.llm_blender import LlmBlenderPairRM, mend_llm_blender
from sppo.judging.pairrm.ranker import PADDING, PairRM
from sppo.judging.preference_model import Comparison

from .pairrm_checkpoints import MARKERS, SMALL, build_tokenizer, write_checkpoint

if importlib.util.find_spec("llm_blender") is None:
    pytest.skip("llm-blender is not installed: PairRM has nothing to be compared with", allow_module_level=True)
NO_CACHE = JudgeConfig(cache=False)
ODD = [
    "",
    " ",
    "\n\n",
    "é e\u0301 ﬁ 你好 😀",
    "a\ud800b",
    "<|source|>",
    "[SEP] [CLS][PAD]",
    "<|cand<|candidate|>idate2|> x",
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    """llm-blender's layout, with limits so short that most texts meet them."""
    folder = tmp_path_factory.mktemp("pairrm") / "PairRM"
    return write_checkpoint(folder, "llm-blender", tokenizer=tokenizer, lengths=(24, 10))


@pytest.fixture(scope="module")
def both(checkpoint):
    return LlmBlenderPairRM(checkpoint, "package"), PairRM(checkpoint, "fast")


@pytest.fixture(scope="module", params=["llm-blender", "hf"])
def published(request, tmp_path_factory, tokenizer):
    """Each layout with the published limits."""
    return write_checkpoint(tmp_path_factory.mktemp("published") / "PairRM", request.param, tokenizer=tokenizer)


def all_pairs(prompt, responses):
    return [Comparison(prompt, *pair) for pair in itertools.permutations(dict.fromkeys(responses), 2)]


texts = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.integers(0, 40).map("moth wings ".__mul__),
)


@settings(max_examples=12)  # the package takes its time
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=2, max_size=3)), min_size=1, max_size=3), st.integers(1, 300))
def test_logits_are_those_of_the_package_in_any_batch(both, groups, batch_tokens):
    package, fast = both
    fast.batch_tokens = batch_tokens
    comparisons = [each for prompt, responses in groups for each in all_pairs(prompt, responses)]
    np.testing.assert_allclose(fast.compare(comparisons), package.compare(comparisons), atol=1e-4, rtol=0)


def test_published_limits_cut_as_the_package_does(published):
    long = ["a moth " * 400, "wings, habits " * 900, "antennae " * 1200, "yes"]
    comparisons = [Comparison(long[2], long[1], "yes"), Comparison("why?", *long[:2]), *all_pairs("yes", long[2:])]
    fast = PairRM(published, "fast").compare(comparisons)
    np.testing.assert_allclose(fast, LlmBlenderPairRM(published, "package").compare(comparisons), atol=1e-4, rtol=0)
    assert len(set(fast.tolist())) == len(comparisons)


def test_scores_are_those_of_blender_at_a_batch_size_of_one(checkpoint):
    mend_llm_blender()
    from llm_blender import Blender

    blender = Blender()
    blender.loadranker(str(checkpoint), device="cpu")
    prompts = ["what?", "long moth " * 30]
    responses = [["yes", "no wings " * 9, ""], ["why not? " * 20, "so", "habits " * 40]]
    scores = blender.rank(prompts, responses, return_scores=True, batch_size=1, disable_tqdm=True)
    matrices = load_judge(str(checkpoint), NO_CACHE).logits(prompts, responses)
    np.testing.assert_allclose([(m - m.T).mean(axis=-1) for m in matrices], scores, atol=1e-4, rtol=0)
    crowded = blender.rank(prompts, responses, return_scores=True, batch_size=2, disable_tqdm=True)
    assert np.abs(crowded - scores).max() > 1e-3  # which is why a batch size of 1 is the measure


def test_a_deberta_of_published_size_agrees_in_both_precisions(tmp_path, tokenizer):
    folder = write_checkpoint(tmp_path / "PairRM", "hf", SMALL, tokenizer)
    comparisons = all_pairs("what is a moth?", ["it differs in wings and habits. " * 5, "no"])
    expected = LlmBlenderPairRM(folder, "package").compare(comparisons)
    np.testing.assert_allclose(PairRM(folder, "fast").compare(comparisons), expected, atol=1e-4, rtol=0)
    rounded = PairRM(folder, "fast", dtype="bfloat16").compare(comparisons)
    assert np.abs(1 / (1 + np.exp(-rounded)) - 1 / (1 + np.exp(-expected))).max() <= 0.01
    assert np.abs(expected).min() > 0.1


@pytest.mark.parametrize("way", ["fast", "llm-blender"])
def test_raw_logits_of_both_orders_are_kept(published, way):
    judge = load_judge(str(published), JudgeConfig(cache=False, pairrm=way))
    (matrix,) = judge.logits(["what is red?"], [["a colour.", "no idea", "", "a colour."]])
    assert matrix.shape == (4, 4) and matrix.dtype == np.float32
    assert (matrix.diagonal() == 0).all() and matrix[0, 3] == matrix[3, 0] == 0
    assert matrix[0, 1] == matrix[3, 1] != 0
    assert not np.allclose(matrix, -matrix.T, atol=1e-4)


@given(st.lists(st.integers(3, 2048), max_size=200), st.integers(1, 9000))
def test_batches_hold_every_row_once_with_hardly_any_padding(lengths, batch_tokens):
    made = list(batches(lengths, batch_tokens, PADDING))
    shapes = [[lengths[row] for row in batch] for batch in made]
    assert sorted(row for batch in made for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(batch) <= batch_tokens for batch in shapes)
    assert sum(len(batch) * max(batch) for batch in shapes) * (1 - PADDING) <= sum(lengths)


def test_forwarded_tokens_are_counted(checkpoint):
    model = PairRM(checkpoint, "fast")
    model.compare(all_pairs("moth", ["wings " * count for count in range(8)]))
    figures = model.figures()
    assert 0 < figures["tokens"] <= figures["forwarded_tokens"] <= 1.05 * figures["tokens"]


def copy_with(checkpoint, folder, **changes):
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_the_backbones_configuration_must_be_there(checkpoint, tmp_path):
    folder = copy_with(checkpoint, tmp_path / "PairRM", model_name=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="let model_name be a local folder"):
        check_judge(str(folder), NO_CACHE)


def test_the_backbones_configuration_is_part_of_the_digest(checkpoint, tmp_path):
    backbone = tmp_path / "backbone"
    shutil.copytree(f"{checkpoint}-backbone", backbone)
    folder = copy_with(checkpoint, tmp_path / "PairRM", model_name=str(backbone))
    before = judge_digest(str(folder), NO_CACHE)
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps(config | {"position_buckets": 128}))
    assert judge_digest(str(folder), NO_CACHE) != before


@pytest.mark.parametrize("way", ["fast", "llm-blender"])
def test_weights_must_fit(checkpoint, tmp_path, way):
    folder = copy_with(checkpoint, tmp_path / "PairRM")
    state = load_file(folder / "model.safetensors")
    del state["head_layer.1.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit its configuration: head_layer\.1\.bias"):
        load_judge(str(folder), JudgeConfig(cache=False, pairrm=way))
    save_file(state | {"head_layer.1.bias": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit its configuration: head_layer\.1\.bias"):
        load_judge(str(folder), JudgeConfig(cache=False, pairrm=way))


def test_tokenizer_and_backbone_must_be_pairrms(published, tmp_path):
    folder = copy_with(published, tmp_path / "no-markers")
    for path in folder.glob("*token*.json"):
        path.write_text(path.read_text().replace(MARKERS[3], "<|other|>"))
    with pytest.raises(ConfigError, match=r"does not know <\|candidate\|>"):
        check_judge(str(folder), NO_CACHE)
    if "hidden_size" in (published / "config.json").read_text():
        folder = copy_with(published, tmp_path / "older", share_att_key=False)
        with pytest.raises(ConfigError, match="share_att_key of the backbone is not that of DeBERTa-v3"):
            check_judge(str(folder), NO_CACHE)
