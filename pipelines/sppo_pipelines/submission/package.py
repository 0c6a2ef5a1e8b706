"""The pipeline as the server knows it: the package, its version there, and what a run of it is given."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from sppo.config.limits import Limits
from sppo.config.run import RunConfig, kinds, resolve
from sppo.errors import ConfigError
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.names import PIPELINE
from sppo_pipelines.profile import POOLS, TrainingPool, hardware_keys
from sppo_pipelines.submission.client import Client, Json

_WITH_USER = re.compile(r"https?://[^/\s\"]*@")
FIELDS = ("preset", "output_uri", "base_model", "prompts", "preference_model", "experiment", "iterations", "shards")
"""Values of the configuration that have a field of their own in the form of the UI."""


class Package(NamedTuple):
    """A compiled pipeline."""

    content: bytes
    digest: str
    limits: Limits

    @property
    def version(self) -> str:
        """Its name on the server: what has the same digest is the same version."""
        return f"{PIPELINE}-{self.digest[:16]}"


def compile_package(max_iterations: int, profile: str, images: Path | None) -> Package:
    """Compile the pipeline, as `sppo compile` does.

    Raises:
        ConfigError: for a wrong number, profile or file of images.
    """
    with tempfile.TemporaryDirectory(prefix="sppo-package-") as folder:
        path = Path(folder) / "sppo.yaml"
        limits = compile_pipeline(path, max_iterations, profile, images)
        content = path.read_bytes()
    return Package(content, hashlib.sha256(content).hexdigest(), limits)


def parameters(values: Mapping[str, Any], limits: Limits) -> tuple[Json, RunConfig]:
    """What a run is given, checked as prepare checks it, but without reading prompts or models.

    Args:
        values: overrides of the configuration, and of the pools' hardware, such as training_gpus.
        limits: what the package can play.

    Returns:
        The pipeline's parameters, only those that are not left to their defaults; and the resolved configuration.

    Raises:
        ConfigError: naming every wrong value.
    """
    hardware = hardware_keys()
    pools = {name: _of_pool(name, hardware[name], value) for name, value in values.items() if name in hardware}
    asked = {name: value for name, value in values.items() if name not in hardware}
    for name in asked:
        near = difflib.get_close_matches(name, hardware, 1)
        if near and name.partition("_")[0] in POOLS:
            raise ConfigError(f"{name}: unknown key; did you mean {near[0]}?")
    for name, value in asked.items():
        if _WITH_USER.search(json.dumps(value, default=str)):
            raise ConfigError(f"{name}: the address holds a user or password, which all who see the run would read")
    config = resolve(asked)
    limits.check(config)
    gpus = {name: value for name, value in pools.items() if hardware[name] == "gpus"}
    limits.check_hardware(gpus, pools.get("training_nodes", 1))
    if not config.output_uri.startswith("s3://"):
        raise ConfigError(
            f"output_uri: {config.output_uri} is a folder, which the pods do not share; set output_uri=s3://bucket/prefix"
        )
    listed = {"prompts"} if not isinstance(config.prompts, str) else set()  # the form's field is a text
    shown = [name for name in FIELDS if name not in listed]
    fields = {name: getattr(config, name) for name in shown if name in asked or name == "preset"}
    rest = {name: value for name, value in asked.items() if name not in shown}
    return {**fields, **({"config": rest} if rest else {}), **pools}, config


def kinds_of_keys() -> dict[str, Any]:
    """The type of every value that a run is submitted with: of the configuration, and of the hardware."""
    hardware = hardware_keys().items()
    return kinds(RunConfig) | {key: TrainingPool.model_fields[setting].annotation for key, setting in hardware}


def _of_pool(name: str, setting: str, value: Any) -> Any:
    try:
        checked = getattr(TrainingPool.model_validate({setting: value}), setting)
        return str(checked) if setting == "gpus" else checked  # Kubeflow takes a count that is a number for none
    except ValidationError as error:
        raise ConfigError(f"{name}: {error.errors()[0]['msg']} (got {value!r})") from None


def upload(client: Client, package: Package) -> tuple[Json, bool]:
    """The package's version on the server, uploaded if its digest is new there.

    Returns:
        The version, and whether it was uploaded now.
    """
    from sppo_pipelines.sppo import DESCRIPTION

    place = {"namespace": client.namespace} if client.namespace else {}
    pipeline, _ = client.ensure(
        lambda: client.newest("pipelines", "pipelines", PIPELINE, **place),
        "pipelines",
        json={"name": PIPELINE, "display_name": PIPELINE, "description": DESCRIPTION, **place},
    )
    versions = f"pipelines/{pipeline['pipeline_id']}/versions"
    return client.ensure(
        lambda: client.newest(versions, "pipeline_versions", package.version),
        "pipelines/upload_version",
        params={
            "name": package.version,
            "display_name": package.version,
            "pipelineid": pipeline["pipeline_id"],
            "description": f"sha256:{package.digest}",
        },
        files={"uploadfile": ("sppo.yaml", package.content, "application/yaml")},
    )
