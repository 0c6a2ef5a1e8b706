"""Profiles: what a pipeline asks of a cluster, and the defaults of its hardware parameters, from a YAML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from sppo.config.reading import parse_yaml
from sppo.config.run import explain
from sppo.config.sections.section import Section
from sppo.errors import ConfigError

SHIPPED = Path(__file__).parent / "profiles"
"""The profiles that come with the pipeline."""


def _quantity(form: str, such: str) -> AfterValidator:
    """Of quantities of Kubernetes those that kfp takes (`kfp/dsl/pipeline_task.py`, 2.17). K is kfp's alone."""

    def check(told: str) -> str:
        if re.fullmatch(form, told) is None:
            raise ValueError(f"{told!r} is no quantity that a task can ask for; write {such}")
        return told

    return AfterValidator(check)


Cpu = Annotated[str, _quantity(r"([0-9]*[.])?[0-9]+m?", "such as 8 or 500m")]
Memory = Annotated[str, _quantity(r"[0-9]+([EPTGM]i?|Ki)?", "such as 6G or 6Gi")]
SharedMemory = Annotated[str, _quantity(r"([0-9]+([EPTGM]i?|Ki)?)?", "such as 6G or 6Gi, or nothing")]


class Resources(Section):
    """What one task asks for and may use, as Kubernetes quantities."""

    cpu: Cpu = Field("1", description="CPU request.")
    memory: Memory = Field("4G", description="Memory request and limit.")
    shared_memory: SharedMemory = Field("", description="Size of /dev/shm; empty leaves the runtime's 64 MiB.")
    hours: int = Field(1, ge=1, description="Longest time of one attempt.")


class Toleration(Section):
    """What Kubernetes takes for one: the driver stops at other types of values, and leaves out other fields."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    tolerationSeconds: int | None = Field(None, strict=True)

    @model_validator(mode="after")
    def _whole(self) -> Toleration:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"operator Exists takes no value (got {self.value!r})")
        if self.operator == "Equal" and not self.key:
            raise ValueError("key: give one, or operator: Exists for all")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds: is of the effect NoExecute alone")
        return self


def _tolerations(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for each in given:
        try:
            Toleration.model_validate(each)
        except ValidationError as error:
            raise ValueError(f"{each}: {explain(error, Toleration, 'Kubernetes has no such field')}") from None
    return given


class Pool(Section):
    """Where the tasks of one kind run: defaults of the pipeline's parameters."""

    node_selector: dict[str, str] = Field({})
    tolerations: Annotated[list[dict[str, Any]], AfterValidator(_tolerations)] = Field([])
    gpus: int = Field(0, ge=0)


class TrainingPool(Pool):
    """Where training runs."""

    nodes: int = Field(1, ge=1, description="Nodes that train together, each with that many GPUs.")


POOLS = {"generation": Pool, "ranking": Pool, "training": TrainingPool}


def hardware_keys() -> dict[str, str]:
    """The pipeline's parameters for the hardware, each with the setting of a pool that it is."""
    return {f"{pool}_{setting}": setting for pool, kind in POOLS.items() for setting in kind.model_fields}


class Stages(Section):
    """The resources of each stage."""

    prepare: Resources = Resources(memory="8G")
    generate: Resources = Resources(cpu="8", memory="64G", hours=12)
    rank: Resources = Resources(cpu="4", memory="32G", hours=6)
    train: Resources = Resources(cpu="8", memory="128G", hours=24)
    evaluate: Resources = Resources(cpu="8", memory="64G", hours=6)
    publish: Resources = Resources(cpu="2", memory="64G", hours=2)
    bench: Resources = Resources(cpu="8", memory="64G", hours=24)
    keep: Resources = Resources(memory="1G")
    finish: Resources = Resources()


class Profile(Section):
    """What the pipeline asks of a cluster."""

    generation: Pool = Pool()
    ranking: Pool = Pool()
    training: TrainingPool = TrainingPool()
    stages: Stages = Stages()
    retries: int = Field(2, ge=0, description="Further attempts at a failed task; each finds what is committed.")
    queue: str = Field("", description="Kueue's local queue, as a label on the pods that ask for GPUs.")
    model_cache: str = Field("", description="PersistentVolumeClaim that keeps downloaded models.")
    images: dict[str, str] = Field({}, description="Images by stage, instead of the released ones; best by digest.")
    workflow_bytes: int = Field(
        1 << 20, ge=1, description="Largest workflow that Argo accepts: its MAX_WORKFLOW_SIZE, where that was raised."
    )
    settings: str = Field("sppo-settings", min_length=1, description="ConfigMap with addresses; its keys are optional.")
    credentials: str = Field(
        "sppo-credentials", min_length=1, description="Secret with keys and tokens; its keys are optional."
    )

    @field_validator("images")
    @classmethod
    def _of_stages(cls, images: dict[str, str]) -> dict[str, str]:
        unknown = sorted(stage for stage in images if stage not in STAGES)
        if unknown:
            raise ValueError(f"unknown stage {', '.join(unknown)}; the stages are {', '.join(STAGES)}")
        return images


STAGES = tuple(Stages.model_fields)


def usual_profile(preset: str) -> str:
    """The profile of a run that names none: the models of the preset `cpu` are in the image `cpu` alone."""
    return "cpu" if preset == "cpu" else "one-gpu"


def usual_preset(profile: Profile) -> str:
    """The preset with which a package's form begins: no image for GPUs has the models of `cpu`."""
    pools = (profile.generation, profile.ranking, profile.training)
    return "paper" if any(pool.gpus for pool in pools) else "cpu"


def with_images(profile: str, images: Path | None) -> Profile:
    """A profile, with the images of a file in the place of its own.

    Raises:
        ConfigError: see `load_profile` and `load_images`.
    """
    loaded = load_profile(profile)
    return loaded if images is None else loaded.model_copy(update={"images": loaded.images | load_images(images)})


def load_images(path: Path) -> dict[str, str]:
    """Images by stage, from a YAML file.

    Raises:
        ConfigError: for a missing file, an unknown stage or a value that is no image.
    """
    if not path.is_file():
        raise ConfigError(f"images: {path}: no such file")
    images = parse_yaml(path.read_bytes(), f"images: {path}")
    if not isinstance(images, dict) or not all(isinstance(image, str) and image for image in images.values()):
        raise ConfigError(f"images: {path}: not a mapping of stages to images")
    unknown = sorted(str(stage) for stage in images if stage not in STAGES)
    if unknown:
        raise ConfigError(f"images: {path}: unknown stage {', '.join(unknown)}; the stages are {', '.join(STAGES)}")
    return images


def load_profile(name: str) -> Profile:
    """A profile by the name of a shipped one, or by the path of a YAML file.

    Raises:
        ConfigError: if there is none, or a value in it is wrong.
    """
    shipped = SHIPPED / f"{name}.yaml"
    if shipped.is_file():
        path = shipped
    elif Path(name).is_file():
        path = Path(name)
    else:
        names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
        raise ConfigError(f"profile: {name!r} is neither a file nor one of {', '.join(names)}")
    try:
        return Profile.model_validate(parse_yaml(path.read_bytes(), f"profile {name}") or {})
    except ValidationError as error:
        raise ConfigError(f"profile {name}: {explain(error, Profile, 'the shipped ones show the keys')}") from None
