"""Why a run failed: the failed stage's own last words, the exit code that they lead to, and what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines.profile import STAGES
from pipelines.submission.client import Client
from pipelines.submission.podlog import NoLogError, read_log
from pipelines.submission.progress import PLAYED, failed_pod, key_of, named
from pipelines.submission.run import Run
from sppo.errors import KINDS, ConfigError, InfrastructureError, RunFailedError, SppoError

SHOWN = 10
"""Lines of a log that are shown, if none of them is an `error:` line."""
_OURS = re.compile(r"\s*error: ")
_LAUNCHER = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
"""How a line of Kubeflow's launcher begins (glog)."""
_ARGO = re.compile(r'time=\S+ level=\S+ msg=|\{"time":.*"argo":true|Error: exit status \d+$')
"""The same of Argo's executor, in text or JSON; the last is what older versions print at the end."""
_EXIT = re.compile(r"[EF]\d{4} .*\bexit status (\d+)$", re.MULTILINE)
"""The launcher's last words; its own exit code is 1 (backend/src/v2/component/launcher_v2.go, Execute)."""
_PLAIN_EXIT = re.compile(r"(main: )?Error \(exit code \d+\)(: Error)?")
"""What Argo says of every stage that ends with an exit code."""
_LIMITS = {"OOMKilled": "memory", "longer than the specified deadline": "hours"}
"""Which of a stage's limits was met, by Argo's words."""


class Reason(NamedTuple):
    """Why a run failed: in which task, if it was in one, what to do, and what is said of it."""

    where: str
    kind: type[SppoError]
    advice: str
    lines: tuple[str, ...]


def reason(client: Client, run: Run) -> Reason:
    """Why a run that did not succeed did not; what the stage said is read from the log of its last pod."""
    again = run.too_large or f"`sppo resume {run.run_id} --host {client.host}` goes on from there"
    pod = failed_pod(run.workflow)
    if pod is None or run.workflow.terminated:
        said = () if run.workflow.terminated or not run.workflow.message else (run.workflow.message,)
        return Reason("", RunFailedError, again, said)
    key, where = key_of(pod.path), named(pod)
    message = () if _PLAIN_EXIT.fullmatch(pod.message) or not pod.message else (f"{where}: {pod.message}",)
    for words, limit in _LIMITS.items():
        if words in pod.message and key.name in STAGES:
            advice = f"raise stages.{key.name}.{limit} in a profile of your own and submit again, same output_uri"
            return Reason(where, RunFailedError, advice, message)
    try:
        log = read_log(client, run, pod)
    except NoLogError as error:
        unread = f"its log cannot be read: {error}"
        return Reason(where, RunFailedError, again, (*message, unread))
    kind = KINDS.get(exit_code(log), RunFailedError)
    log_command = f"; `sppo logs {run.run_id} {key.flags} --host {client.host}` shows its whole log"
    advice = {
        ConfigError: "correct the input and submit again",
        InfrastructureError: f"when that is mended, {again}",
    }.get(kind, again + (log_command if key.name in PLAYED else ""))
    lines = (client.credentials.hide(line) for line in last_lines(log))
    return Reason(where, kind, advice, (*message, *lines))


def exit_code(log: str) -> int:
    """The exit code of the stage whose log this is, or 0 if the log does not tell it."""
    told = _EXIT.findall(log)
    return int(told[-1]) if told else 0


def last_lines(log: str) -> list[str]:
    """What a stage said last: its `error:` line, or else the end of its traceback, without what is around the stage."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if not _LAUNCHER.match(line) and not _ARGO.match(line)]
    errors = [line.strip() for line in own if _OURS.match(line)]
    return errors[-1:] or own[-SHOWN:] or lines[-SHOWN:]
