"""The commands that speak to a cluster: submit a run, follow it to its exit code, and resume it meanwhile."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sppo.config.run import RunConfig
from sppo.errors import ConfigError, InfrastructureError
from sppo.preparing.recorded import refuse_old
from sppo.process.output import goes_on
from sppo.process.plan import plan_from_afar
from sppo.process.workload import workload
from sppo.reporting.tracking import without_password
from sppo.store.opening import open_store
from sppo_pipelines.screen import Screen, duration
from sppo_pipelines.submission import local_files
from sppo_pipelines.submission import package as packages
from sppo_pipelines.submission.client import Client, Json
from sppo_pipelines.submission.follow import follow
from sppo_pipelines.submission.outcome import append_summary, outcome, raise_unless_passed, write_junit
from sppo_pipelines.submission.resume import Resumed, go_on, pause
from sppo_pipelines.submission.run import Run, create, short_name


def show_plan(values: Mapping[str, Any], package: packages.Package) -> None:
    """Print what would be submitted: the package, the run's parameters, their configuration, and the work of it."""
    parameters, config = packages.parameters(values, package.limits)
    plan = {
        "package": {"version": package.version, "sha256": package.digest},
        "parameters": parameters,
        "configuration": config.model_dump(mode="json"),
        "work": workload(config),
    }
    print(yaml.safe_dump(plan, sort_keys=False), end="")
    _warn(config)


def show_work(values: Mapping[str, Any], package: packages.Package) -> None:
    """Print what the pods may lack, what is in the run's store already, and what a changed value redoes.

    Of a store that cannot be read from here it says so.

    Raises:
        ConfigError: as `package.parameters`; or if another version wrote the store.
    """
    _, config = packages.parameters(values, package.limits)
    _warn(config)
    store = open_store(config.output_uri)
    try:
        refuse_old(store)
        plan_from_afar(config, store).tell()
    except InfrastructureError as error:
        print(f"what is in {store.uri} already cannot be seen from here ({error})", flush=True)


def _warn(config: RunConfig) -> None:
    for line in local_files.warnings(config):
        print(f"warning: {line}", file=sys.stderr, flush=True)


def submit(
    client: Client,
    values: Mapping[str, Any],
    package: packages.Package,
    experiment: str,
    service_account: str,
) -> Json:
    """Create a run of the package, uploading it if its digest is new, and say where to look.

    Args:
        client: the server.
        values: overrides of the configuration and of the hardware.
        package: the compiled pipeline.
        experiment: the experiment of Kubeflow Pipelines; empty for the configuration's, which names MLflow's.
        service_account: who the pods are; empty for the server's default.

    Returns:
        The run.

    Raises:
        ConfigError, InfrastructureError: as `Client.get` and `package.parameters`.
    """
    parameters, config = packages.parameters(values, package.limits)
    _check_namespace(client)
    version, uploaded = packages.upload(client, package)
    print(f"package: {package.version} ({'uploaded' if uploaded else 'there already'})", flush=True)
    group = _experiment(client, experiment or config.experiment)["experiment_id"]
    content = {
        "pipeline_version_reference": {
            "pipeline_id": version["pipeline_id"],
            "pipeline_version_id": version["pipeline_version_id"],
        },
        "runtime_config": {"parameters": parameters},
        **({"service_account": service_account} if service_account else {}),
    }
    run = create(client, _run_name(config.output_uri), group, content)
    print(f"run:     {client.run_url(run['run_id'])}")
    print(f"MLflow:  {_mlflow(run, config.experiment)}", flush=True)
    return run


def wait(client: Client, start: Resumed, junit: Path | None, keep_going: int = 0) -> None:
    """Follow a run to its end, report it, and end with its exit code.

    Args:
        client: the server.
        start: the run.
        junit: a JUnit report to write.
        keep_going: how often a run that ended by infrastructure is resumed.

    Raises:
        InfrastructureError: if the server cannot be asked any more; the message says whether the run goes on.
        SppoError: as `raise_unless_passed`.
    """
    print("following it; it goes on if this command ends, and `sppo resume` with --wait follows it again", flush=True)
    resumed = start
    for number in range(1, keep_going + 2):
        run = _follow(client, resumed)
        result = outcome(client, run)
        if number > keep_going or result.reason is None or not result.reason.may_pass:
            break
        seconds = pause(number)
        print(f"{result.line}{result.said}\nresume {number} of {keep_going} in {duration(seconds)}", flush=True)
        time.sleep(seconds)
        resumed = _go_on(client, run)
    for line in result.verdict:
        print(line)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    for path, write in ((junit, write_junit), (Path(summary) if summary else None, append_summary)):
        try:
            if path is not None:
                write(result, path)
        except OSError as error:  # how the run ended is what the exit code tells
            print(f"warning: a report of the run was not written: {error}", file=sys.stderr, flush=True)
    raise_unless_passed(result)
    print(result.line)


def _follow(client: Client, resumed: Resumed) -> Run:
    again = f"the run goes on, and `sppo resume {resumed.run_id} --host {client.host} --wait` follows it again"
    try:
        with goes_on(again):
            return follow(client, resumed.run_id, Screen(), resumed.before)
    except InfrastructureError as error:
        raise InfrastructureError(f"{error}; {again}") from None


def _go_on(client: Client, run: Run) -> Resumed:
    try:
        return go_on(client, run)
    except InfrastructureError as error:
        again = f"`sppo resume {run.run_id} --host {client.host} --wait` goes on with it"
        raise InfrastructureError(f"{error}; the run has failed, and {again}") from None


def _run_name(output_uri: str) -> str:
    """What the run is called in MLflow, and when it was submitted.

    Unique, so that a request whose answer was lost can be told from another submission.
    """
    return f"{short_name(output_uri)} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(2)}"


def _check_namespace(client: Client) -> None:
    """Where Kubeflow has users, everything is in a namespace."""
    if client.get("healthz").get("multi_user") and not client.namespace:
        raise ConfigError("namespace: this Kubeflow has users; give --namespace, your profile's name")


def _experiment(client: Client, name: str) -> Json:
    place = {"namespace": client.namespace} if client.namespace else {}
    found, _ = client.ensure(
        lambda: client.newest("experiments", "experiments", name, **place),
        "experiments",
        json={"display_name": name, **place},
    )
    return found


def _mlflow(run: Json, experiment: str) -> str:
    """The run's page if Kubeflow's own MLflow plugin tells it, else the server that this environment names."""
    entries = ((run.get("plugins_output") or {}).get("mlflow") or {}).get("entries") or {}
    pages = [str(entry["value"]) for entry in entries.values() if str(entry.get("value", "")).startswith("http")]
    server = pages[0] if pages else os.environ.get("MLFLOW_TRACKING_URI", "the server that the cluster's settings name")
    return f"{without_password(server)}, experiment {experiment}"
