"""The commands of docs/submission.md do what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from .argo import pod_name
from .test_submission_follow import FAILED, PASSED, PLAYED, RUNNING

PAGE = (Path(__file__).parents[3] / "docs" / "submission.md").read_text()
COMMANDS = re.findall(r"^    sppo (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_works(command, sppo, kubeflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kubeflow.script, kubeflow.after_retry = [RUNNING, PASSED], [RUNNING, PASSED]
    if command.startswith(("resume", "logs")):
        kubeflow.script = [FAILED if command.startswith("resume") else PASSED]
        kubeflow.runs = [{"run_id": command.split()[1], "display_name": "my run", **FAILED}]
        kubeflow.archived_logs = {pod_name(task): f"the log of {task.path[-1]}\n" for task in PLAYED}
    result = sppo(*shlex.split(command.replace("https://kubeflow.example.org/pipeline", kubeflow.address)))
    assert result.code == 0, result.err
    assert ("the log of " in result.out) == command.startswith("logs")
    assert len(kubeflow.runs) == ("--dry-run" not in command and not command.startswith("keep-going"))
    assert Path("report.xml").is_file() == ("--junit" in command)


def test_the_page_has_commands():
    assert len(COMMANDS) == 10
