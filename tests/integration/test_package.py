"""A compiled package plays the real stages: what a cluster receives is what was tested here."""

from pathlib import Path

import pytest
from kfp import components, local
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.kfp_local import conditions_on_outputs

from sppo.store.base import file_sha256
from tests.conftest import lineage_of


def test_the_default_package_trains_what_the_command_trains(
    small_run: Path, small_settings: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    compile_pipeline(runs / "sppo.yaml", 3, "one-gpu")
    package = components.load_component_from_file(str(runs / "sppo.yaml"))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(runs / "root"), raise_on_error=True)
    values = dict(setting.split("=", 1) for setting in small_settings)
    with conditions_on_outputs():
        package(output_uri=str(runs / "run"), preset="cpu", iterations=1, config=values)
    lineage = lineage_of(runs / "run")
    assert (runs / "run" / lineage.published_key / "model.safetensors").is_file()
    weights = f"{lineage.model_key(1)}/model.safetensors"
    assert file_sha256(runs / "run" / weights) == file_sha256(small_run / weights)
