import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sppo_components.images import GUESTS, image
from sppo_pipelines.compiling import compile_pipeline, tell_unpublished
from sppo_pipelines.names import GATE_FAILED, GATE_PASSED
from sppo_pipelines.profile import SHIPPED, load_profile, with_images

from sppo.config.run import PRESETS, RunConfig
from sppo.errors import ConfigError
from sppo.process.supervisor import RETRIES
from tests.backend.expected import POOLS
from tests.conftest import documents

PROFILES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
STAGES = {"prepare", "generate", "rank", "train", "evaluate", "keep", "publish", "bench", "finish"}
CUSTOM = """
generation: {gpus: 2, node_selector: {pool: fast}}
ranking: {tolerations: [{key: gpu, operator: Exists}]}
training: {gpus: 8}
retries: 3
stages: {train: {hours: 5, cpu: "3", memory: 7G, shared_memory: 2Gi}}
queue: gpus
model_cache: models
images: {rank: registry.example/rank@sha256:abc}
"""
OWN = {"custom": CUSTOM, "not-retried": "retries: 0"}


class Package:
    """A compiled pipeline: its tasks, and where their settings come from."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.ir, self.platform = documents(self.text)
        self.components = {**self.ir["components"], "root": self.ir["root"]}
        self.executors = self.ir["deploymentSpec"]["executors"]
        self.on_kubernetes = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    def tasks(self) -> Iterator[tuple[str, dict]]:
        """Every task, with the name of the component that holds it."""
        for name, component in self.components.items():
            for task in component.get("dag", {}).get("tasks", {}).values():
                yield name, task

    def label(self, task: dict) -> str | None:
        """The executor of a task; None for a sub-pipeline."""
        return self.components[task["componentRef"]["name"]].get("executorLabel")

    def origin(self, component: str, parameter: str) -> str:
        """The parameter of the whole pipeline that reaches a component as `parameter`."""
        while component != "root":
            ((component, task),) = [
                (parent, task) for parent, task in self.tasks() if task["componentRef"]["name"] == component
            ]
            parameter = task["inputs"]["parameters"][parameter]["componentInputParameter"]
        return parameter


def stage(label: str) -> str:
    component = re.fullmatch(r"exec-([a-z]+)(-\d+)*", label)[1]
    return "train" if component == "launch" else component


@pytest.fixture(scope="module", params=[*PROFILES, *OWN])
def profile(request, tmp_path_factory) -> str:
    if request.param not in OWN:
        return request.param
    path = tmp_path_factory.mktemp("profiles") / f"{request.param}.yaml"
    path.write_text(OWN[request.param])
    return str(path)


@pytest.fixture(scope="module")
def package(profile, tmp_path_factory) -> Package:
    path = tmp_path_factory.mktemp("packages") / "sppo.yaml"
    compile_pipeline(path, 3, profile)
    return Package(path)


def test_every_iteration_that_may_be_played_is_there(package):
    labels = [stage(label) for label in package.executors]
    assert set(labels) == STAGES
    assert {name: labels.count(name) for name in STAGES} == {
        **dict.fromkeys(("generate", "rank", "train", "evaluate"), 3),
        "keep": 4,
        "prepare": 1,
        "publish": 1,
        "bench": 1,
        "finish": 1,
    }


def test_no_task_is_cached(package):
    """A stage finds its own committed work; KFP's cache would not ask whether the weights still exist."""
    for _, task in package.tasks():
        if "dag" in package.components[task["componentRef"]["name"]]:
            continue  # the backend caches what runs in a container
        assert task["cachingOptions"] == {}, task["taskInfo"]


def test_every_task_has_a_time_limit_and_retries_that_the_limit_leaves_room_for(package, profile):
    wanted = load_profile(profile)
    for _, task in package.tasks():
        label = package.label(task)
        if label is None:
            continue
        seconds = getattr(wanted.stages, stage(label)).hours * 3600
        assert int(package.on_kubernetes[label]["activeDeadlineSeconds"]) == seconds
        policy = task.get("retryPolicy")
        inside = {each["name"]: each["value"] for each in package.executors[label]["container"].get("env", [])}
        if not wanted.retries:
            assert policy is None and RETRIES not in inside
            continue
        assert policy["maxRetryCount"] == wanted.retries and inside[RETRIES] == str(wanted.retries)
        limit = int(policy["backoffMaxDuration"].removesuffix("s")) - seconds * (wanted.retries + 1)
        assert limit >= (60 * 24 * 3600 if wanted.queue else 0), "the wait in a queue counts too"


def test_placement_is_chosen_when_the_run_is_submitted(package):
    placed = 0
    for parent, task in package.tasks():
        label = package.label(task)
        if label is None or stage(label) not in POOLS:
            assert label is None or "nodeSelector" not in package.on_kubernetes[label]
            continue
        pool = POOLS[stage(label)]
        on_nodes = package.on_kubernetes[label]
        for setting, source in [
            ("node_selector", on_nodes["nodeSelector"]["nodeSelectorJson"]),
            ("tolerations", on_nodes["tolerations"][0]["tolerationJson"]),
        ]:
            assert package.origin(parent, source["componentInputParameter"]) == f"{pool}_{setting}"
        accelerator = package.executors[label]["container"]["resources"]["accelerator"]
        assert accelerator["resourceType"] == "nvidia.com/gpu"
        channel = re.fullmatch(r"\{\{\$\.inputs\.parameters\['(.+)'\]\}\}", accelerator["resourceCount"])[1]
        assert package.origin(task["componentRef"]["name"], channel) == f"{pool}_gpus"
        placed += 1
    assert placed == 13


def test_defaults_come_from_the_profile(package, profile):
    wanted = load_profile(profile)
    parameters = package.ir["root"]["inputDefinitions"]["parameters"]
    for pool in ("generation", "ranking", "training"):
        for setting, value in getattr(wanted, pool):
            default = str(value) if setting == "gpus" else value  # a count that is a number is read as none
            assert parameters[f"{pool}_{setting}"].get("defaultValue") == default
    assert all(parameter.get("description") for parameter in parameters.values())


def test_the_form_asks_for_the_place_and_offers_the_presets(package):
    parameters = package.ir["root"]["inputDefinitions"]["parameters"]
    assert [name for name, parameter in parameters.items() if "defaultValue" not in parameter] == ["output_uri"]
    assert parameters["preset"]["literals"] == list(PRESETS)
    on_gpus = any(parameters[f"{pool}_gpus"]["defaultValue"] != "0" for pool in ("generation", "ranking", "training"))
    assert parameters["preset"]["defaultValue"] == ("paper" if on_gpus else RunConfig().preset)


def test_the_pipelines_page_explains_every_field_of_the_form(package):
    said = [line.partition(":")[0] for line in package.ir["pipelineInfo"]["description"].splitlines() if ": " in line]
    parameters = package.ir["root"]["inputDefinitions"]["parameters"]
    pools = {f"{pool}_" for pool in ("generation", "ranking", "training")}
    assert [*said[:-1]] == list(dict.fromkeys(said[:-1])) and set(said[-1].split(", ")) == pools
    assert set(said[:-1]) == {name for name in parameters if not name.startswith(tuple(pools))}


def test_every_task_has_a_name_for_people(package):
    names = [task["taskInfo"]["name"] for _, task in package.tasks()]
    assert not [name for name in names if re.search(r"condition|for-loop|-\d+$", name)]
    assert {"self-play 1", "continue after 1", "end after 2", "benchmarks", "gate passed", "keep"} <= set(names)


def test_no_task_of_a_loop_reads_the_list_that_is_looped_over(package):
    """The backend takes it away from the items (`driver/resolve.go`)."""
    looped = 0
    for _, loop in package.tasks():
        if "parameterIterator" not in loop:
            continue
        looped += 1
        items = loop["parameterIterator"]["items"]["inputParameter"]
        for task in package.components[loop["componentRef"]["name"]]["dag"]["tasks"].values():
            assert items not in [
                value.get("componentInputParameter") for value in task["inputs"]["parameters"].values()
            ]
    assert looped == 3


def test_a_run_ends_in_the_branch_that_tells_its_gate(package):
    """By these names `sppo submit --wait` reads the gate."""
    tasks = package.components["comp-run"]["dag"]["tasks"]
    assert {name: tasks[name]["triggerPolicy"]["condition"] for name in (GATE_PASSED, GATE_FAILED)} == {
        GATE_PASSED: "inputs.parameter_values['pipelinechannel--publish-gate'] == 'passed'",
        GATE_FAILED: "inputs.parameter_values['pipelinechannel--publish-gate'] == 'failed'",
    }


def test_benchmarks_measure_the_published_model_and_only_if_they_are_wanted(package):
    branch = package.components["comp-run"]["dag"]["tasks"]["benchmarks"]
    asked = {name: value.get("taskOutputParameter") for name, value in branch["inputs"]["parameters"].items()}
    wanted, model = "pipelinechannel--prepare-benchmarks", "pipelinechannel--publish-model_uri"
    assert asked[model] == {"outputParameterKey": "model_uri", "producerTask": "publish"}
    assert asked[wanted] == {"outputParameterKey": "benchmarks", "producerTask": "prepare"}
    assert branch["triggerPolicy"] == {"condition": f"inputs.parameter_values['{wanted}'] == 'yes'"}
    measured = package.components[branch["componentRef"]["name"]]["dag"]["tasks"]["bench"]
    assert measured["inputs"]["parameters"]["model_uri"] == {"componentInputParameter": model}


def test_nothing_is_left_unresolved(package):
    """A channel that KFP formats into a string silently becomes this literal."""
    assert "{{channel" not in package.text
    assert "pip install" not in package.text


def test_images_are_pinned_to_this_version_or_named_by_the_profile(package, profile):
    named = load_profile(profile).images
    for label, executor in package.executors.items():
        host = GUESTS.get(stage(label), stage(label))
        assert re.search(r":\d+\.\d+\.\d+$", image(host))
        assert executor["container"]["image"] == named.get(stage(label), named.get(host, image(host)))


def test_every_task_asks_for_what_its_stage_needs(package, profile):
    wanted = load_profile(profile)
    for label, executor in package.executors.items():
        needs = getattr(wanted.stages, stage(label))
        resources = executor["container"]["resources"]
        assert resources["resourceCpuRequest"] == needs.cpu
        assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"] == needs.memory
        mounts = package.on_kubernetes[label].get("emptyDirMounts", [])
        assert [mount["sizeLimit"] for mount in mounts] == [size for size in [needs.shared_memory] if size]
        assert all(mount["mountPath"] == "/dev/shm" and mount["medium"] == "Memory" for mount in mounts)


def test_no_task_runs_as_root_or_holds_a_secret(package):
    for executor in package.on_kubernetes.values():
        assert executor["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert [source["secretName"] for source in executor["secretAsEnv"]] == ["sppo-credentials"]
        assert [source["configMapName"] for source in executor["configMapAsEnv"]] == ["sppo-settings"]
    given = {label: executor["container"].get("env", []) for label, executor in package.executors.items()}
    names = {label: {each["name"] for each in env} - {RETRIES} for label, env in given.items()}
    assert {label: env for label, env in names.items() if env} == {"exec-prepare": {"SPPO_IMAGES"}}
    parameters = package.ir["root"]["inputDefinitions"]["parameters"]
    assert not re.search("secret|token|password|key", " ".join(parameters))


def test_prepare_knows_what_mlflow_is_told_of_the_run(package, profile):
    env = package.executors["exec-prepare"]["container"]["env"]
    (given,) = [each for each in env if each["name"] == "SPPO_IMAGES"]
    named = load_profile(profile).images
    assert json.loads(given["value"]) == {
        stage: named.get(stage, image(stage))
        for stage in ("prepare", "generate", "rank", "train", "evaluate", "publish")
    }
    run = {"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
    assert package.on_kubernetes["exec-prepare"]["fieldPathAsEnv"] == [run]
    assert package.on_kubernetes["exec-finish"]["fieldPathAsEnv"] == [run]


def test_a_task_is_played_at_the_end_of_a_run_whatever_became_of_it(package):
    tasks = package.ir["root"]["dag"]["tasks"]
    assert set(tasks) == {"run", "finish"}
    assert tasks["finish"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert tasks["finish"]["inputs"]["parameters"] == {
        "output_uri": {"componentInputParameter": "output_uri"},
        "status": {"taskFinalStatus": {"producerTask": "run"}},
    }


def test_queue_and_model_cache_are_those_of_the_profile(package, profile):
    wanted = load_profile(profile)
    for label, executor in package.on_kubernetes.items():
        labels = executor.get("podMetadata", {}).get("labels", {})
        waits = wanted.queue and stage(label) in POOLS and "launch" not in label
        queued = {"kueue.x-k8s.io/queue-name": wanted.queue} if waits else {}
        assert labels == {"app.kubernetes.io/name": "sppo-run", **queued}
        claims = [mount["constant"] for mount in executor.get("pvcMount", [])]
        assert claims == [claim for claim in [wanted.model_cache] if claim]


def test_images_can_be_given_by_a_file(tmp_path):
    images = tmp_path / "images.yaml"
    images.write_text("train: registry.example/train@sha256:def\n")
    compile_pipeline(tmp_path / "sppo.yaml", 1, "cpu", images)
    package = Package(tmp_path / "sppo.yaml")
    assert package.executors["exec-train"]["container"]["image"] == "registry.example/train@sha256:def"
    images.write_text("trian: x\n")
    with pytest.raises(ConfigError, match="unknown stage trian; the stages are prepare, generate"):
        compile_pipeline(tmp_path / "sppo.yaml", 1, "cpu", images)


def test_no_task_is_taken_for_an_item_of_a_loop(package):
    """kfp.local reads "-iteration-" in a task's name as that."""
    names = [name for component in package.components.values() for name in component.get("dag", {}).get("tasks", {})]
    assert names and not any("-iteration-" in name for name in names)


COMPILE = """
import sys
from pathlib import Path
from sppo_pipelines.compiling import compile_pipeline
for profile in sys.argv[2:]:
    compile_pipeline(Path(sys.argv[1]) / f"{profile}.yaml", 3, profile)
"""


def test_a_package_is_the_same_bytes_whenever_it_is_compiled(tmp_path):
    """tests/unit/test_golden.py compiles every profile; here the two kinds are compiled with other hashes."""
    profiles, digests = ("one-gpu", "64-gpus"), set()
    for seed in ("0", "77"):
        folder = tmp_path / seed
        command = [sys.executable, "-W", "ignore", "-c", COMPILE, str(folder), *profiles]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        files = [folder / f"{profile}.yaml" for profile in profiles]
        digests.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("output", "iterations", "profile", "message"),
    [
        ("sppo.json", 3, "local", r"output: .*sppo\.json must end in \.yaml"),
        ("sppo.yaml", 0, "local", r"max_iterations: 0 is less than 1"),
        ("sppo.yaml", 1, "huge", r"profile: 'huge' is neither a file nor one of 64-gpus, cpu, local, one-gpu"),
    ],
)
def test_what_cannot_be_compiled_is_told(tmp_path, output, iterations, profile, message):
    with pytest.raises(ConfigError, match=message):
        compile_pipeline(tmp_path / output, iterations, profile)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("profile", "named", "told"),
    [
        ("one-gpu", None, True),
        ("one-gpu", ["train"], True),
        ("one-gpu", ["prepare", "generate", "rank", "train", "evaluate", "publish"], False),
        ("local", ["train"], True),
    ],
)
def test_images_of_a_file_lie_over_those_of_the_profile(tmp_path, capsys, profile, named, told):
    file = None
    if named:
        file = tmp_path / "images.yaml"
        file.write_text(yaml.safe_dump({stage: f"registry.example.org/{stage}:1" for stage in named}))
    found, own = with_images(profile, file), load_profile(profile)
    for stage in STAGES:
        expected = f"registry.example.org/{stage}:1" if stage in (named or []) else None
        assert found.images.get(stage) == (expected or own.images.get(stage))
    tell_unpublished(profile, file)
    assert ("its images are not published yet" in capsys.readouterr().out) == told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generation: {gpus: -1}", r"generation\.gpus: Input should be greater than or equal to 0"),
        ("generation: {gpu: 1}", r"generation\.gpu: unknown key; did you mean generation\.gpus\?"),
        (
            "stages: {train: {cpu: 8}}",
            r"stages\.train\.cpu: Input should be a valid string \(got 8\); write text in quotes",
        ),
        ("retries: 1\nretries: 2", r"mine\.yaml: retries is given twice, the second time in line 2; give it once"),
        ("stages: {train: {memory: 6GB}}", r"stages\.train\.memory: '6GB' is no quantity .*; write such as 6G or 6Gi"),
        ("stages: {train: {cpu: half}}", r"stages\.train\.cpu: 'half' is no quantity .*; write such as 8 or 500m"),
        ("stages: {train: {shared_memory: 6GB}}", r"stages\.train\.shared_memory: '6GB' is no quantity"),
        ("stages: {train: {memory: 6000000K}}", r"stages\.train\.memory: '6000000K' is no quantity"),
        ('credentials: ""', r"credentials: String should have at least 1 character"),
        (
            "ranking: {tolerations: [{key: spot, value: true}]}",
            r"ranking\.tolerations: .*value: Input should be a valid",
        ),
        (
            "ranking: {tolerations: [{key: a, effect: NoExecute, tolerationSeconds: '3'}]}",
            r"tolerationSeconds: Input should",
        ),
        ("ranking: {tolerations: [{key: a, tolerationSeconds: 3}]}", r"is of the effect NoExecute alone"),
        ("images: {trian: a/b:1}", r"images: unknown stage trian; the stages are prepare, generate"),
        ("retries: [", "not YAML"),
        ("- a", "valid dictionary"),
    ],
)
def test_a_profile_that_is_wrong_is_told(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_profile(str(path))
