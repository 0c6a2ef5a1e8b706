"""Prepare: resolve the configuration, clean the prompts and divide them, before any GPU is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sppo.config.run import PreparedConfig, RunConfig
from sppo.errors import ConfigError
from sppo.models.fetch import causal_lm_config, fetch_model
from sppo.models.weights import check_weights
from sppo.preparing import chat, prompts
from sppo.preparing.recorded import is_recorded
from sppo.store import keys, tables
from sppo.store.lineage import Lineage
from sppo.store.once import run_once
from sppo.store.opening import open_store

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    Add = Callable[[RunConfig, PreTrainedTokenizerBase, Sequence[prompts.Prompt], Path], None]


def prepare(config: PreparedConfig, check: Callable[[RunConfig], None], add: Add) -> Path:
    """Check a configuration that is new in its place, and commit its tables of prompts.

    Args:
        config: the run's configuration, with what it names.
        check: checks what later stages need; called first.
        add: writes what later stages need into the folder; gets the model's tokenizer and the prompts trained on.

    Returns:
        A local folder with `iteration-<t>.parquet` for each iteration and `held-out.parquet`.

    Raises:
        ConfigError: for a wrong configuration, prompts or model.
    """
    store = open_store(config.output_uri)
    lineage = Lineage(config, store)
    missing = store.manifest(lineage.prepared_key) is None
    if missing:
        store.probe()
    if not is_recorded(config, store):
        check(config)
        if missing:  # else all that is needed of the prompts is there
            prompts.check_places(config.prompt_sets())
        check_model(config)

    def work(folder: Path) -> Mapping[str, float]:
        return _prepare(config, add, folder)

    run_once(store, lineage.prepared_key, {"stage": lineage.prepared}, work)
    return store.fetch(lineage.prepared_key)


def check_model(config: RunConfig) -> None:
    """Refuse a base model that cannot be trained, or whose context is too short for what the run samples.

    Raises:
        ConfigError: naming what is wrong.
    """
    model = fetch_model(config.base_model, weights=False)
    settings = causal_lm_config(model, config.base_model)
    _check_context(config, settings)
    _check_tokens(config, settings, chat.load_tokenizer(model), model)
    check_weights(config.base_model, model)


def _prepare(config: RunConfig, add: Add, folder: Path) -> Mapping[str, float]:
    counts = prompts.Counts()
    sets = config.prompt_sets()
    cleaned = prompts.clean_all((prompts.read_prompts(uri, config.prepare) for uri in sets), counts)
    if not cleaned:
        raise ConfigError(f"prompts: {', '.join(sets)}: no usable prompt among {counts.read} rows; {counts.line()}")
    tokenizer = chat.load_tokenizer(fetch_model(config.base_model, weights=False))
    encoded = _encode(config, tokenizer, cleaned, counts)
    print(counts.line(), flush=True)
    fitting = [prompt for prompt in cleaned if prompt.prompt_id in encoded]
    wanted = config.prepare
    parts = prompts.divide(fitting, config.iterations, wanted.held_out, wanted.prompts_per_iteration, len(sets))
    for name, said, part in [
        *((keys.prompts_file(t), f"iteration {t}", part) for t, part in enumerate(parts.iterations, start=1)),
        (keys.HELD_OUT_FILE, "held out", parts.held_out),
    ]:
        rows = ({"prompt_id": p.prompt_id, "prompt": p.text, "prompt_ids": encoded[p.prompt_id]} for p in part)
        tables.write(folder / name, tables.PROMPTS, rows)
        print(f"{said}: {len(part)} prompts", flush=True)
    add(config, tokenizer, [prompt for part in parts.iterations for prompt in part], folder)
    return {f"prepare/{name}": float(value) for name, value in vars(counts).items()}


def _encode(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, cleaned: list[prompts.Prompt], counts: prompts.Counts
) -> dict[str, list[int]]:
    """Token ids of each prompt that fits and has no special token of the model written out."""
    encoded: dict[str, list[int]] = {}
    special: dict[str, str] = {}
    for prompt in cleaned:
        token = chat.special_token_in(tokenizer, prompt.text)
        if token:
            special.setdefault(token, prompt.text)
            counts.special += 1
            continue
        ids = chat.encode_prompt(tokenizer, prompt.text)
        if len(ids) > config.prepare.max_prompt_tokens:
            counts.too_long += 1
        else:
            encoded[prompt.prompt_id] = ids
    for token, text in sorted(special.items()):
        print(f"warning: prompts with {token!r}, a special token of the model, are left out: {text[:60]!r}", flush=True)
    counts.kept = len(encoded)
    return encoded


def _check_tokens(config: RunConfig, model: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a model whose prompts would hold tokens that it has no embedding of, or whose weights are quantised."""
    if getattr(model, "quantization_config", None) is not None:
        raise ConfigError(
            f"{config.base_model}: config.json has a quantization_config; training needs the model's whole weights: "
            "name the model that it was made from"
        )
    rows = model.get_text_config().vocab_size
    absent = sorted({token for token in chat.encode_prompt(tokenizer, "Hello.") if token >= rows})
    if absent:
        names = ", ".join(repr(name) for name in tokenizer.convert_ids_to_tokens(absent))
        raise ConfigError(
            f"{config.base_model}: the chat template writes {names}, of which the model has no embedding (it has "
            f"{rows}); use a model whose tokenizer is its own, or resize its embeddings"
        )
    ends = folder / "generation_config.json"
    settings = json.loads(ends.read_bytes()) if ends.is_file() else {}
    if tokenizer.eos_token_id is None and settings.get("eos_token_id", getattr(model, "eos_token_id", None)) is None:
        print("warning: the model has no end token: every response counts as cut", flush=True)


def _check_context(config: RunConfig, model: PreTrainedConfig) -> None:
    context = getattr(model.get_text_config(), "max_position_embeddings", None)
    longest = config.prepare.max_prompt_tokens + config.longest_response()
    if context is not None and longest > context:
        raise ConfigError(
            f"prepare.max_prompt_tokens + max_tokens = {longest}, but {config.base_model} has a context of {context}; "
            "lower one of them"
        )
