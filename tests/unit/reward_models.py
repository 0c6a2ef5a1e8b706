"""Reward models with random weights, small enough to make in milliseconds."""

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification


def write_reward_model(folder: Path, chat_model: Path, labels: int = 1, **config: object) -> Path:
    """Write a random Llama that scores, with the tokenizer and chat template of a chat model.

    Args:
        folder: becomes the reward model.
        chat_model: whose tokenizer it gets.
        labels: scores of a text; a reward model has one.
        config: values of `LlamaConfig`.
    """
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (chat_model / name).exists():
            shutil.copy(chat_model / name, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id, "num_labels": labels,
    }  # fmt: skip
    LlamaForSequenceClassification(LlamaConfig(**(sizes | config))).save_pretrained(folder)
    return folder
