"""Reward models with random weights, small enough to make in milliseconds."""

import shutil
from pathlib import Path

import torch
import transformers


def write_reward_model(
    folder: Path, chat_model: Path, labels: int = 1, architecture: str = "Llama", **config: object
) -> Path:
    """Write a random model that scores, with the tokenizer and chat template of a chat model.

    Args:
        folder: becomes the reward model.
        chat_model: whose tokenizer it gets.
        labels: scores of a text; a reward model has one.
        architecture: as transformers calls it; Skywork-Reward-V2 has `Qwen3` and `Llama`.
        config: values of its configuration.
    """
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (chat_model / name).exists():
            shutil.copy(chat_model / name, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
        "max_position_embeddings": 512, "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id, "num_labels": labels,
    }  # fmt: skip
    made = getattr(transformers, f"{architecture}Config")(**(sizes | config))
    getattr(transformers, f"{architecture}ForSequenceClassification")(made).save_pretrained(folder)
    return folder
