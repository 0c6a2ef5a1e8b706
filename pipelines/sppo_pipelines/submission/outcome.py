"""What became of a run: the exit code, a Markdown summary, and a JUnit report for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from sppo.errors import GateFailedError, InfrastructureError
from sppo.process.told import told
from sppo_pipelines.screen import duration
from sppo_pipelines.submission import progress
from sppo_pipelines.submission.client import Client
from sppo_pipelines.submission.podlog import NoLogError, read_log
from sppo_pipelines.submission.reason import Reason, reason
from sppo_pipelines.submission.run import Run


class Outcome(NamedTuple):
    """How a run ended, why it failed if it did, and where to look at it."""

    name: str
    state: str
    passed: bool | None
    stages: list[progress.Stage]
    url: str
    reason: Reason | None
    verdict: list[str]
    """What publish said of the run, line by line, or why that cannot be read."""

    @property
    def line(self) -> str:
        """How it ended, in a few words."""
        if self.state == "CANCELED":
            return "somebody ended the run"
        if self.state != "SUCCEEDED":
            failed = ", ".join(stage.title for stage in self.stages if stage.state == "FAILED")
            failed = failed or (self.reason.where if self.reason else "")
            return f"the run {self.state.lower()}{f' in {failed}' if failed else ''}"
        told = {True: "the gate is passed", False: "the gate is not passed", None: "its gate is not known"}
        return f"the run succeeded; {told[self.passed]}"

    @property
    def said(self) -> str:
        """What the failed stage said, line by line."""
        return "".join(f"\n  {line}" for line in self.reason.lines) if self.reason else ""


def outcome(client: Client, run: Run) -> Outcome:
    """The outcome of a run that has ended; the log of what failed is read."""
    succeeded, stages = run.state == "SUCCEEDED", progress.stages(run.workflow)
    return Outcome(
        run.name,
        # A run that somebody terminated is FAILED to Kubeflow.
        "CANCELED" if run.workflow.terminated and not succeeded else run.state,
        progress.gate(run.workflow) if succeeded else None,
        stages,
        client.run_url(run.run_id),
        None if succeeded else reason(client, run),
        _verdict(client, run, stages) if succeeded else [],
    )


def _verdict(client: Client, run: Run, stages: list[progress.Stage]) -> list[str]:
    """The verdict from the log of the last attempt at publish."""
    pods = [pod for stage in stages if stage.name == "publish" for task in stage.tasks for pod in task.pods]
    if not pods:
        return []
    try:
        return [client.credentials.hide(line) for line in told(read_log(client, run, pods[-1]))]
    except NoLogError as error:
        return [f"its verdict cannot be read: {error}"]


def raise_unless_passed(result: Outcome) -> None:
    """End the command with the exit code that the outcome has.

    Raises:
        ConfigError, InfrastructureError: if a stage failed with the exit code of these.
        RunFailedError: if a stage failed otherwise, or somebody ended the run.
        GateFailedError: if the best model does not meet the gate.
        InfrastructureError: if the server does not tell the gate.
    """
    if result.reason is not None:
        raise result.reason.kind(f"{result.line}: {result.url}; {result.reason.advice}", *result.reason.lines)
    if result.passed is None:
        raise InfrastructureError(f"{result.line}: no branch of its workflow tells it; look at {result.url}")
    if not result.passed:
        raise GateFailedError(f"{result.line}: {result.url}")


def markdown(result: Outcome) -> str:
    """A summary with a row for each stage."""
    from sppo.reporting.report.escape import escape_markdown

    rows = [
        f"| {stage.title} | {stage.state.lower()} | {len(stage.tasks)} | {duration(stage.seconds)} |"
        for stage in result.stages
    ]
    head = f"## SPPO: {result.line}\n\n[{result.name}]({result.url})\n"
    head += "".join(f"\n- {escape_markdown(line)}" for line in result.verdict) + "\n" * bool(result.verdict)
    if result.said:
        head += f"\n```text{result.said}\n```\n"
    return "\n".join([head, "| stage | state | tasks | time |", "|---|---|--:|--:|", *rows, ""])


def junit(result: Outcome) -> bytes:
    """A test suite with a case for each stage, and one for the run with its gate."""
    suite = ElementTree.Element("testsuite", name=result.name)
    for stage in result.stages:
        case = _case(suite, stage.title, stage.seconds)
        if stage.state in {"FAILED", "CANCELED"}:
            ElementTree.SubElement(case, "failure", message=f"{stage.state.lower()}: {result.url}").text = result.said
    case = _case(suite, "gate" if result.state == "SUCCEEDED" else "run", 0)
    if not result.passed:
        kind = "failure" if result.passed is False or result.state != "SUCCEEDED" else "error"
        ElementTree.SubElement(case, kind, message=f"{result.line}: {result.url}").text = result.said
    for attribute, tag in (("failures", "failure"), ("errors", "error")):
        suite.set(attribute, str(len(suite.findall(f"*/{tag}"))))
    suite.set("tests", str(len(suite)))
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def _case(suite: ElementTree.Element, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname="sppo", name=name, time=f"{seconds:.0f}")


def write_junit(result: Outcome, path: Path) -> None:
    """Write the JUnit report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(junit(result))


def append_summary(result: Outcome, path: Path) -> None:
    """Append the summary to GitHub's."""
    with path.open("a", encoding="utf-8") as file:
        file.write(markdown(result))
