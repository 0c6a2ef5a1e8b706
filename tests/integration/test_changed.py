"""A finished run is started again with other values in its place: only what depends on them is done anew."""

import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from sppo.config.run import PreparedConfig, parse_config
from sppo.store import keys
from sppo.store.base import MANIFEST
from tests.conftest import lineage_of
from tests.integration.conftest import REPORTS, Command, shared

pytestmark = pytest.mark.timeout(1800)  # two runs at once share the cores

WEIGHTS = ".safetensors"
EVALUATED_ANEW = {"iteration-1/evaluation": 1, "iteration-2/evaluation": 1, "published": 1, "report": 1}
TRAINED_ANEW = {
    **{"iteration-1/model": 1, "iteration-2/responses/chunk": 2, "iteration-2/preferences/shard": 1},
    **{"iteration-2/model": 1, "answers": 2, "instruction-answers": 2, **EVALUATED_ANEW},
}
OTHER_GATE = "evaluate.gate.second_judge_below=0.25"
"""Where there is no second judge, it decides as before."""


@pytest.fixture(scope="session")
def settings(small_settings: list[str]) -> list[str]:
    """Of two iterations."""
    return [*small_settings, "iterations=2"]


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory, worker_id: str, settings: list[str]) -> Path:
    """The folder of a finished run; the seconds that it took are in a file beside it."""
    with shared(tmp_path_factory, worker_id, "played") as folder:
        if not any(folder.glob(REPORTS)):
            begun = time.monotonic()
            Command("run", f"output_uri={folder}", *settings).succeed()
            folder.with_suffix(".seconds").write_text(f"{time.monotonic() - begun:.1f}")
    return folder


@pytest.fixture
def place(played: Path, runs: Path) -> Path:
    """A copy of that run, in which other values are played."""
    return copied(played, runs / "run")


def copied(run: Path, place: Path) -> Path:
    """A copy of a run, which shares its weights."""

    def copy(source: str, target: str) -> None:
        if source.endswith(WEIGHTS):  # which are only read
            Path(target).hardlink_to(source)
        else:
            shutil.copy2(source, target)

    return Path(shutil.copytree(run, place, copy_function=copy))


def committed(folder: Path) -> dict[str, int]:
    """Every committed folder, and when it was committed."""
    found = (path for path in folder.rglob(MANIFEST) if not path.relative_to(folder).parts[0].startswith("."))
    return {path.parent.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}


def written(folder: Path) -> dict[str, int]:
    """Every file, and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    return {str(path): path.stat().st_mtime_ns for path in files}


def kinds(folders: Iterable[str]) -> dict[str, int]:
    """How many folders of each kind there are: their keys without digests and numbers of tasks."""
    return Counter(re.sub(r"(/[0-9a-f]{16})?-[0-9a-f]{8}\b|-\d+(-of-\d+)?$", "", folder) for folder in folders)


def made_anew(folder: Path, before: dict[str, int]) -> dict[str, int]:
    """The kinds of folders that are new; those that were there must be as they were."""
    after = committed(folder)
    assert {key: after.get(key) for key in before} == before
    return kinds(after.keys() - before.keys())


def recorded(folder: Path, *changes: tuple[str, object]) -> PreparedConfig:
    """The configuration that was started in a place with some values."""
    found = [parse_config(path.read_bytes(), path.name) for path in folder.glob("configurations/*.json")]
    (one,) = [config for config in found if dict(changes).items() <= config.read_by("rank", "evaluate").items()]
    return one


def test_a_changed_gate_evaluates_and_publishes_anew(place: Path, played: Path, settings: list[str]) -> None:
    before, begun = committed(place), time.monotonic()
    output = Command("run", f"output_uri={place}", *settings, OTHER_GATE, "--verbose").succeed()
    print(f"{time.monotonic() - begun:.1f} s after {played.with_suffix('.seconds').read_text()} s of the whole run")
    assert made_anew(place, before) == EVALUATED_ANEW
    assert "changed: evaluate.gate.second_judge_below: 0.5 -> 0.25: evaluate of iterations 1 and 2; publish" in output
    assert "loading" not in output


def test_a_changed_rate_trains_anew_and_its_predecessors_are_cleaned_away(place: Path, settings: list[str]) -> None:
    before, current = committed(place), (place / keys.CURRENT).read_bytes()
    begun = Command("run", f"output_uri={place}", *settings, "train.learning_rate=1e-5")
    begun.wait_until(lambda: (place / keys.CURRENT).read_bytes() != current)
    begun.wait_until(lambda: (place / lineage_of(place).chunk_key(2, 0)).exists())
    begun.process.send_signal(signal.SIGTERM)
    assert begun.process.wait(timeout=60) == 143
    rate = "train.learning_rate: 2e-05 -> 1e-05: train, evaluate of iteration 1; all of iteration 2; publish"
    assert f"changed: {rate}" in begun.output()
    kept = committed(place)
    Command("resume", str(place)).succeed()
    assert made_anew(place, kept)["iteration-2/model"] == 1
    assert made_anew(place, before) == TRAINED_ANEW

    found, printed = committed(place), Command("clean", str(place)).succeed()
    left = committed(place)
    gone = found.keys() - left.keys()
    assert gone <= before.keys() and kinds(gone) == TRAINED_ANEW
    assert left == {key: found[key] for key in left}
    assert all(key.partition("/chunk")[0].partition("/shard")[0] in printed for key in gone)
    assert Command("clean", str(place)).succeed() == "0 folders, 0.0 MB, removed\n"
    assert "continue" in Command("report", str(place)).succeed()
    before = written(place)
    output = Command("resume", str(place), "--verbose").succeed()
    assert written(place) == before, "a run that is finished is left as it is"
    assert "loading" not in output
    assert "publish: --- verdict ---" in output and "publish: --- end of the verdict ---" in output


def test_two_runs_with_other_values_at_once_have_reports_of_their_own(
    small_run: Path, small_settings: list[str], runs: Path
) -> None:
    place = copied(small_run, runs / "run")
    before = committed(place)
    values = ((OTHER_GATE,), ("rank.temperature=2", "shards=2"))
    both = [Command("run", f"output_uri={place}", "iterations=1", *small_settings, *changed) for changed in values]
    for command in both:
        command.succeed()
    gate = recorded(place, ("evaluate.gate.second_judge_below", 0.25))
    ranked = recorded(place, ("rank.temperature", 2.0))
    evaluated = {"iteration-1/evaluation": 1, "published": 1, "report": 1}
    ranked_anew = {"iteration-1/preferences/shard": 2, "iteration-1/model": 1, "answers": 1, "instruction-answers": 1}
    assert made_anew(place, before) == Counter(evaluated) + Counter({**ranked_anew, **evaluated})
    summaries = [(place / lineage_of(run).report_key / keys.SUMMARY_FILE).read_text() for run in (gate, ranked)]
    assert ["second_judge_below: 0.25" in summary for summary in summaries] == [True, False]
    assert ["temperature: 2.0" in summary for summary in summaries] == [False, True]
