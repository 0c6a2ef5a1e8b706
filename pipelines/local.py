"""The pipeline on one machine: the same components in processes of their own, under `kfp.local`."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.profile import load_profile
from sppo import layout
from sppo.config import RunConfig, resolve
from sppo.errors import ConfigError, RunFailedError
from sppo.prepare import prepare
from sppo.store import open_store


def run_locally(values: Mapping[str, Any]) -> RunConfig:
    """Play a whole alignment run here, going on from whatever is committed under its output_uri.

    Args:
        values: overrides of the configuration.

    Returns:
        The resolved configuration.

    Raises:
        ConfigError: for wrong input, before anything is written.
        RunFailedError: if a stage failed; what it and earlier stages committed stays.
    """
    config = resolve(dict(values))
    # In this process first, so that a mistake is told at once; the pipeline's own prepare then finds it done.
    prepare(config)
    # Models that come as a package or from a hub are loaded by each stage's process: none may go online by surprise.
    environment = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
    from kfp import local

    from pipelines.sppo import make_pipeline

    with tempfile.TemporaryDirectory(prefix="sppo-pipeline-") as folder, warnings.catch_warnings():
        # GPU limits and node selectors mean nothing here; the local runner says so for every task.
        warnings.simplefilter("ignore")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=folder, raise_on_error=True)
        pipeline = make_pipeline(config.iterations, load_profile("local"))
        try:
            pipeline(config=config.model_dump(mode="json"))
        except RuntimeError as error:
            raise RunFailedError(
                f"{str(error).splitlines()[0]}; its message is above. `sppo resume {config.output_uri}` goes on from there"
            ) from error
    return config


def recorded_config(output_uri: str) -> RunConfig:
    """The configuration of a run that was started in a place.

    Raises:
        ConfigError: if no run was started there.
    """
    store = open_store(output_uri)
    written = store.read(f"{layout.PREPARED}/{layout.CONFIG_FILE}") if store.manifest(layout.PREPARED) else None
    if written is None:
        raise ConfigError(f"{output_uri}: no run was started there; start one with `sppo run --output-uri {output_uri}`")
    return RunConfig.model_validate_json(written)


def interpreter_folder() -> Path:
    """Where this interpreter's programs are, for the commands that are printed for people."""
    return Path(sys.executable).parent
