"""Profiles: the defaults of a pipeline's hardware, from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sppo.errors import ConfigError

SHIPPED = Path(__file__).parent / "profiles"
"""The profiles that come with the pipeline."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pool(_Section):
    """Where the tasks of one kind run, and with what."""

    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    gpus: int = Field(0, ge=0)


class Profile(_Section):
    """Defaults of the pools, and how failures are met."""

    generation: Pool = Pool()
    ranking: Pool = Pool()
    training: Pool = Pool()
    retries: int = Field(2, ge=0, description="Further attempts at a failed task; each finds what is committed.")
    timeout_hours: int = Field(24, ge=1, description="Longest time of one attempt.")


def load_profile(name: str) -> Profile:
    """A profile by the name of a shipped one, or by the path of a YAML file.

    Raises:
        ConfigError: if there is none, or a value in it is wrong.
    """
    shipped = SHIPPED / f"{name}.yaml"
    if shipped.is_file():
        text = shipped.read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
        raise ConfigError(f"profile: {name!r} is neither a file nor one of {', '.join(names)}")
    try:
        return Profile.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"profile {name}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"profile {name}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
