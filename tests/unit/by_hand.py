"""Runs of few tokens whose stages a test calls one after the other."""

from pathlib import Path
from typing import Any


def few_tokens(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """Values of a run in a folder, of eight prompts there, which a model of tests plays in seconds."""
    source = folder / "prompts.jsonl"
    source.write_text("".join(f'{{"prompt": "What is {i} and {i}?"}}\n' for i in range(8)))
    return {
        "output_uri": str(folder / "run"),
        "base_model": str(model),
        "prompts": str(source),
        "prepare.held_out": 2,
        "prepare.max_prompt_tokens": 160,
        "generate.engine": "transformers",
        "generate.dtype": "float32",
        "generate.responses": 3,
        "generate.max_tokens": 8,
        "generate.chunk_size": 2,
        "train.global_batch": 2,
        "train.dtype": "float32",
        "evaluate.max_tokens": 8,
        "evaluate.bootstrap": 100,
        **changes,
    }
