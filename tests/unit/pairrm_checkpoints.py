"""PairRM checkpoints with the files, tensor names and tokenizer kind of the published ones, and random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import DebertaV2Config, DebertaV2Model, DebertaV2Tokenizer

MARKERS = ["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
CORPUS = [
    "What is the difference between a moth and a butterfly? They differ in antennae, wings, and habits.",
    "Write a short poem about the sea: waves, salt, gulls; 1234567890 grains of sand!",
    "def add(a, b):\n    return a + b  # <|?|> [A-Z] 'quoted' \"text\" {json: true}",
    "Größe, naïve café, 你好, こんにちは, привет, 😀.",
]
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
"""microsoft/deberta-v3-small, but for the size of its vocabulary."""


def build_tokenizer(corpus: list[str] = CORPUS, size: int = 300) -> DebertaV2Tokenizer:
    """A unigram tokenizer trained on a corpus, with the four markers after the vocabulary."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False, initial_alphabet=["▁"]
    )
    trained.train_from_iterator(corpus, trainer)
    vocabulary = [(piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    tokenizer = DebertaV2Tokenizer(vocab=vocabulary, unk_id=SPECIAL.index("[UNK]"))
    tokenizer.add_tokens(MARKERS)
    return tokenizer


def write_checkpoint(
    folder: Path,
    layout: str,
    shape: dict[str, int] = TINY,
    tokenizer: DebertaV2Tokenizer | None = None,
    lengths: tuple[int, int] = (1224, 412),
    scale: float = 3.0,
) -> Path:
    """Write random weights in the layout of llm-blender/PairRM ("llm-blender") or llm-blender/PairRM-hf ("hf").

    Args:
        folder: becomes the checkpoint; in llm-blender's layout its backbone goes to a folder beside it.
        layout: see above; the same seed gives both the same tensors.
        shape: of the encoder.
        tokenizer: `build_tokenizer()` if None.
        lengths: tokens of a prompt, and of a response beside the longest prompt; other than 1224 and 412 only in
            llm-blender's layout.
        scale: of the head's weights, so that logits are of order 1.
    """
    tokenizer = tokenizer or build_tokenizer()
    settings: dict[str, Any] = dict(
        vocab_size=len(tokenizer), relative_attention=True, position_buckets=256, max_relative_positions=-1,
        max_position_embeddings=512, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
        norm_rel_ebd="layer_norm", share_att_key=True, layer_norm_eps=1e-7, pad_token_id=0,
        initializer_range=shape["hidden_size"] ** -0.5,  # of a trained model's order: texts and distances matter
    )  # fmt: skip
    config = DebertaV2Config(**settings | shape)
    torch.manual_seed(0)
    backbone = DebertaV2Model(config)
    width = config.hidden_size
    head = {"1": torch.nn.Linear(2 * width, width), "4": torch.nn.Linear(width, 1)}
    state = {f"pretrained_model.{name}": value.detach().clone() for name, value in backbone.state_dict().items()}
    for index, layer in head.items():
        state |= {f"head_layer.{index}.{name}": value.detach() * scale for name, value in layer.state_dict().items()}
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if layout == "hf":
        config.update({"n_tasks": 1, "drop_out": 0.05, "architectures": ["DebertaV2PairRM"]})
        config.update({"sep_token_id": tokenizer.sep_token_id, "cls_token_id": tokenizer.cls_token_id})
        ids = tokenizer.convert_tokens_to_ids(MARKERS)
        names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id")
        config.update(dict(zip(names, ids, strict=True)))
        config.save_pretrained(folder)
        return folder
    backbone.save_pretrained(f"{folder}-backbone")
    tokenizer.save_pretrained(f"{folder}-backbone")
    ranker = {
        "ranker_type": "pairranker", "model_type": "deberta", "model_name": f"{folder}-backbone", "cache_dir": None,
        "load_checkpoint": None, "source_maxlength": lengths[0], "candidate_maxlength": lengths[1], "n_tasks": 1,
        "num_pos": 5, "num_neg": 5, "sub_sampling_mode": "all_pair", "sub_sampling_ratio": 0.4,
        "loss_type": "instructgpt", "reduce_type": "linear", "inference_mode": "bubble", "drop_out": 0.05,
        "fp16": True, "device": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(ranker))
    return folder
