"""PairRM (arXiv 2306.02561) through the llm-blender package: its collator, network and weights, its raw logits.

Only the loading is done here, because llm-blender's own loads a second model whose weights it overwrites, and prefers
pickles. One prompt at a time: llm-blender's length budget depends on the batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import transformers.utils.hub
from safetensors.torch import load_file

from sppo.errors import ConfigError
from sppo.models import model_digest
from sppo.preference.base import Comparison


def _mend_llm_blender() -> None:
    """Give transformers 5 the two names that llm-blender 0.0.2 still uses."""
    if not hasattr(transformers.utils.hub, "TRANSFORMERS_CACHE"):
        transformers.utils.hub.TRANSFORMERS_CACHE = None
    base = transformers.PreTrainedTokenizerBase
    if not hasattr(base, "batch_encode_plus"):
        base.batch_encode_plus = lambda self, *args, **kwargs: self(*args, **kwargs)


class PairRM:
    """PairRM's weights, ready to judge; implements `PreferenceModel`."""

    def __init__(self, folder: Path, uri: str, *, dtype: str = "float32") -> None:
        """Load a folder in the layout of `llm-blender/PairRM`: a RankerConfig, model.safetensors, a tokenizer.

        Args:
            folder: the local folder. Its config's `model_name` names the backbone, of which only config.json is read.
            uri: where the folder comes from, for `name`.
            dtype: arithmetic, "float32" or "bfloat16".

        Raises:
            ConfigError: if the weights do not fit, or the backbone's configuration cannot be found.
        """
        self.name = f"{uri} ({model_digest(folder)[:12]})"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        ranker, self.collator = _load(folder, uri)
        self.ranker = ranker.to(self.device, getattr(torch, dtype)).eval()
        tokenizer = self.collator.tokenizer
        self.special = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)

    @torch.inference_mode()
    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`; all responses to a prompt go through llm-blender together."""
        logits: list[float] = []
        for prompt, group in groupby(comparisons, key=lambda comparison: comparison.prompt):
            asked = list(group)
            texts = sorted({text for _, *both in asked for text in both})
            place = {text: row for row, text in enumerate(texts)}
            matrix = self._judge(prompt, texts)
            logits += [float(matrix[place[first], place[second]]) for _, first, second in asked]
        return np.array(logits, np.float32)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`."""
        return {}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""

    def _judge(self, prompt: str, texts: Sequence[str]) -> np.ndarray:
        batch = self.collator([{"source": self._plain(prompt), "candidates": [self._plain(text) for text in texts]}])
        tensors = {name: value.to(self.device) for name, value in batch.items() if value is not None}
        return self.ranker._full_predict(**tensors)["logits"][0].float().cpu().numpy()

    def _plain(self, text: str) -> str:
        """The text without the names of special tokens, which llm-blender would take for tokens."""
        for token in self.special:
            text = text.replace(token, " ")
        return text


def _load(folder: Path, uri: str) -> tuple[Any, Any]:
    if importlib.util.find_spec("llm_blender") is None:
        raise ConfigError(f"{uri}: PairRM needs the package llm-blender; pip install llm-blender, or use package:sppo")
    _mend_llm_blender()
    from llm_blender.pair_ranker.config import RankerConfig
    from llm_blender.pair_ranker.model_util import build_collator
    from llm_blender.pair_ranker.ranker import CrossCompareReranker

    config = RankerConfig.from_json((folder / "config.json").read_text())
    try:
        backbone_config = transformers.AutoConfig.from_pretrained(config.model_name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{uri}: cannot load the tokenizer, or the configuration of the backbone {config.model_name!r} that "
            f"config.json names ({str(error).splitlines()[0]}); download it, or let model_name be a local folder"
        ) from error
    collator = build_collator(config.ranker_type, tokenizer, config.source_maxlength, config.candidate_maxlength)
    backbone = transformers.AutoModel.from_config(backbone_config)
    backbone.resize_token_embeddings(len(tokenizer))
    backbone.config.out_hidden_state_size = backbone.config.hidden_size
    ranker = CrossCompareReranker(backbone, config, tokenizer)
    try:
        missing, unexpected = ranker.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"{uri}: model.safetensors does not fit the backbone {config.model_name!r}") from error
    if missing or [name for name in unexpected if not name.endswith("position_ids")]:
        raise ConfigError(f"{uri}: model.safetensors does not fit: {[*missing, *unexpected][0]} is missing or unknown")
    return ranker, collator
