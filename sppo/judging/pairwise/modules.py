"""The networks of the trained encoders: a frozen BERT-type encoder, low-rank updates of its linear layers, a head."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, BertModel

from sppo.errors import ConfigError
from sppo.judging.pairwise.encoder_config import AnyEncoderConfig, GeneralPreferenceConfig, PairwiseEncoderConfig
from sppo.judging.pairwise.layout import FIRST, SECOND, SOURCE
from sppo.judging.scores import skew


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a trained update of rank r: y = W x + b + (alpha / r) B A x (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, config: AnyEncoderConfig) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.empty(config.rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, config.rank))
        self.scale = config.alpha / config.rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features), in the base layer's dtype."""
        update = (x @ self.down.T.to(x.dtype)) @ self.up.T.to(x.dtype)
        return self.base(x) + self.scale * update

    def merged(self) -> nn.Linear:
        """The same map as one linear layer."""
        self.base.weight.data += self.scale * self.up.data @ self.down.data
        return self.base


class EncoderNetwork(nn.Module):
    """The encoder with its updates, and a head that gives `outputs` numbers of the prompt and a candidate."""

    def __init__(self, config: AnyEncoderConfig, encoder: BertModel, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        encoder.requires_grad_(False)
        for name, module in list(self.encoder.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(self.encoder.get_submodule(parent), child, LowRankLinear(module, config))
        width = encoder.config.hidden_size
        self.markers = nn.Parameter(torch.zeros(len(config.markers), width))
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(4 * width, config.hidden),
            nn.Tanh(),
            # Of several outputs a bias would be an embedding that all responses share.
            nn.Linear(config.hidden, outputs, bias=outputs == 1),
        )

    def encode(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The encoder's last hidden states.

        Args:
            ids: (B, L) token ids.
            positions: (B, L) position of each token.
            mask: (B, L) 1 for tokens and 0 for padding; None where nothing is padded.

        Returns:
            (B, L, H) in the encoder's dtype.
        """
        embedded = self.encoder.get_input_embeddings()(ids)
        for row, marker in enumerate(self.config.markers):
            embedded = embedded + (ids == marker).unsqueeze(-1) * self.markers[row].to(embedded.dtype)
        return self.encoder(inputs_embeds=embedded, position_ids=positions, attention_mask=mask).last_hidden_state

    def rate(self, states: torch.Tensor, segments: torch.Tensor, candidate: int) -> torch.Tensor:
        """What the head gives for a prompt and a candidate, FIRST or SECOND; (B, outputs)."""
        parts = [_represent(states, segments == segment) for segment in (SOURCE, candidate)]
        rating: torch.Tensor = self.head(torch.cat(parts, dim=-1))
        return rating

    def judge(self, states: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """What the network says of each sequence, in logits, from float32 states.

        Args:
            states: (B, L, H) the encoder's last hidden states.
            segments: (B, L) see `layout.Sequences.segments`.
        """
        raise NotImplementedError

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N,) that what is shown first wins, from what `judge` says of the one or two sequences of a pair.

        Args:
            values: (N, 1, …) or (N, 2, …).
        """
        raise NotImplementedError

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The tensors that training changes, by name."""
        return {name: value.detach().clone() for name, value in self.named_parameters() if value.requires_grad}

    def merge(self) -> None:
        """Fold the low-rank updates into the encoder: the same map, faster, no longer trainable."""
        for name, module in list(self.encoder.named_modules()):
            if isinstance(module, LowRankLinear):
                parent, _, child = name.rpartition(".")
                setattr(self.encoder.get_submodule(parent), child, module.merged())


class PairwiseNetwork(EncoderNetwork):
    """logit(x, a, b) = head(x, a) - head(x, b), all in one sequence as PairRM has it, or score(x, a) = head(x, a)."""

    config: PairwiseEncoderConfig

    def __init__(self, config: PairwiseEncoderConfig, encoder: BertModel) -> None:
        super().__init__(config, encoder, outputs=1)

    def judge(self, states: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """See `EncoderNetwork.judge`: logits (B,) that the first candidate wins, or a lone one's scores."""
        result = self.rate(states, segments, FIRST)
        if self.config.together:
            result = result - self.rate(states, segments, SECOND)
        return result.squeeze(-1) / self.config.temperature

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """See `EncoderNetwork.logits`."""
        return values[:, 0] if self.config.together else values[:, 0] - values[:, 1]


class GeneralPreferenceNetwork(EncoderNetwork):
    """logit(x, a, b) = skew(head(x, a), head(x, b)) / beta, each response in a sequence of its own (arXiv 2410.02197).

    The paper's gate makes a scale for each plane of the prompt; here the head sees the prompt's states too, so the
    length of an embedding in a plane is the scale. Of length 1, as the paper's optionally are, embeddings would not
    leave the point where all responses to a prompt are alike, at which circles have no gradient.
    """

    config: GeneralPreferenceConfig

    def __init__(self, config: GeneralPreferenceConfig, encoder: BertModel) -> None:
        super().__init__(config, encoder, outputs=config.dimension)

    def judge(self, states: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """See `EncoderNetwork.judge`: embeddings (B, dimension), divided by the root of beta, the temperature."""
        return self.rate(states, segments, FIRST) / math.sqrt(self.config.temperature)

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """See `EncoderNetwork.logits`."""
        return skew(values[:, 0], values[:, 1])


def _represent(states: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """(B, 2H): the segment's marker, as in PairRM, and its mean, as the sentence encoder was trained."""
    marker = states[torch.arange(len(states), device=states.device), members.int().argmax(dim=1)]
    weights = members.to(states.dtype)
    mean = torch.einsum("bl,blh->bh", weights, states) / weights.sum(dim=1, keepdim=True)
    return torch.cat((marker, mean), dim=-1)


def load_encoder(folder: Path, dtype: torch.dtype) -> BertModel:
    """The BERT-type encoder of a folder.

    Raises:
        ConfigError: if the folder holds a model of another type.
    """
    kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if kind != "bert":
        raise ConfigError(f"{folder}: the pairwise encoder needs a model of type bert, this one is {kind}")
    encoder = BertModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True)
    encoder.pooler = None
    return encoder.eval()
