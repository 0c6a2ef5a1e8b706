"""Reward models: sequence classifiers of transformers with one label, the score of a prompt with its response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sppo.errors import ConfigError
from sppo.judging.batching import batches, bytes_of_a_token, tokens_of_a_pass
from sppo.judging.preference_model import Comparison
from sppo.judging.scores import Scored, differences
from sppo.models.fetch import check_safe, model_name
from sppo.models.policy import device_for
from sppo.preparing.chat import load_tokenizer, plain_text, template_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RewardModel:
    """A reward model, ready to judge; implements `PreferenceModel`."""

    def __init__(self, folder: Path, uri: str, *, batch_tokens: int = 0, dtype: str = "float32") -> None:
        """Load a folder that holds a sequence classifier and its tokenizer.

        Args:
            folder: the local folder.
            uri: where the folder comes from, for `name`.
            batch_tokens: tokens of one forward pass, padding included; 0: by the device's memory.
            dtype: arithmetic, "float32" or "bfloat16".

        Raises:
            ConfigError: if the tokenizer has no chat template, or the model cannot be loaded or lacks weights.
        """
        self.name = model_name(uri, folder)
        self.model = _load(folder, uri, dtype)  # first: a tokenizer is looked up by the model's configuration
        self.tokenizer = load_tokenizer(folder)
        config = self.model.config.get_text_config()
        config.use_cache = False  # keys and values of a text that nothing is added to
        needed = bytes_of_a_token(config, self.model.dtype.itemsize)
        self.batch_tokens = tokens_of_a_pass(batch_tokens, self.model, needed, self.model.device)
        self.pad_token: int | None = config.pad_token_id
        self.longest = min(getattr(config, "max_position_embeddings", math.inf), self.tokenizer.model_max_length)
        self._scored = self._cut = 0

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`; each response is scored once, whatever it is compared with."""
        return differences(comparisons, self._scores)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`: responses scored, and how many of them had to be cut."""
        return {"scored": float(self._scored), "cut": float(self._cut)}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""

    @torch.inference_mode()
    def _scores(self, texts: Sequence[Scored]) -> np.ndarray:
        rows = [self._encode(prompt, response) for prompt, response in texts]
        scores = np.zeros(len(rows), np.float64)
        # Without a padding token the classifier cannot tell where a row of a batch ends.
        budget = self.batch_tokens if self.pad_token is not None else 1
        for batch in batches([len(row) for row in rows], budget):
            width = max(len(rows[row]) for row in batch)
            padding = [width - len(rows[row]) for row in batch]
            ids = [rows[row] + [self.pad_token or 0] * pad for row, pad in zip(batch, padding, strict=True)]
            mask = [[1] * (width - pad) + [0] * pad for pad in padding]
            device = self.model.device
            logits = self.model(
                input_ids=torch.tensor(ids, device=device), attention_mask=torch.tensor(mask, device=device)
            ).logits
            scores[batch] = logits[:, 0].double().cpu().numpy()
        return scores

    def _encode(self, prompt: str, response: str) -> list[int]:
        """Token ids of the finished conversation; what is too long loses its middle, so that both ends are seen."""
        messages = [
            {"role": role, "content": plain_text(self.tokenizer, text)}
            for role, text in (("user", prompt), ("assistant", response))
        ]
        with template_errors(self.tokenizer):
            ids: list[int] = self.tokenizer.apply_chat_template(messages, return_dict=False)
        self._scored += 1
        if len(ids) <= self.longest:
            return ids
        self._cut += 1
        head = int(self.longest) // 2
        return ids[:head] + ids[head - int(self.longest) :]


def _load(folder: Path, uri: str, dtype: str) -> PreTrainedModel:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForSequenceClassification

    check_safe(folder, uri)
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
        )
    except (RuntimeError, StrictDataclassError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{uri}: not a reward model that transformers can load ({reason[:300]})") from error
    if loaded["missing_keys"]:
        raise ConfigError(f"{uri}: the weights lack {min(loaded['missing_keys'])}; give the folder of a reward model")
    result: PreTrainedModel = model.to(device_for()).eval()
    return result
