"""Going on with a run that ended: by the server's retry or, where that is too large, by submitting it anew."""

from __future__ import annotations

from typing import NamedTuple

from sppo.errors import ConfigError
from sppo_pipelines.submission.client import Client, Json
from sppo_pipelines.submission.progress import ENDED
from sppo_pipelines.submission.run import Run, create, look, short_name

FIRST_PAUSE, LONGEST_PAUSE = 300.0, 3600.0
"""Seconds between the end of a run and the first resume, doubling for each further one, up to the longest.

An outage of minutes the stages outlast themselves, by trying again inside their pods.
"""
_KEPT = (
    "pipeline_version_reference",
    "pipeline_spec",  # in place of the reference, in a run of a package that was not uploaded
    "runtime_config",
    "service_account",
    "plugins_input",
)
"""Fields of a run that one which goes on with its work is given too."""


class Resumed(NamedTuple):
    """A run that goes on, and what it was before it was retried; None if no end of it is to be outlasted."""

    run_id: str
    before: Run | None = None


def pause(number: int) -> float:
    """Seconds to wait before the resume of this number, from 1."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (number - 1))


def resume(client: Client, before: Run, anew: bool = False) -> Resumed:
    """Have the server run what failed in a run again; a run that goes on or succeeded is left alone.

    Args:
        client: the server.
        before: the run.
        anew: submit a run that is too large to retry anew; its stages find in the store what is done.

    Raises:
        ConfigError: if the run is too large for the server to retry, without `anew`.
        ConfigError, InfrastructureError: as `Client.get`.
    """
    if before.state not in {"FAILED", "CANCELED"}:
        print(f"it is {before.state.lower() or 'in no state yet'}: there is nothing to retry", flush=True)
        return Resumed(before.run_id)
    if not before.too_large:
        _retry(client, before)
        return Resumed(before.run_id, before)
    if not anew:
        raise ConfigError(f"{before.run_id}: {before.too_large}")
    run_id = _submit_anew(client, before)
    print("it is too large for Kubeflow to retry: a new run with the same output_uri goes on", flush=True)
    print(f"run:     {client.run_url(run_id)}", flush=True)
    return Resumed(run_id)


def go_on(client: Client, ended: Run) -> Resumed:
    """Resume a run that ended a while ago, unless somebody else has resumed it since.

    Raises:
        ConfigError, InfrastructureError: as `Client.get`.
    """
    now = look(client, ended.run_id)
    if now.finished_at != ended.finished_at:
        print("somebody else has resumed it", flush=True)
        return Resumed(ended.run_id)
    return resume(client, now, anew=True)


def _retry(client: Client, before: Run) -> None:
    def retried() -> Json | None:
        now = client.once("GET", f"runs/{before.run_id}")
        return now if now.get("state") not in ENDED or now.get("finished_at", "") != before.finished_at else None

    client.ensure(retried, f"runs/{before.run_id}:retry", json={})
    print("the server retries what failed", flush=True)


def _submit_anew(client: Client, before: Run) -> str:
    """Create a run of the same package with the same parameters.

    Its name is made of the end that it goes on from, so that whoever else resumes that end finds it.
    """
    when = before.finished_at[:19].replace("T", " ")
    name = f"{short_name(before.output_uri)} {when} after {before.run_id[:8]}"
    kept = {field: before.told[field] for field in _KEPT if field in before.told}
    return str(create(client, name, before.told["experiment_id"], kept)["run_id"])
