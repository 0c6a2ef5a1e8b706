"""The steps of align.yml, run by the shell: recipes are found, a run's outcome is the job's, and the table is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import TOKEN
from .test_submission_follow import FAILED, FAILED_GATE, PASSED

ROOT = Path(__file__).parents[3]
JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "align.yml").read_text())["jobs"]
SMOKE = "recipes/cpu/smoke.yaml"


def script(job: str, name: str) -> str:
    (step,) = [step for step in JOBS[job]["steps"] if step.get("name") == name]
    return step["run"]


@pytest.fixture
def shell(tmp_path):
    """Runs a step's script as GitHub does, in an empty folder with the recipes."""
    tools, workplace = tmp_path / "tools", tmp_path / "workplace"
    tools.mkdir()
    (workplace / SMOKE).parent.mkdir(parents=True)
    (workplace / SMOKE).write_text((ROOT / SMOKE).read_text())
    sppo = f"#!/bin/sh\nexec {sys.executable} -c 'from sppo_pipelines.cli import main; main()' \"$@\"\n"
    (tools / "sppo").write_text(sppo)
    (tools / "gh").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >gh.txt\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    given = {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        (tmp_path / name).touch()
        given[name] = str(tmp_path / name)

    def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
        return subprocess.run(
            command, cwd=workplace, env={**os.environ, **given, **environment}, capture_output=True, text=True
        )

    run.folder = workplace
    return run


def play(shell: Any, kubeflow: Any, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "SPPO_KFP_TOKEN": TOKEN,
        "HOST": kubeflow.address,
        "NAMESPACE": "",
        "EXPERIMENT": "",
        "PROFILE": "cpu",
        "RECIPE": SMOKE,
        "RESUME": "",
        "OUTPUT": "s3://bucket/ci",
        "COMMIT": "c0ffee",
    }
    assert set(environment) == set(next(s["env"] for s in JOBS["align"]["steps"] if s.get("name") == "Play the recipe"))
    return shell(script("align", "Play the recipe"), **{**environment, **changes})


@pytest.mark.parametrize(("end", "code"), [(PASSED, 0), (FAILED, 4), (FAILED_GATE, 5)])
def test_the_outcome_of_the_run_is_the_steps(shell, kubeflow, end, code):
    kubeflow.accepted = {"Authorization": f"Bearer {TOKEN}"}
    kubeflow.script = [end]
    ended = play(shell, kubeflow)
    assert ended.returncode == code, ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
    (run,) = kubeflow.runs
    assert run["runtime_config"]["parameters"]["output_uri"] == "s3://bucket/ci/smoke-c0ffee"
    assert run["service_account"] == "sppo-runner"
    assert kubeflow.experiments[0]["display_name"] == "smoke"
    assert "| stage | state |" in (shell.folder / "results" / "summary.md").read_text()
    assert (shell.folder / "results" / "junit.xml").is_file()


def test_a_failed_run_is_gone_on_with(shell, kubeflow):
    kubeflow.script, kubeflow.after_retry = [FAILED], [PASSED]
    kubeflow.runs = [{"run_id": "run-7", "display_name": "my run", **FAILED}]
    ended = play(shell, kubeflow, RESUME="run-7")
    assert ended.returncode == 0, ended.stderr
    assert len(kubeflow.runs) == 1
    assert "the gate is passed" in (shell.folder / "results" / "summary.md").read_text()


def test_a_recipe_is_data(shell, kubeflow):
    ended = play(shell, kubeflow, RECIPE='recipes/cpu/$(touch stolen)"; touch stolen; ".yaml')
    assert ended.returncode == 2
    assert "no such file" in ended.stderr
    assert not (shell.folder / "stolen").exists()


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (
            {"recipes/one-gpu/mine.yaml": "preset: paper\n", "README.md": "text"},
            ["one-gpu", "recipes/one-gpu/mine.yaml"],
        ),
        ({SMOKE: "preset: cpu\n"}, ["cpu", SMOKE]),
        ({SMOKE: None, "recipes/notes.yaml": "a: 1\n"}, []),
    ],
)
def test_changed_recipes_are_found(shell, tmp_path, changed, found):
    git(shell.folder, "init", "--quiet")
    git(shell.folder, "add", ".")
    git(shell.folder, "commit", "--message", "base")
    for path, text in changed.items():
        (shell.folder / path).parent.mkdir(exist_ok=True)
        if text is None:
            (shell.folder / path).unlink()
        else:
            (shell.folder / path).write_text(text)
    git(shell.folder, "add", ".")
    git(shell.folder, "commit", "--message", "change")
    ended = shell(script("plan", "Find the recipes"), RECIPE="")
    assert ended.returncode == 0, ended.stderr
    name, _, recipes = (tmp_path / "GITHUB_OUTPUT").read_text().partition("=")
    assert name == "recipes"
    assert [[each["profile"], each["recipe"]] for each in json.loads(recipes)] == ([found] if found else [])


@pytest.mark.parametrize(("text", "code"), [("preset: cpu\n", 0), ("preset: cpu\nseeed: 1\n", 2)])
def test_recipes_are_checked_without_a_server(shell, text, code):
    (shell.folder / SMOKE).write_text(text)
    assert shell(script("plan", "Find the recipes"), RECIPE=SMOKE).returncode == 0
    ended = shell(script("plan", "Check them without sending anything"))
    assert ended.returncode == code, ended.stderr


def test_the_comment_holds_every_table(shell):
    for index in (0, 1):
        folder = shell.folder / "results" / f"align-{index}"
        folder.mkdir(parents=True)
        (folder / "summary.md").write_text(f"table {index}\n")
    name = "Comment the tables, in one comment that a later run edits"
    ended = shell(script("comment", name), NUMBER="7", REPOSITORY="owner/name", JOB="https://example.org/job")
    assert ended.returncode == 0, ended.stderr
    comment = (shell.folder / "comment.md").read_text()
    assert sorted(comment.splitlines()[:2]) == ["table 0", "table 1"]
    assert "https://example.org/job" in comment
    assert "--body-file\ncomment.md\n" in (shell.folder / "gh.txt").read_text()
