"""Why a run failed: the failed stage's own last words, the exit code that they lead to, and what to do."""

from __future__ import annotations

import re
from typing import NamedTuple

from sppo.errors import KINDS, ConfigError, InfrastructureError, RunFailedError, SppoError
from sppo_pipelines.last_lines import last_lines
from sppo_pipelines.profile import STAGES
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.podlog import NoLogError, read_log
from sppo_pipelines.submission.progress import PLAYED, failed_pods, key_of, named
from sppo_pipelines.submission.run import Run
from sppo_pipelines.submission.workflow import Node

_EXIT = re.compile(r"[EF]\d{4} .*\bexit status (\d+)$", re.MULTILINE)
"""The launcher's last words; its own exit code is 1 (backend/src/v2/component/launcher_v2.go, Execute)."""
_PLAIN_EXIT = re.compile(r"(main: )?Error \(exit code \d+\)(: Error)?")
"""What Argo says of every stage that ends with an exit code."""
_LIMITS = {"OOMKilled": "memory", "longer than the specified deadline": "hours"}
"""Which of a stage's limits was met, by Argo's words."""
_LOST = (
    # Argo, when the pod is gone: somebody or a drain deleted it, or it was preempted (workflow/controller/operator.go,
    # podReconciliation); and when its node is gone, where pods have a finalizer (inferFailedReason).
    "pod deleted",
    "pod failed: neither main nor wait container completed successfully",
    # The kubelet, which Argo quotes: the node runs out of memory or disk, shuts down, takes in a critical pod, or does
    # not take this one in (pkg/kubelet/eviction/helpers.go, nodeshutdown, preemption/preemption.go, kubelet.go). A pod
    # that uses more than its own volumes or storage may hold is evicted with other words.
    "The node was low on resource: ",
    "The node had condition: ",
    "Pod was terminated in response to imminent node shutdown",
    "Preempted in order to admit critical pod",
    "Pod was rejected",
)
"""How the message of a pod begins that was lost through no fault of its stage."""


class Reason(NamedTuple):
    """Why a run failed: in which task, if it was in one, what to do, and what is said of it."""

    where: str
    kind: type[SppoError]
    advice: str
    lines: tuple[str, ...]

    @property
    def may_pass(self) -> bool:
        """Whether the same run may succeed when it goes on: no input, stage or person ended it."""
        return self.kind is InfrastructureError


def reason(client: Client, run: Run) -> Reason:
    """Why a run that did not succeed did not.

    Of several tasks that failed the first counts whose failure does not pass by itself, or else the first.
    """
    first: Reason | None = None
    for pod in () if run.workflow.terminated else failed_pods(run.workflow):
        found = _of_pod(client, run, pod)
        if not found.may_pass:
            return found
        first = first or found
    if first is not None:
        return first
    said = () if run.workflow.terminated or not run.workflow.message else (run.workflow.message,)
    return Reason("", RunFailedError, _again(client, run), said)


def _of_pod(client: Client, run: Run, pod: Node) -> Reason:
    """Why a pod failed: by Argo's words, or else by what the stage said in its log."""
    key, where = key_of(pod.path), named(pod)
    message = () if _PLAIN_EXIT.fullmatch(pod.message) or not pod.message else (f"{where}: {pod.message}",)
    for words, limit in _LIMITS.items():
        if words in pod.message and key.name in STAGES:
            advice = f"raise stages.{key.name}.{limit} in a profile of your own and submit again, same output_uri"
            return Reason(where, RunFailedError, advice, message)
    if pod.message.startswith(_LOST):
        return Reason(where, InfrastructureError, _again(client, run), message)
    try:
        log = read_log(client, run, pod)
    except NoLogError as error:
        unread = f"its log cannot be read: {error}"
        return Reason(where, RunFailedError, _again(client, run), (*message, unread))
    kind = KINDS.get(exit_code(log), RunFailedError)
    log_command = f"; `sppo logs {run.run_id} {key.flags} --host {client.host}` shows its whole log"
    advice = {
        ConfigError: "correct the input and submit again",
        InfrastructureError: f"when that is mended, {_again(client, run)}",
    }.get(kind, _again(client, run) + (log_command if key.name in PLAYED else ""))
    lines = (client.credentials.hide(line) for line in last_lines(log))
    return Reason(where, kind, advice, (*message, *lines))


def _again(client: Client, run: Run) -> str:
    return run.too_large or f"`sppo resume {run.run_id} --host {client.host}` goes on from there"


def exit_code(log: str) -> int:
    """The exit code of the stage whose log this is, or 0 if the log does not tell it."""
    told = _EXIT.findall(log)
    return int(told[-1]) if told else 0
