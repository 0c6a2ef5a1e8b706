"""`sppo keep-going`: one look at the runs of a namespace that failed, resuming those that ended by infrastructure.

How often a run was resumed is kept in its store, one object for each time. Each is created only where there is none, so
that of two looks at once one resumes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from sppo.errors import ConfigError, InfrastructureError
from sppo.store.s3 import S3Store
from sppo_pipelines.names import PIPELINE
from sppo_pipelines.submission.client import EQUALS, GREATER_THAN, GREATER_THAN_EQUALS, Client, Json
from sppo_pipelines.submission.outcome import outcome
from sppo_pipelines.submission.resume import go_on, pause
from sppo_pipelines.submission.run import Run, look, output_uri

KEY = "tracking/keep-going"
"""Where a run's store keeps how often it was resumed: in 1.json, 2.json, …"""


class PastResume(BaseModel):
    """One time that a run was resumed: which end of which run, and when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    finished_at: str
    resumed_at: AwareDatetime


def look_once(client: Client, times: int, hours: float) -> None:
    """Resume what infrastructure ended; what cannot be looked at or resumed is told, and the next one looked at.

    Args:
        client: the server.
        times: how often a run is resumed at most.
        hours: how long ago a run may have failed.

    Raises:
        ConfigError, InfrastructureError: as `Client.get`, if the runs cannot be listed.
        InfrastructureError: at the end, if one of them could not be looked at or resumed.
    """
    missed = 0
    for told in _failed(client, datetime.now(UTC) - timedelta(hours=hours)):
        try:
            done = _keep(client, told["run_id"], times)
        except (ConfigError, InfrastructureError) as error:
            missed, done = missed + 1, str(error)
        print(f"{told['display_name']} ({told['run_id']}): {done}", flush=True)
    if missed:
        raise InfrastructureError(f"{missed} of the runs could not be looked at or resumed; the lines above say why")


def _failed(client: Client, since: datetime) -> list[Json]:
    """The runs that failed since then and write to S3; archiving one takes it out."""
    failed = {"operation": EQUALS, "key": "state", "stringValue": "FAILED"}
    lately = {"operation": GREATER_THAN_EQUALS, "key": "finished_at", "timestampValue": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
    return [
        told
        for told in client.runs(failed, lately)
        if output_uri(told).startswith("s3://") and told.get("storage_state") != "ARCHIVED"
    ]


def _keep(client: Client, run_id: str, times: int) -> str:
    """Resume one run if it is to be; what was done, in words."""
    run = look(client, run_id)
    if run.state != "FAILED":
        return "left alone: somebody else has resumed it"
    if run.workflow.pipeline != PIPELINE:
        return f"left alone: it plays {run.workflow.pipeline}"
    newer = _newer(client, run)
    if newer:
        return f"left alone: run {newer} is newer and has the same output_uri"
    result = outcome(client, run)
    if result.reason is None or not result.reason.may_pass:
        return f"left alone: {result.line}"
    store = S3Store(run.output_uri)
    past = _past_resumes(store)
    number = len(past) + 1
    if number > times:
        return f"left alone: it was resumed {len(past)} times; delete {store.uri}/{KEY} to begin anew"
    since = max([datetime.fromisoformat(run.finished_at), *(each.resumed_at for each in past)])
    due = since + timedelta(seconds=pause(number))
    if datetime.now(UTC) < due:
        return f"{result.line}: resume {number} of {times} not before {due:%H:%M} UTC"
    this = PastResume(run_id=run.run_id, finished_at=run.finished_at, resumed_at=datetime.now(UTC))
    if not store.create(_key(number), this.model_dump_json().encode()):
        return "left alone: another look resumes it"
    go_on(client, run)
    return f"{result.line}: resume {number} of {times}"


def _newer(client: Client, run: Run) -> str:
    """A run that was created later and writes to the same place, as one has that was submitted anew; empty if none."""
    later = {"operation": GREATER_THAN, "key": "created_at", "timestampValue": run.told["created_at"]}
    return next((str(told["run_id"]) for told in client.runs(later) if output_uri(told) == run.output_uri), "")


def _past_resumes(store: S3Store) -> list[PastResume]:
    """The times that a run was resumed, the first one first.

    Raises:
        ConfigError: for an object that is none of ours.
    """
    past: list[PastResume] = []
    while (data := store.read(_key(len(past) + 1))) is not None:
        try:
            past.append(PastResume.model_validate_json(data))
        except ValidationError:
            raise ConfigError(f"{store.uri}/{_key(len(past) + 1)}: cannot be read; delete it") from None
    return past


def _key(number: int) -> str:
    return f"{KEY}/{number}.json"
