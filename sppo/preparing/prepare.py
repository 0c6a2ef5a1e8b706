"""Prepare: resolve the configuration, clean the prompts and divide them, before any GPU is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sppo.config.run import RunConfig, read_config
from sppo.errors import ConfigError
from sppo.models.fetch import causal_lm_config, fetch_model
from sppo.models.weights import check_weights
from sppo.preparing import chat, prompts
from sppo.preparing.chunks import chunk_count
from sppo.preparing.pins import pin
from sppo.preparing.recorded import config_path
from sppo.store import keys, tables
from sppo.store.once import run_once
from sppo.store.opening import open_store

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    Add = Callable[[RunConfig, PreTrainedTokenizerBase, Path], None]


def prepare(config: RunConfig, check: Callable[[RunConfig], None], add: Add) -> Path:
    """Check prompts and model, and commit the run's configuration and prompt tables.

    Args:
        config: the run's configuration.
        check: checks what later stages need; called first, if the run is not prepared yet.
        add: writes what later stages need into the folder, with the model's tokenizer.

    Returns:
        A local folder with `config.json`, `pins.json` (see `sppo.preparing.pins`), `iteration-<t>.parquet` for each
        iteration and `held-out.parquet`.

    Raises:
        ConfigError: for a wrong configuration, prompts or model, or an output_uri that holds another run.
    """
    store = open_store(config.output_uri)
    before = read_config(config_path(store)) if store.manifest(keys.PREPARED) else None
    config, pins = pin(config.model_copy(update={"output_uri": store.uri}), store)
    if before is not None:
        _refuse_another_run(before, config)

    def work(folder: Path) -> Mapping[str, float]:
        store.probe()
        (folder / keys.PINS_FILE).write_text(json.dumps(pins, indent=1))
        return _prepare(config, check, add, folder)

    run_once(store, keys.PREPARED, {"config": config.digest()}, work)
    return store.fetch(keys.PREPARED)


def shard_list(config: RunConfig, prepared: Path) -> list[int]:
    """The shards of an iteration: as many as asked for, but none without a chunk of prompts."""
    rows = tables.read(prepared / keys.prompts_file(1), tables.PROMPTS)
    return list(range(min(config.shards, chunk_count(len(rows), config.generate.chunk_size))))


def _prepare(config: RunConfig, check: Callable[[RunConfig], None], add: Add, folder: Path) -> Mapping[str, float]:
    check(config)
    counts = prompts.Counts()
    source = prompts.read_prompts(config.prompts, config.prepare)
    cleaned = prompts.clean(source, counts)
    if not cleaned:
        raise ConfigError(f"prompts: {config.prompts}: no usable prompt among {counts.read} rows; {counts.line()}")
    model = fetch_model(config.base_model, weights=False)
    settings = causal_lm_config(model, config.base_model)
    _check_context(config, settings)
    tokenizer = chat.load_tokenizer(model)
    _check_tokens(config, settings, tokenizer, model)
    check_weights(config.base_model, model)
    encoded = _encode(config, tokenizer, cleaned, counts)
    print(counts.line(), flush=True)
    fitting = [prompt for prompt in cleaned if prompt.prompt_id in encoded]
    parts = prompts.divide(fitting, config.iterations, config.prepare.held_out, config.prepare.prompts_per_iteration)
    for name, part in [
        *((keys.prompts_file(t), part) for t, part in enumerate(parts.iterations, start=1)),
        (keys.HELD_OUT_FILE, parts.held_out),
    ]:
        rows = ({"prompt_id": p.prompt_id, "prompt": p.text, "prompt_ids": encoded[p.prompt_id]} for p in part)
        tables.write(folder / name, tables.PROMPTS, rows)
        print(f"{name}: {len(part)} prompts", flush=True)
    add(config, tokenizer, folder)
    (folder / keys.CONFIG_FILE).write_text(config.model_dump_json(indent=1))
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


def _refuse_another_run(before: RunConfig, config: RunConfig) -> None:
    """A second run in the same place must be the same run: name what differs instead of mixing two."""
    if before.digest() != config.digest():
        old, new = before.decisive(), config.decisive()
        changed = sorted(key for key in old if old[key] != new[key])
        raise ConfigError(
            f"output_uri: {config.output_uri} holds a run with another {', '.join(changed)}; choose another output_uri"
        )
