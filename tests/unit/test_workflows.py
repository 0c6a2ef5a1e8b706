"""The workflows: that what they run exists, and that they keep to rules which keep secrets and the cluster safe."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sppo_components.images import VERSION, image
from sppo_pipelines.profile import SHIPPED, load_profile
from sppo_pipelines.submission import package

from sppo.cli import collect_values
from sppo.config.limits import Limits
from tests.cluster.settings import read_settings

from .real_commands import ROOT, check, commands

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
EVERY_RUN = {"GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_SHA", "GITHUB_REF_NAME"}
"""Variables that GitHub sets."""
TOOLS = {"basename", "cat", "cp", "docker", "echo", "find", "gh", "git", "jq", "make", "mkdir", "pip", "read"}
TOOLS |= {"[", "apt-get", "grep", "rm", "sort", "sppo"}
TOOLS |= {"curl", "kind", "kubectl", "openssl", "printf", "set", "sleep", "source", "tee"}
"""What a runner has before a step installs anything, and what the steps install."""
SAMPLES = {
    "ACTOR": "octocat",
    "COMMIT": "0" * 40,
    "EXPERIMENT": "",
    "HOST": "https://kubeflow.example.org/pipeline",
    "IMAGE": "train",
    "JOB": "https://github.com/owner/name/actions/runs/1",
    "NAMESPACE": "team",
    "NUMBER": "7",
    "OWNER": "Owner",
    "OUTPUT": "s3://bucket/ci",
    "PROFILE": "cpu",
    "RECIPE": "recipes/cpu/smoke.yaml",
    "REPOSITORY": "owner/name",
    "RESUME": "5f0c2a6e-3f0e-4c53-9b5e-0d8a53c1a111",
}
"""What the expressions of a workflow's `env` may come to."""
SAME_REPOSITORY = "github.event.pull_request.head.repo.full_name == github.repository"

Workflow = dict[str, Any]


def load(path: Path) -> Workflow:
    workflow = yaml.safe_load(path.read_text())
    workflow["on"] = workflow.pop(True)  # YAML 1.1 reads the key `on` so
    workflow["text"] = path.read_text()
    return workflow


def jobs(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from workflow["jobs"].items()


def steps(workflow: Workflow) -> Iterator[dict[str, Any]]:
    for _, job in jobs(workflow):
        yield from job["steps"]


def runs(workflow: Workflow) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each step with a script, after its job."""
    for _, job in jobs(workflow):
        yield from ((job, step) for step in job["steps"] if "run" in step)


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Every string in a workflow, with the keys that lead there."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from texts(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from texts(each, (*path, index))
    elif isinstance(value, str):
        yield path, value


def is_secret(text: str) -> bool:
    return bool(re.search(r"\bsecrets\b|\bgithub\.token\b", text))


def actions_are_pinned(workflow: Workflow) -> None:
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}", step["uses"]), f"not a commit: {step['uses']}"
            assert re.search(rf"{re.escape(step['uses'])} # v\d+\.\d+\.\d+\n", workflow["text"]), "no version beside it"


def permissions_are_few(workflow: Workflow) -> None:
    everywhere = workflow.get("permissions")
    assert isinstance(everywhere, dict) and set(everywhere.values()) <= {"read"}
    for name, job in jobs(workflow):
        rights = job.get("permissions", everywhere)
        assert isinstance(rights, dict)
        written = {right for right, level in rights.items() if level != "read"}
        assert written <= {"packages", "id-token", "pull-requests"}, f"{name} may write {written}"


def jobs_end(workflow: Workflow) -> None:
    for name, job in jobs(workflow):
        assert 0 < job.get("timeout-minutes", 0) <= 360, f"{name} has no time limit that GitHub keeps"


def runs_do_not_pile_up(workflow: Workflow) -> None:
    assert "github.ref" in workflow.get("concurrency", {}).get("group", "")


def scripts_hold_no_expression(workflow: Workflow) -> None:
    """An expression is pasted into the script before a shell reads it; a variable is not."""
    for _, step in runs(workflow):
        assert "${{" not in step["run"], f"set an env variable instead: {step['run']}"


def secrets_are_environment_of_a_step(workflow: Workflow) -> None:
    for path, text in texts(workflow["jobs"]):
        if is_secret(text):
            assert path[1] == "steps" and path[3] == "env" and len(path) == 5, f"a secret at {path}"


def secrets_are_no_arguments(workflow: Workflow) -> None:
    """The arguments of a process are there for every other one to read."""
    for _, step in runs(workflow):
        for name in (name for name, value in step.get("env", {}).items() if is_secret(str(value))):
            rest = re.sub(rf'<<<"\${name}"', "", step["run"])
            assert f"${name}" not in rest and f"${{{name}}}" not in rest, f"{name} in a command line"


def forks_get_no_secret(workflow: Workflow) -> None:
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow["on"])
    for name, job in jobs(workflow):
        if "pull_request" in workflow["on"] and "secrets." in yaml.safe_dump(job):
            assert SAME_REPOSITORY in job.get("if", ""), f"{name} would run for a fork"


def checkouts_keep_no_token(workflow: Workflow) -> None:
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def scripts_are_shell(workflow: Workflow) -> None:
    for _, step in runs(workflow):
        ended = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr


def commands_exist(workflow: Workflow) -> None:
    for job, step in runs(workflow):
        installed = {"cosign"} if "sigstore/cosign-installer@" in yaml.safe_dump(job) else set()
        made = re.findall(r">(\S+)", step["run"])
        for words in commands(step["run"], variables(workflow, job, step), SAMPLES):
            assert words[0] in TOOLS | installed, f"nothing installs {words[0]}"
            check(words, made)


def variables(*places: dict[str, Any]) -> dict[str, str]:
    """The environment of a step, with samples where it is computed."""
    given = dict.fromkeys(EVERY_RUN, "some-value")
    for place in places:
        for name, value in place.get("env", {}).items():
            if is_secret(str(value)):
                given[name] = "some-secret"
            else:
                given[name] = SAMPLES[name] if "${{" in str(value) else str(value)
    return given


Rule = Callable[[Workflow], None]
RULES: tuple[Rule, ...] = (
    actions_are_pinned,
    permissions_are_few,
    jobs_end,
    runs_do_not_pile_up,
    scripts_hold_no_expression,
    secrets_are_environment_of_a_step,
    secrets_are_no_arguments,
    forks_get_no_secret,
    checkouts_keep_no_token,
    scripts_are_shell,
    commands_exist,
)


def test_there_are_workflows() -> None:
    assert {path.stem for path in FILES} == {"ci", "images", "align", "cluster"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workflow_keeps_the_rules(path: Path, rule: Rule) -> None:
    assert rule(load(path)) is None, "a rule raises where it is broken"


def in_script(old: str, new: str) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        found = [step for _, step in runs(workflow) if old in step["run"]]
        assert found, f"no script holds {old}"
        for step in found:
            step["run"] = step["run"].replace(old, new)

    return change


def in_job(name: str, **values: Any) -> Callable[[Workflow], None]:
    return lambda workflow: workflow["jobs"][name].update(values)


def uses(old: str, new: str) -> Callable[[Workflow], None]:
    def change(workflow: Workflow) -> None:
        for step in steps(workflow):
            if step.get("uses", "").startswith(old):
                step["uses"] = new

    return change


WRONG: list[tuple[Rule, Callable[[Workflow], Any]]] = [
    (actions_are_pinned, uses("actions/checkout@", "actions/checkout@v6")),
    (actions_are_pinned, uses("actions/checkout@", f"actions/checkout@{'0' * 40}")),
    (permissions_are_few, lambda w: w.pop("permissions")),
    (permissions_are_few, lambda w: w.update(permissions="write-all")),
    (permissions_are_few, lambda w: w.update(permissions={"contents": "write"})),
    (permissions_are_few, in_job("align", permissions={"contents": "write"})),
    (jobs_end, lambda w: w["jobs"]["plan"].pop("timeout-minutes")),
    (runs_do_not_pile_up, lambda w: w.pop("concurrency")),
    (scripts_hold_no_expression, in_script('"$NUMBER"', "${{ github.event.pull_request.title }}")),
    (secrets_are_environment_of_a_step, in_job("align", env={"TOKEN": "${{ secrets.SPPO_KFP_TOKEN }}"})),
    (secrets_are_environment_of_a_step, in_script('"$RESUME"', "${{ secrets.SPPO_KFP_TOKEN }}")),
    (secrets_are_no_arguments, in_script('--host "$HOST" --wait', '--host "https://$SPPO_KFP_TOKEN@host" --wait')),
    (secrets_are_no_arguments, in_script("gh pr comment", "GH=${GH_TOKEN} gh pr comment")),
    (forks_get_no_secret, lambda w: w["on"].update(pull_request_target=None)),
    (forks_get_no_secret, lambda w: w["jobs"]["align"].pop("if")),
    (checkouts_keep_no_token, lambda w: next(steps(w))["with"].update({"persist-credentials": True})),
    (scripts_are_shell, in_script("fi\njq", "jq")),
    (commands_exist, in_script("sppo submit --host https", "sppo commit --host https")),
    (commands_exist, in_script("--dry-run", "--dryrun")),
    (commands_exist, in_script("--wait --junit results/junit.xml \\\n", "--junit results/junit.xml \\\n")),
    (commands_exist, in_script("--constraint requirements.txt", "--constraint requirements.lock")),
    (commands_exist, in_script("'.[pipeline]'", "'.[pipelines]'")),
    (commands_exist, in_script("output_uri=s3://bucket/run", "output_url=s3://bucket/run")),
    (commands_exist, in_script("output_uri=s3://bucket/run", "training_gpus=8 train.etta=1")),
    (commands_exist, in_script('"$PROFILE"', "two-gpus")),
    (commands_exist, in_script('"$PROFILE"', '"$PROFIL"')),
    (commands_exist, in_script("gh pr comment", "hub pr comment")),
    (commands_exist, in_script("gh pr comment", "make no-such-target")),
    (commands_exist, in_script("gh pr comment", "gh pr comment scripts/none.py")),
]


@pytest.mark.parametrize(("rule", "change"), WRONG, ids=[f"{r.__name__}-{i}" for i, (r, _) in enumerate(WRONG)])
def test_a_rule_finds_what_breaks_it(rule: Rule, change: Callable[[Workflow], Any]) -> None:
    workflow = load(ROOT / ".github" / "workflows" / "align.yml")
    change(workflow)
    with pytest.raises(AssertionError):
        rule(workflow)


def test_a_recipe_has_a_trigger_and_resolves() -> None:
    align = load(ROOT / ".github" / "workflows" / "align.yml")
    assert align["on"]["pull_request"]["paths"] == ["recipes/*/*.yaml"]
    assert ROOT / align["on"]["workflow_dispatch"]["inputs"]["recipe"]["default"] in RECIPES
    for path in RECIPES:
        load_profile(path.parent.name)
        package.parameters({**collect_values(None, path, ()), "output_uri": "s3://bucket/run"}, Limits(3))


def test_the_nightly_cluster_plays_what_this_commit_builds_on_what_the_page_asks_for() -> None:
    nightly = load(ROOT / ".github" / "workflows" / "cluster.yml")
    assert nightly["on"].keys() == {"schedule", "workflow_dispatch"}
    scripts = {step.get("name", ""): step["run"] for step in steps(nightly) if "run" in step}
    (given,) = [step["env"] for step in steps(nightly) if step.get("name") == "Test the cluster"]
    profile = load_profile(Path(given["SPPO_PROFILE"]).stem)
    assert Path(given["SPPO_PROFILE"]).resolve().parent == SHIPPED and set(profile.images.values()) == {image("cpu")}
    build = scripts["Build the image, and load it"]
    assert "make images IMAGES=cpu\n" in build and f"kind load docker-image {image('cpu')} " in build
    (version,) = [step["env"]["VERSION"] for step in steps(nightly) if "VERSION" in step.get("env", {})]
    assert f"Kubeflow Pipelines {version.rpartition('.')[0]} " in (ROOT / "docs" / "cluster.md").read_text()
    assert "make test-cluster " in scripts["Test the cluster"]
    read_settings(given)


def run_step(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step of images.yml, run by the shell, with a `cosign` that only writes down what it is asked."""
    (step,) = [step for step in steps(load(ROOT / ".github" / "workflows" / "images.yml")) if step.get("name") == name]
    tool = folder / "tools" / "cosign"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" >>cosign.txt\n')
    tool.chmod(0o755)
    given = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", **environment}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)


@pytest.mark.parametrize(("tag", "code"), [(f"v{VERSION}", 0), (VERSION, 0), (f"v{VERSION}1", 1), ("main", 1)])
def test_only_the_version_is_released(tag: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "components").symlink_to(ROOT / "components")
    assert run_step("Refuse a tag that is not the version", tmp_path, GITHUB_REF_NAME=tag).returncode == code


def test_each_digest_is_signed_once(tmp_path: Path) -> None:
    digest = f"ghcr.io/owner/sppo-prepare@sha256:{'a' * 64}"
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "images.yaml").write_text(f"prepare: {digest}\nkeep: {digest}\n")
    ended = run_step("Sign its digest, and attest what is inside", tmp_path, IMAGE="prepare")
    assert ended.returncode == 0, ended.stderr
    attested = f"attest --yes --type cyclonedx --predicate build/sbom/prepare.json {digest}"
    assert (tmp_path / "cosign.txt").read_text().splitlines() == [f"sign --yes {digest}", attested]


def test_nothing_pushed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    assert run_step("Sign its digest, and attest what is inside", tmp_path, IMAGE="prepare").returncode != 0


def test_what_the_workflows_install_is_what_the_command_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["pipeline"]]
    installed = {re.match(r"[\w-]+", requirement)[0] for requirement in required}
    trees = [ast.parse(path.read_text()) for path in (ROOT / "pipelines").rglob("*.py")]
    names = [name for tree in trees for node in ast.walk(tree) for name in imported(node)]
    modules = (
        {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"sppo_components", "sppo_pipelines", "sppo"}
    )
    packages = {"yaml": "pyyaml", "google": "protobuf"}
    assert packages.keys() <= modules
    assert {packages.get(module, module) for module in modules} <= installed


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
