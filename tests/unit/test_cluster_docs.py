"""docs/cluster.md: its commands are real, its Secrets are those that are used, its costs follow from its formulas."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from sppo_components.images import image
from sppo_pipelines.placement import CREDENTIALS
from sppo_pipelines.profile import SHIPPED, load_profile

from .real_commands import MADE, ROOT, NotRealError, check, commands

PAGE = (ROOT / "docs" / "cluster.md").read_text()
FENCED = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
SCRIPT = "".join(re.findall(r"^    (.*\n)", FENCED.sub("", PAGE), re.MULTILINE))
COMMANDS = list(commands(SCRIPT))
TOOLS = {".venv/bin/pip", ".venv/bin/sppo", "cosign", "curl", "kubectl", "make", "python3.11", "rm"}
(GITLAB,) = map(yaml.safe_load, FENCED.findall(PAGE))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:3]))
def test_a_command_of_the_page_is_of_a_known_tool(words: list[str]) -> None:
    assert words[0] in TOOLS
    if words[0] == "kubectl" and "--kustomize" in words:
        assert (ROOT / words[words.index("--kustomize") + 1] / "kustomization.yaml").is_file()


def test_the_page_goes_the_whole_way() -> None:
    programs = [" ".join(words[:2]) for words in COMMANDS]
    for program in ("kubectl apply", "kubectl create", "make images", ".venv/bin/sppo submit", ".venv/bin/sppo resume"):
        assert program in programs


@pytest.mark.parametrize(
    "wrong",
    [
        "kubectl apply --kustomize manifests/overlays/none",
        "make no-such-target",
        "make images NO_SUCH_VARIABLE=1",
        ".venv/bin/sppo submit --host h --images build/other.yaml output_uri=s3://b/r",
        ".venv/bin/sppo submit --host h output_uri=runs/here",
        ".venv/bin/sppo submit --host h output_uri=s3://b/r training_node_selector=h200",
        ".venv/bin/sppo submit output_uri=s3://b/r",
        ".venv/bin/sppo resume",
        ".venv/bin/pip install '.[pipelines]'",
    ],
)
def test_a_wrong_command_would_be_found(wrong: str) -> None:
    (words,) = commands(wrong)
    with pytest.raises(NotRealError):
        check(words, MADE)


def test_objects_that_commands_name_are_in_the_manifests() -> None:
    held = {f"{item['kind'].lower()}/{item['metadata']['name']}" for item in manifests()}
    named = {word for words in COMMANDS for word in words if re.fullmatch(r"(deployment|job|service)/[\w-]+", word)}
    assert named - {"service/ml-pipeline-ui"} <= held
    made = {words[words.index("generic") + 1] for words in COMMANDS if "generic" in words}
    references = re.findall(r"secretKeyRef: \{name: ([\w-]+), key: ([\w-]+)\}", "\n".join(texts()))
    assert references
    assert {name for name, _ in references} <= made
    assert not [key for _, key in references if f"`{key}`" not in PAGE]
    assert not [key for key in CREDENTIALS if f"`{key}`" not in PAGE]
    assert load_profile("one-gpu").credentials in made
    assert "serviceaccount/sppo-runner" in held


def texts() -> list[str]:
    return [path.read_text() for path in sorted((ROOT / "manifests" / "base").rglob("*.yaml"))]


def manifests() -> list[dict[str, Any]]:
    return [item for text in texts() for item in yaml.safe_load_all(text) if item and "metadata" in item]


def test_every_profile_of_a_cluster_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)) >= {p.stem for p in SHIPPED.glob("*.yaml")}


def test_the_smoke_run_asks_for_no_more_than_one_small_machine_has() -> None:
    """tests/unit/manifests holds the profile against the machine."""
    (smoke,) = [words for words in COMMANDS if "recipes/cpu/smoke.yaml" in words]
    assert smoke[smoke.index("--profile") + 1] == "local"


def test_the_cpu_profile_runs_in_the_image_without_gpu() -> None:
    assert set(load_profile("cpu").images.values()) == {image("cpu")}


def test_gitlab_job() -> None:
    job = GITLAB["align"]
    variables = {"HOST": "https://kubeflow.example.org", "OUTPUT": "s3://bucket/ci", "CI_COMMIT_SHA": "0" * 40}
    for line in job["script"]:
        for words in commands(line, variables):
            assert words[0] in {"pip", "sppo"}
            check(words)
            if "--junit" in words:
                assert words[words.index("--junit") + 1] == job["artifacts"]["reports"]["junit"]
    assert all((ROOT / path).is_file() for rule in job["rules"] for path in rule["changes"])


# Costs


def cells(heading: str) -> dict[str, list[str]]:
    """A table's rows by their first cell."""
    table = PAGE[PAGE.index(heading) :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def assumptions() -> dict[str, float]:
    given = {name: row[0].replace(",", "") for name, row in cells("| assumption |").items()}
    return {name: float(v.rstrip(" %")) / (100 if v.endswith("%") else 1) for name, v in given.items()}


def hours(a: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """GPU hours of each stage in an iteration: at the hardware's bound, and at the assumed share of it."""
    tokens = a["p"] + a["r"]

    def sampled(prompts: float, responses: float) -> float:
        context = a["p"] + a["r"] / 2
        prefill = prompts * a["p"] * (2 * a["N"] + 2 * a["L"] * a["h"] * a["p"]) / a["F"]
        by_memory = (2 * a["N"] + a["B"] * a["kv"] * context) / a["W"]
        by_arithmetic = a["B"] * (2 * a["N"] + 4 * a["L"] * a["h"] * context) / a["F"]
        return prefill + prompts * responses * a["r"] / a["B"] * max(by_memory, by_arithmetic)

    def judged(comparisons: float) -> float:
        length = a["p"] + 2 * min(a["r"], 412)
        return comparisons * (606e6 * length + 196_608 * length**2) / a["F"]

    attention = 2 * 6 * a["L"] * a["h"] * tokens**2
    trained = a["prompts"] * ((a["p"] + 2 * a["r"]) * 8 * a["N"] + attention) / a["F"]
    generate, rank = sampled(a["prompts"], a["K"]), judged(a["prompts"] * a["K"] * (a["K"] - 1))
    answers, comparisons = sampled(a["held"], 1), judged(4 * a["held"])
    seconds = {
        "generate": (generate, generate / a["generate share"]),
        "rank": (rank, rank / a["rank share"]),
        "train": (trained, trained / a["train share"]),
        "evaluate": (answers + comparisons, answers / a["generate share"] + comparisons / a["rank share"]),
        "start": (0.0, 4 * a["start"] * 60),
    }
    found = {stage: (bound / 3600, estimate / 3600) for stage, (bound, estimate) in seconds.items()}
    return {**found, "all": (sum(bound for bound, _ in found.values()), sum(each for _, each in found.values()))}


def cost_rows(a: Mapping[str, float]) -> dict[str, list[str]]:
    return {
        stage: [f"{bound:.2f}", f"{estimate:.2f}", f"{estimate * a['iterations']:.2f}"]
        for stage, (bound, estimate) in hours(a).items()
    }


def test_costs_follow_from_the_assumptions() -> None:
    assert cells("| stage | at the bound") == cost_rows(assumptions())


def test_costs_follow_each_assumption() -> None:
    """Each assumption of the page is one that the table depends on."""
    for name, value in assumptions().items():
        changed = {**assumptions(), name: value * 1.5 if name != "r" else value / 2}
        assert hours(changed) != hours(assumptions()) or cost_rows(changed) != cost_rows(assumptions()), name
