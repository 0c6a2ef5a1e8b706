"""The trained encoders: PairRM's layout on a small BERT-type encoder, of which only adapter and head are trained.

Whatever it encodes, its logits are the same in both orders: M[a, b] = -M[b, a] to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from sppo.errors import ConfigError
from sppo.judging.batching import batches, bytes_of_a_token, tokens_of_a_pass
from sppo.judging.pairwise.encoder_config import AnyEncoderConfig, GeneralPreferenceConfig, read_config
from sppo.judging.pairwise.layout import Layout, Sequences, load_layout
from sppo.judging.pairwise.modules import EncoderNetwork, GeneralPreferenceNetwork, PairwiseNetwork, load_encoder
from sppo.judging.preference_model import Comparison
from sppo.judging.scores import both_orders, differences, skew_products
from sppo.models.fetch import fetch_model, model_digest, model_name
from sppo.models.policy import device_for

ADAPTER = "adapter.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PairwiseEncoder:
    """A trained encoder of any of the kinds, ready to judge; implements `PreferenceModel`."""

    def __init__(self, folder: Path, uri: str, *, batch_tokens: int = 0, dtype: str = "float32") -> None:
        """Load the folder's adapter onto its encoder.

        Args:
            folder: holds config.json and adapter.safetensors.
            uri: where the folder comes from, for `name`.
            batch_tokens: tokens of one forward pass, padding included; 0: by the device's memory.
            dtype: arithmetic of the encoder, "float32" or "bfloat16"; the head is always float32.

        Raises:
            ConfigError: if the folder is incomplete, or its adapter belongs to another encoder.
        """
        config = read_config(folder)
        encoder_folder = fetch_model(config.encoder)
        if model_digest(encoder_folder) != config.encoder_sha256:
            raise ConfigError(
                f"{uri}: trained on another version of {config.encoder}; install the version its card names"
            )
        self.name = model_name(uri, folder)
        self.symmetric = _symmetric(config)
        self.layout, self.network = build(config, encoder_folder)
        load_adapter(self.network, folder)
        self.network.merge()
        self.network.eval().requires_grad_(False)
        self.device = device_for()
        self.network.to(self.device)
        self.network.encoder.to(DTYPES[dtype])
        encoder = self.network.encoder.config
        needed = bytes_of_a_token(encoder, DTYPES[dtype].itemsize, encoder.max_position_embeddings)
        self.batch_tokens = tokens_of_a_pass(batch_tokens, self.network, needed, self.device)

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """See `PreferenceModel.compare`; each order of a pair, or each response to a prompt, is encoded once."""
        return self.symmetric(comparisons, self._encode)

    @torch.inference_mode()
    def _encode(self, rows: Sequence[tuple[str, ...]]) -> np.ndarray:
        """What `forward` gives for each row of a prompt and one response or two; float32, shape (N, …)."""
        texts = sorted({text for row in rows for text in row})
        tokens = dict(zip(texts, self.layout.tokenize(texts), strict=True))
        tokenized = [tuple(tokens[text] for text in row) for row in rows]
        values: dict[int, np.ndarray] = {}
        for batch in batches([self.layout.length(*map(len, row)) for row in tokenized], self.batch_tokens):
            sequences = self.layout.batch([tokenized[row] for row in batch])
            values |= zip(batch, forward(self.network, sequences, self.device).cpu().numpy(), strict=True)
        return np.array([values[row] for row in range(len(rows))], np.float32)

    def figures(self) -> dict[str, float]:
        """See `PreferenceModel.figures`."""
        return {}

    def save(self, folder: Path) -> None:
        """See `PreferenceModel.save`."""


def _symmetric(config: AnyEncoderConfig) -> Callable[..., np.ndarray]:
    """What makes logits that are the same in both orders of what such a network says of a sequence."""
    if isinstance(config, GeneralPreferenceConfig):
        return skew_products
    return both_orders if config.together else differences


def forward(network: EncoderNetwork, sequences: Sequences, device: torch.device) -> torch.Tensor:
    """What the network says of a batch: see its `judge`; float32."""
    ids = torch.from_numpy(sequences.ids).to(device)
    mask = None
    if sequences.lengths.min() < ids.shape[1]:
        mask = (torch.arange(ids.shape[1]) < torch.from_numpy(sequences.lengths)[:, None]).to(device, torch.long)
    states = network.encode(ids, torch.from_numpy(sequences.positions).to(device), mask)
    return network.judge(states.float(), torch.from_numpy(sequences.segments).to(device))


def build(
    config: AnyEncoderConfig, encoder_folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Layout, EncoderNetwork]:
    """Layout and untrained network of a configuration; `dtype` is that of the frozen weights.

    Raises:
        ConfigError: if the encoder is not of BERT's type or has fewer positions than `max_length`.
    """
    layout = load_layout(encoder_folder, config.markers, config.max_length)
    encoder = load_encoder(encoder_folder, dtype)
    if config.max_length > encoder.config.max_position_embeddings:
        positions = encoder.config.max_position_embeddings
        raise ConfigError(f"max_length: {config.max_length} is more than the {positions} positions of {config.encoder}")
    if isinstance(config, GeneralPreferenceConfig):
        return layout, GeneralPreferenceNetwork(config, encoder)
    return layout, PairwiseNetwork(config, encoder)


def save_adapter(network: EncoderNetwork, folder: Path) -> None:
    """Write config.json and the trained tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER).write_bytes(save(network.trained_state()))
    (folder / "config.json").write_text(network.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_adapter(network: EncoderNetwork, folder: Path) -> None:
    """Load the trained tensors that `save_adapter` wrote.

    Raises:
        ConfigError: if the file is missing or does not fit the network.
    """
    path = folder / ADAPTER
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a pairwise encoder's folder holds config.json and {ADAPTER}")
    state, expected = load_file(path), network.trained_state()
    wrong = [name for name in {*state, *expected} if name not in state or name not in expected]
    wrong += [name for name in state if name in expected and state[name].shape != expected[name].shape]
    if wrong:
        raise ConfigError(
            f"{path}: tensor {min(wrong)} does not fit config.json; the two files belong to different models"
        )
    network.load_state_dict(state, strict=False)
