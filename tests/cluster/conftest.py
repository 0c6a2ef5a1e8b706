"""What the tests of a cluster share: its connections, and the runs that several tests look at."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.episodes import Disturbed, FromForm, Terminated, disturb, start_from_form, terminate
from tests.cluster.kube import GPU, Kube
from tests.cluster.mlflow_runs import Tracked
from tests.cluster.runs import Played, Result, Runs, two_nodes
from tests.cluster.settings import LackError, Settings, or_skip, read_settings
from tests.cluster.store import Stored
from tests.cluster.table import rows_of, table

SERVERS = pytest.StashKey[list[str]]()
"""What answered, with versions, for the head of the table."""


@pytest.fixture(scope="session")
def settings() -> Settings:
    return or_skip(lambda: read_settings(os.environ))


@pytest.fixture(scope="session")
def runs(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """The command line; runs that still go on at the end of the session are terminated."""
    started = Runs(settings)
    request.config.stash.setdefault(SERVERS, []).append(f"Kubeflow Pipelines {started.server}")
    yield started
    started.stop_all()


@pytest.fixture(scope="session")
def kube(settings: Settings, request: pytest.FixtureRequest) -> Kube:
    connected = or_skip(lambda: Kube(settings.namespace))
    request.config.stash.setdefault(SERVERS, []).append(f"Kubernetes {connected.version}")
    return connected


@pytest.fixture(scope="session")
def stored(runs: Runs, settings: Settings, request: pytest.FixtureRequest) -> Iterator[Stored]:
    """The store; what the runs wrote is removed, unless a test failed."""
    connected = or_skip(lambda: Stored(settings.output))
    yield connected
    if not request.session.testsfailed:
        connected.remove(runs.folder)


@pytest.fixture(scope="session")
def tracked(settings: Settings) -> Tracked:
    return or_skip(lambda: Tracked(settings.mlflow))


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Notes for the table what a test saw."""
    return lambda text: record_property("seen", text)


# Runs


@pytest.fixture(scope="session")
def smoke(runs: Runs) -> Played:
    """The smoke run, followed to its end by the command that started it."""
    return runs.submit("smoke", wait=True)


@pytest.fixture(scope="session")
def disturbed(runs: Runs, kube: Kube) -> Disturbed:
    return disturb(runs, kube)


@pytest.fixture(scope="session")
def terminated(runs: Runs, kube: Kube, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Terminated:
    """On two nodes where the cluster has Kubeflow Trainer."""
    folder = tmp_path_factory.mktemp("profile")
    return terminate(runs, kube, two_nodes(settings.profile, folder) if kube.has_trainer() else None)


@pytest.fixture(scope="session")
def resumed(runs: Runs, terminated: Terminated) -> Result:
    """The command that resumed the terminated run and followed it."""
    return runs.follow(terminated.run.run_id)


@pytest.fixture(scope="session")
def gpu_lack(settings: Settings) -> Iterator[str]:
    """Why no pod can have a GPU; empty where it can, and as long as the session goes on."""
    try:
        connected = Kube(settings.namespace)
    except LackError as lack:
        yield str(lack)
        return
    if connected.gpus():
        yield ""
    elif settings.patch_node:
        with connected.lent_gpus():
            yield ""
    else:
        yield f"no node has {GPU}; with SPPO_PATCH_NODE=1 one is given some in name"


@pytest.fixture(scope="session")
def from_form(runs: Runs, smoke: Played, gpu_lack: str) -> FromForm:
    """A run started as the web UI does, which finds all that the smoke run committed."""
    return start_from_form(runs, smoke, gpus="0" if gpu_lack else "1")


# The table


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "when")]
    rows = rows_of(reports)
    if any(row.result != "skipped" for row in rows):
        terminalreporter.section("what the cluster showed")
        terminalreporter.write_line(f"{datetime.now(UTC):%Y-%m-%d}: {', '.join(config.stash.get(SERVERS, []))}\n")
        terminalreporter.write_line("\n".join(table(rows)))
