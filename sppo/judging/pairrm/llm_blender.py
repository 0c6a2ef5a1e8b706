"""PairRM through the llm-blender package itself: its collator, its network, one prompt at a time.

What llm-blender 0.0.2 needs on transformers 5 is mended here, and only the loading is our own: the package would load
a second model first, whose weights it overwrites, and prefers pickles. Its length budget depends on the batch, so a
prompt's logits are only its own at a batch size of 1, which is how the paper's authors ran it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import transformers
import transformers.utils.hub

from sppo.errors import ConfigError
from sppo.judging.pairrm.files import load_weights, read_checkpoint
from sppo.judging.preference_model import Comparison
from sppo.models.fetch import model_name
from sppo.models.policy import device_for


def mend_llm_blender() -> None:
    """Give transformers 5 the two names that llm-blender 0.0.2 still uses; to be called before its import."""
    if not hasattr(transformers.utils.hub, "TRANSFORMERS_CACHE"):
        transformers.utils.hub.TRANSFORMERS_CACHE = ""
    base = transformers.PreTrainedTokenizerBase
    if not hasattr(base, "batch_encode_plus"):
        base.batch_encode_plus = lambda self, *args, **kwargs: self(*args, **kwargs)


class LlmBlenderPairRM:
    """PairRM as its authors run it; implements `PreferenceModel`."""

    def __init__(self, folder: Path, uri: str, *, dtype: str = "float32") -> None:
        """Load a PairRM folder, in either layout.

        Args:
            folder: the local folder.
            uri: where it comes from, for `name`.
            dtype: arithmetic, "float32" or "bfloat16".

        Raises:
            ConfigError: if the package is not installed, or the folder is not a whole PairRM model.
        """
        if importlib.util.find_spec("llm_blender") is None:
            raise ConfigError("judge.pairrm: llm-blender is not installed; pip install llm-blender, or choose fast")
        mend_llm_blender()
        from llm_blender.pair_ranker.config import RankerConfig
        from llm_blender.pair_ranker.model_util import build_collator
        from llm_blender.pair_ranker.ranker import CrossCompareReranker

        self.name = model_name(uri, folder)
        self.device = device_for()
        self.checkpoint = checkpoint = read_checkpoint(folder, uri)
        self.collator = build_collator(
            "pairranker", checkpoint.tokenizer, checkpoint.source_length, checkpoint.candidate_length
        )
        backbone = transformers.DebertaV2Model(checkpoint.backbone)
        backbone.config.out_hidden_state_size = backbone.config.hidden_size
        config = RankerConfig(ranker_type="pairranker", n_tasks=checkpoint.tasks)
        ranker = CrossCompareReranker(backbone, config, checkpoint.tokenizer)
        load_weights(ranker, folder, uri)
        self.ranker = ranker.to(self.device, getattr(torch, dtype)).eval()

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
        source, *candidates = self.checkpoint.plain([prompt, *texts])
        batch = self.collator([{"source": source, "candidates": candidates}])
        tensors = {name: value.to(self.device) for name, value in batch.items() if value is not None}
        return self.ranker._full_predict(**tensors)["logits"][0].float().cpu().numpy()
