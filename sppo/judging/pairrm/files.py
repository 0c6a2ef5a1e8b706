"""PairRM's checkpoints: the two layouts in which its weights are published, and its rule for texts that are too long.

`llm-blender/PairRM` has llm-blender's RankerConfig as config.json, which names the backbone instead of describing it;
`llm-blender/PairRM-hf` has the backbone's own configuration. Tensors have the same names in both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file
from torch import nn

from sppo.errors import ConfigError

SOURCE, FIRST, SECOND, CANDIDATE = "<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"
SOURCE_LENGTH, CANDIDATE_LENGTH = 1224, 412  # https://huggingface.co/llm-blender/PairRM, "Context length"


@dataclass(frozen=True)
class Checkpoint:
    """What a PairRM folder says, apart from its weights."""

    uri: str
    backbone: Any
    """The `transformers.DebertaV2Config` of the encoder, its vocabulary that of the tokenizer."""
    tokenizer: Any
    source_length: int
    """Tokens that a prompt may keep, with [CLS], its marker and [SEP]."""
    candidate_length: int
    """Tokens that each response may keep beside the longest prompt."""
    tasks: int
    """Outputs of the head, which are averaged."""

    def plain(self, texts: Sequence[str]) -> list[str]:
        """The texts without what tokenizers refuse, and without the names of special tokens, which become tokens."""
        names = sorted({*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}, key=len, reverse=True)
        cleaned = []
        for text in texts:
            text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no character
            for name in names:
                text = text.replace(name, " ")
            cleaned.append(text)
        return cleaned

    def response_length(self, source: int) -> int:
        """Tokens that each response may keep beside a prompt of `source` tokens: it gets half of what that leaves."""
        return self.candidate_length + (self.source_length - source) // 2


def read_backbone(folder: Path, uri: str) -> Any:
    """The configuration of a checkpoint's encoder; llm-blender's layout names a repository or folder that has it.

    Raises:
        ConfigError: if it cannot be found, or is not of DeBERTa's third version.
    """
    ranker = json.loads((folder / "config.json").read_bytes())
    name = ranker.get("model_name", "") if ranker.get("ranker_type") else folder
    try:
        backbone = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{uri}: cannot load the configuration of the backbone {name!r} that config.json names "
            f"({str(error).splitlines()[0]}); download it, or let model_name be a local folder"
        ) from error
    wanted = {
        "model_type": "deberta-v2", "relative_attention": True, "share_att_key": True, "position_biased_input": False,
        "type_vocab_size": 0, "norm_rel_ebd": "layer_norm",
    }  # fmt: skip
    wrong = [key for key, value in wanted.items() if getattr(backbone, key, None) != value]
    wrong += ["pos_att_type"] if set(backbone.to_dict().get("pos_att_type") or ()) != {"c2p", "p2c"} else []
    wrong += ["conv_kernel_size"] if getattr(backbone, "conv_kernel_size", 0) else []
    if wrong:
        raise ConfigError(f"{uri}: {wrong[0]} of the backbone is not that of DeBERTa-v3, on which PairRM is built")
    return backbone


def read_checkpoint(folder: Path, uri: str) -> Checkpoint:
    """Read configuration and tokenizer.

    Raises:
        ConfigError: if the backbone's configuration cannot be found, or the tokenizer is not PairRM's.
    """
    ranker = json.loads((folder / "config.json").read_bytes())
    backbone = read_backbone(folder, uri)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{uri}: cannot load the tokenizer ({str(error).splitlines()[0]}); download the model again"
        ) from error
    for marker in (SOURCE, FIRST, SECOND, CANDIDATE):
        ids = tokenizer(marker + "a")["input_ids"]
        if len(ids) < 3 or ids[1] != tokenizer.get_vocab().get(marker):
            raise ConfigError(f"{uri}: the tokenizer does not know {marker}; give the whole folder of a PairRM model")
    if ranker.get("ranker_type"):
        backbone.vocab_size = len(tokenizer)
    return Checkpoint(
        uri,
        backbone,
        tokenizer,
        int(ranker.get("source_maxlength") or SOURCE_LENGTH),
        int(ranker.get("candidate_maxlength") or CANDIDATE_LENGTH),
        int(ranker.get("n_tasks") or 1),
    )


def load_weights(network: nn.Module, folder: Path, uri: str) -> None:
    """Give a network the checkpoint's tensors; its own are replaced, not copied into.

    Raises:
        ConfigError: naming a tensor that is missing, unknown or of another shape.
    """
    state = load_file(folder / "model.safetensors")
    expected = network.state_dict()
    state = {name: value for name, value in state.items() if name in expected or not name.endswith("position_ids")}
    wrong = sorted(state.keys() ^ expected.keys())
    wrong += [name for name in state if name in expected and state[name].shape != expected[name].shape]
    if wrong:
        raise ConfigError(f"{uri}: model.safetensors does not fit its configuration: {wrong[0]}; download both again")
    network.load_state_dict(state, assign=True)
