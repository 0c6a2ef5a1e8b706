"""Runs on the cluster, started and followed by the command line as people do it."""

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml
from sppo_pipelines.submission import run as submission
from sppo_pipelines.submission.client import Client, Json
from sppo_pipelines.submission.progress import ENDED, Task, TaskKey, tasks
from sppo_pipelines.submission.run import Run

from tests.cluster.settings import Settings
from tests.cluster.waiting import until

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "cpu" / "smoke.yaml"
OURS = "sppo-cluster-test"
"""The experiment of these runs, and the registered model of what they publish: nothing of anybody else's is moved."""
LONGEST = 5400.0
"""Seconds that a run may take."""
SHORT = 600.0
"""Seconds that a command may take that does not wait for a run, and a state that comes soon."""


class Result(NamedTuple):
    """How a command ended, and all that it printed."""

    code: int
    text: str


class Played(NamedTuple):
    """A run, and the command that started it."""

    run_id: str
    output_uri: str
    result: Result
    seconds: float
    """That the command took."""


class Runs:
    """Starts runs, looks at them, and knows which ones to end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = Client(settings.host)
        health = self.client.get("healthz")
        if health.get("multi_user"):
            self.client.namespace = settings.namespace
        self.server = " ".join(filter(None, (health.get("tag_name"), str(health.get("commit_sha", ""))[:10])))
        self.folder = f"{settings.output}/{datetime.now(UTC):%Y%m%d-%H%M%S}"
        self.started: list[str] = []

    def sppo(self, *arguments: str, seconds: float = SHORT) -> Result:
        """Run `sppo`.

        Raises:
            AssertionError: if it takes longer than it may.
        """
        command = [str(Path(sys.executable).with_name("sppo")), *arguments]
        try:
            ended = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired as expired:
            said = (expired.stdout or b"").decode(errors="replace")
            raise AssertionError(f"sppo {arguments[0]}: not ended within {seconds:g} s\n{said}") from None
        print(f"$ sppo {' '.join(arguments)}\n{ended.stdout}")
        return Result(ended.returncode, ended.stdout)

    def submit(
        self, name: str, *overrides: str, wait: bool = False, output_uri: str = "", profile: Path | None = None
    ) -> Played:
        """Start a smoke run.

        Args:
            name: the end of its output_uri.
            overrides: values of the configuration and the hardware, over those of the recipe.
            wait: whether the command follows it to its end.
            output_uri: where it writes, if not under the name.
            profile: another one.
        """
        place = output_uri or f"{self.folder}/{name}"
        namespace = ("--namespace", self.client.namespace) if self.client.namespace else ()
        began = time.monotonic()
        result = self.sppo(
            "submit",
            *("--host", self.settings.host, *namespace, "--service-account", "sppo-runner"),
            *(
                "--profile",
                str(profile or self.settings.profile),
                "--config",
                str(RECIPE),
                *(["--wait"] if wait else []),
            ),
            *(f"output_uri={place}", f"experiment={OURS}", f"publish.registered_model={OURS}", *overrides),
            seconds=LONGEST if wait else SHORT,
        )
        return self.note(run_id(result.text), place, result, time.monotonic() - began)

    def note(self, run_id: str, output_uri: str, result: Result, seconds: float) -> Played:
        """A run that was started: it is ended with the session."""
        self.started.append(run_id)
        return Played(run_id, output_uri, result, seconds)

    def follow(self, run_id: str) -> Result:
        """Follow a run to its end; one that failed or was ended is resumed first."""
        host = ("--host", self.settings.host)
        return self.sppo("resume", run_id, *host, "--wait", seconds=LONGEST)

    def logs(self, run_id: str, *chosen: str) -> str:
        """What a stage has printed until now."""
        result = self.sppo("logs", run_id, *chosen, "--host", self.settings.host)
        return result.text if result.code == 0 else ""

    def look(self, run_id: str) -> Run:
        """The run as it is now."""
        return submission.look(self.client, run_id)

    def task(self, run_id: str, key: TaskKey) -> Task | None:
        """A task as it is now; None before it begins.

        Raises:
            AssertionError: if the run has ended, and so nothing more will come of it.
        """
        run = self.look(run_id)
        found = next((task for task in tasks(run.workflow) if task.key == key), None)
        assert run.state not in ENDED or (found and found.state in ENDED), f"the run has ended: {run.state.lower()}"
        return found

    def terminate(self, run_id: str) -> None:
        """Terminate a run, as the UI's button does."""
        self.client.once("POST", f"runs/{run_id}:terminate")

    def ended(self, run_id: str, seconds: float = SHORT) -> Run:
        """The run when it has ended."""

        def probe() -> Run | None:
            run = self.look(run_id)
            return run if run.state in ENDED else None

        return until(f"the end of run {run_id}", seconds, probe)

    def post(self, run: Json) -> str:
        """Start a run with a request of one's own, and give its id."""
        return str(self.client.once("POST", "runs", json=run)["run_id"])

    def stop(self, run_id: str) -> None:
        """Terminate a run that goes on, and wait for its end."""
        if self.look(run_id).state not in ENDED:
            self.terminate(run_id)
            self.ended(run_id)

    def stop_all(self) -> None:
        """Stop what still goes on."""
        for started in self.started:
            self.stop(started)


def run_id(text: str) -> str:
    """The id of the run that `sppo submit` started.

    Raises:
        AssertionError: if it started none.
    """
    found = re.search(r"^run: +\S+/#/runs/details/(\S+)$", text, re.MULTILINE)
    assert found, f"no run was started:\n{text}"
    return found[1]


def two_nodes(profile: Path, folder: Path) -> Path:
    """A profile that trains on two nodes, and is else as the given one."""
    values = yaml.safe_load(profile.read_text())
    values.setdefault("training", {})["nodes"] = 2
    path = folder / "two-nodes.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
