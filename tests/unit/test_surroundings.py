"""A stage puts right what its process is born into: Argo's umask of 0, and variables of MLflow and OpenMP."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sppo import stages
from sppo.process.surroundings import MLFLOW, SPINS, put_right

OURS = {f"SPPO_{name}": value for name, value in zip(MLFLOW, ("http://mlflow.sppo:5000", "sppo", "word"), strict=True)}

OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
LOADED = """
from sppo import stages
stages.stage(lambda: None)()
import torch
"""


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's umask and environment as they were."""
    for name in (*MLFLOW, *OURS, *OPENMP):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("born", "wanted"), [(0o000, 0o022), (0o002, 0o022), (0o022, 0o022), (0o077, 0o077)])
def test_others_may_not_write_what_a_stage_writes(tmp_path, born, wanted):
    os.umask(born)

    @stages.stage
    def work() -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").touch()

    work()
    assert os.umask(0o022) == wanted
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~wanted
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == 0o666 & ~wanted


def test_mlflow_is_told_what_the_package_put_into_the_pod(monkeypatch):
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)
    put_right()
    assert [os.environ[name] for name in MLFLOW] == list(OURS.values())


def test_another_server_does_not_get_our_user_and_password(monkeypatch):
    """With injectUserEnvVars, Kubeflow's plugin sets the address of its own server."""
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://plugin:5000")
    put_right()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://plugin:5000"
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ and "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_a_password_without_an_address_is_told_to_nobody(monkeypatch):
    monkeypatch.setenv("SPPO_MLFLOW_TRACKING_PASSWORD", "word")
    put_right()
    assert not set(MLFLOW) & set(os.environ)


def test_what_the_secret_does_not_hold_is_not_set(monkeypatch):
    monkeypatch.setenv("SPPO_MLFLOW_TRACKING_URI", "http://open:5000")
    put_right()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://open:5000"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_our_server_does_not_get_the_plugins_user_and_password(monkeypatch):
    """With basic-auth, the plugin puts these into every pod, whether it puts its address there or not."""
    monkeypatch.setenv("SPPO_MLFLOW_TRACKING_URI", "http://open:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "plugin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "word")
    put_right()
    assert [os.environ.get(name) for name in MLFLOW] == ["http://open:5000", None, None]


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_of_a_stage_sleep_soon_unless_the_environment_says_otherwise(given, spins):
    """What libgomp says of itself when it is loaded."""
    environment = {**os.environ, **given, "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment, stderr=subprocess.PIPE, text=True, check=True
    )
    assert re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr) == [spins]
