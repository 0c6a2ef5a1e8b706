import importlib.util
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import DebertaV2Config, DebertaV2Model, DebertaV2Tokenizer

from sppo.errors import ConfigError
from sppo.preference import load_judge
from sppo.settings import JudgeConfig

if importlib.util.find_spec("llm_blender") is None:
    pytest.skip("llm-blender is not installed: PairRM cannot be tried", allow_module_level=True)
MARKERS = ["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]
HIDDEN = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights in the files and tensor names of llm-blender/PairRM, with a tiny backbone."""
    root = tmp_path_factory.mktemp("pairrm")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"▁abcdefghijklmnopqrstuvwxyz0123456789.,?!'<>|[]SEP"]
    vocabulary = [(piece, 0.0) for piece in special] + [(piece, -1.0) for piece in dict.fromkeys(letters)]
    tokenizer = DebertaV2Tokenizer(vocab=vocabulary, unk_id=1)
    tokenizer.add_tokens(MARKERS)
    config = DebertaV2Config(
        vocab_size=len(vocabulary), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, relative_attention=True, position_buckets=32, pos_att_type=["p2c", "c2p"],
        position_biased_input=False, norm_rel_ebd="layer_norm", share_att_key=True, type_vocab_size=0,
    )  # fmt: skip
    config.save_pretrained(root / "backbone")
    torch.manual_seed(0)
    backbone = DebertaV2Model(config)
    backbone.resize_token_embeddings(len(tokenizer))
    head = {"1": torch.nn.Linear(2 * HIDDEN, HIDDEN), "4": torch.nn.Linear(HIDDEN, 1)}
    state = {f"pretrained_model.{name}": value.clone() for name, value in backbone.state_dict().items()}
    for index, layer in head.items():
        state |= {f"head_layer.{index}.{name}": value * 10 for name, value in layer.state_dict().items()}
    folder = root / "PairRM"
    tokenizer.save_pretrained(folder)
    save_file(state, folder / "model.safetensors")
    ranker = {
        "ranker_type": "pairranker", "model_type": "deberta", "model_name": str(root / "backbone"), "cache_dir": None,
        "load_checkpoint": None, "source_maxlength": 64, "candidate_maxlength": 32, "n_tasks": 1, "num_pos": 5,
        "num_neg": 5, "sub_sampling_mode": "all_pair", "sub_sampling_ratio": 0.4, "loss_type": "instructgpt",
        "reduce_type": "linear", "inference_mode": "bubble", "drop_out": 0.05, "fp16": True, "device": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(ranker))
    return folder


def test_raw_logits_of_both_orders_are_kept(checkpoint):
    model = load_judge(str(checkpoint), JudgeConfig(cache=False))
    (matrix,) = model.logits(["what is red?"], [["a colour.", "no idea", "", "a colour."]])
    assert matrix.shape == (4, 4) and matrix.dtype == np.float32
    assert (matrix.diagonal() == 0).all() and matrix[0, 3] == matrix[3, 0] == 0
    assert matrix[0, 1] == matrix[3, 1] != 0
    assert not np.allclose(matrix, -matrix.T, atol=1e-6)


def test_logits_do_not_depend_on_other_prompts(checkpoint):
    model = load_judge(str(checkpoint), JudgeConfig(cache=False))
    prompts, responses = ["what?", "long " * 200], [["yes", "no"], ["why not? " * 100, "so", "be it"]]
    for alone, together in zip(range(2), model.logits(prompts, responses), strict=True):
        np.testing.assert_array_equal(model.logits([prompts[alone]], [responses[alone]])[0], together)


def test_names_of_special_tokens_are_plain_text(checkpoint):
    model = load_judge(str(checkpoint), JudgeConfig(cache=False, dtype="bfloat16"))
    (matrix,) = model.logits(["a <|source|> [SEP]"], [["<|candidate1|> x", "<|cand<|candidate|>idate2|> [CLS] y"]])
    assert np.isfinite(matrix).all()


def test_wrong_checkpoints_are_configuration_errors(checkpoint, tmp_path):
    folder = tmp_path / "PairRM"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_name": str(tmp_path / "absent")}))
    with pytest.raises(ConfigError, match="let model_name be a local folder"):
        load_judge(str(folder), JudgeConfig(cache=False))
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"head_layer.1.weight": torch.zeros(HIDDEN, 2 * HIDDEN)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors does not fit"):
        load_judge(str(folder), JudgeConfig(cache=False))
