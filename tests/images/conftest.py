"""Images built with buildah on a base image of the tests' own, and components run in them as Kubeflow runs them."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from sppo_pipelines.compiling import compile_pipeline
from sppo_pipelines.placement import USER

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "sppo-images"
"""Keeps the base image and the layers built on it, so that a second run builds only what changed."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PROGRAMS = ("buildah", "debootstrap", "docker-registry")
PORT = 5057
REGISTRY = f"localhost:{PORT}/sppo"
BASE = "localhost/sppo-base:bookworm"

FORM = {
    **dict.fromkeys(("preset", "base_model", "prompts", "preference_model", "experiment", "output_uri"), ""),
    **dict.fromkeys(("generation_gpus", "ranking_gpus", "training_gpus"), "1"),
    **dict.fromkeys(("iterations", "max_iterations", "training_nodes", "shards"), 1),
    "several_nodes": False,
    "shard_iterations": 0,
    "config": {},
}
"""What prepare is given where a form says nothing."""


def why_not() -> str:
    """What is missing for building images here; empty if nothing is."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"building images needs {', '.join(missing)}: apt-get install {' '.join(missing)}"
    return "" if os.geteuid() == 0 else "building images needs root: debootstrap and buildah's chroot isolation do"


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of buildah commands: images in a folder of the tests' own, and a registry without TLS."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    CACHE.mkdir(parents=True, exist_ok=True)
    settings = tmp_path_factory.mktemp("buildah")
    (settings / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{CACHE}/graph"\nrunroot = "{CACHE}/run"\n'
    )
    (settings / "registries.conf").write_text(f'[[registry]]\nlocation = "localhost:{PORT}"\ninsecure = true\n')
    environment = {
        **os.environ,
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(settings / "registries.conf"),
        "TMPDIR": str(settings),
    }
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time: they share a port and the names of images
        yield environment
        buildah(environment, "rm", "--all")
        buildah(environment, "rmi", "--prune")  # what a newer image of the same name has replaced


@pytest.fixture(scope="session")
def base(storage: dict[str, str]) -> str:
    """A base image with Debian's Python 3.11, as the Dockerfiles' `PYTHON_IMAGE`."""
    if BASE in buildah(storage, "images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        return BASE
    system = CACHE / "bookworm"
    shutil.rmtree(system, ignore_errors=True)
    packages = "python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(system)], check=True)
    shutil.rmtree(system / "var/cache/apt", ignore_errors=True)
    # Where an organisation's proxy answers in a registry's name, its certificate is among the machine's own.
    shutil.copyfile(CERTIFICATES, system / CERTIFICATES.relative_to("/"))
    container = buildah(storage, "from", "scratch")
    buildah(storage, "add", "--quiet", container, str(system), "/")
    buildah(storage, "commit", "--quiet", container, BASE)
    buildah(storage, "rm", container)
    shutil.rmtree(system)
    return BASE


@pytest.fixture(scope="session")
def registry(storage: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container registry on this machine."""
    folder = tmp_path_factory.mktemp("registry")
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{PORT}"},
    }
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        yield REGISTRY
        server.terminate()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def build(storage: dict[str, str], base: str) -> Callable[..., None]:
    """Builds images as `make images` does."""

    def build(*arguments: str) -> None:
        script = [sys.executable, "scripts/build_images.py", "--base", base, "--registry", REGISTRY, *arguments]
        built = subprocess.run(
            script, cwd=ROOT, env=storage, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert built.returncode == 0, built.stdout[-6000:]

    return build


def buildah(environment: Mapping[str, str], *arguments: str) -> str:
    """Run a buildah command and give what it printed."""
    done = subprocess.run(["buildah", *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"buildah {' '.join(arguments[:2])}: {done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout.strip()


class Cluster:
    """Runs tasks of a compiled pipeline in their images.

    As on Kubeflow, artifacts lie under /minio. The folder `store`, where the tests let runs be written, has the same
    name inside and outside.
    """

    def __init__(self, environment: Mapping[str, str], package: Path, folder: Path) -> None:
        self.environment = environment
        self.ir = next(yaml.safe_load_all(package.read_text()))
        self.artifacts = folder / "minio"
        self.store = folder / "store"
        for path in (self.artifacts, self.store):
            path.mkdir()
            os.chown(path, USER, USER)

    def run(self, stage: str, parameters: Mapping[str, Any], artifacts: Mapping[str, list[str]]) -> dict[str, Any]:
        """Run a stage's task as its package says; its outputs, parameters by value and artifacts by URI.

        Args:
            stage: the stage.
            parameters: its input parameters.
            artifacts: the URIs of its input artifacts.
        """
        container = self.ir["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]
        wanted = self._executor_input(stage, parameters, artifacts)
        arguments = [argument.replace("{{$}}", json.dumps(wanted)) for argument in container["args"]]
        name = buildah(self.environment, "from", container["image"])
        mounts = [f"--volume={self.artifacts}:/minio", f"--volume={self.store}:{self.store}"]
        try:
            print(buildah(self.environment, "run", *mounts, name, "--", *container["command"], *arguments))
        finally:
            buildah(self.environment, "rm", name)
        written = json.loads(self.path(wanted["outputs"]["outputFile"]).read_text())
        uris = {name: found["artifacts"][0]["uri"] for name, found in wanted["outputs"]["artifacts"].items()}
        return {**written.get("parameterValues", {}), **uris}

    def path(self, uri: str) -> Path:
        """Where an artifact, or a file in its folder, lies on this machine."""
        return self.artifacts / uri.removeprefix("minio://").removeprefix("/minio/")

    def _executor_input(self, stage: str, parameters: Mapping[str, Any], artifacts: Mapping[str, list[str]]) -> Any:
        component = self.ir["components"][f"comp-{stage}"]
        inputs, outputs = component["inputDefinitions"], component["outputDefinitions"]
        assert set(parameters) == set(inputs["parameters"]) and set(artifacts) == set(inputs.get("artifacts", {}))

        def listed(name: str, definition: Mapping[str, Any], uris: list[str]) -> dict[str, Any]:
            return {"artifacts": [{"name": name, "type": definition["artifactType"], "uri": uri} for uri in uris]}

        return {
            "inputs": {
                "parameterValues": dict(parameters),
                "artifacts": {n: listed(n, inputs["artifacts"][n], uris) for n, uris in artifacts.items()},
            },
            "outputs": {
                "parameters": {n: {"outputFile": f"/minio/{stage}/{n}"} for n in outputs.get("parameters", {})},
                "artifacts": {n: listed(n, d, [f"minio://{stage}/{n}"]) for n, d in outputs["artifacts"].items()},
                "outputFile": f"/minio/{stage}/executor_output.json",
            },
        }


@pytest.fixture
def cluster(storage: dict[str, str], tmp_path: Path) -> Callable[[Mapping[str, str]], Cluster]:
    """A cluster whose pipeline uses the given images, by stage."""

    def start(images: Mapping[str, str]) -> Cluster:
        (tmp_path / "images.yaml").write_text(yaml.safe_dump(dict(images)))
        compile_pipeline(tmp_path / "sppo.yaml", 1, "one-gpu", tmp_path / "images.yaml")
        return Cluster(storage, tmp_path / "sppo.yaml", tmp_path)

    return start
