"""benchmarks/same.py: runs that differ in times and digests are the same, and no other difference goes unseen."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.same import SHOWN, main
from sppo.reporting.report import collect, render_html, render_markdown

MODEL, EVALUATION, REPORT = "iteration-1/model", "iteration-1/evaluation", "report"
TRAINED, EVALUATED = f"{MODEL}/MANIFEST.json", f"{EVALUATION}/MANIFEST.json"
WEIGHTS, LOG, RECORD = f"{MODEL}/model.safetensors", f"{MODEL}/training_log.jsonl", "tracking/iteration-1-train.json"
TABLE, VERDICT, BINS = f"{EVALUATION}/comparisons.parquet", f"{EVALUATION}/verdict.json", f"{MODEL}/probabilities.json"
DIGITS = {"before": "0a1b2c3d", "after": "4e5f6a7b", "version-0.1": ""}
"""What the folders of each run have in their names."""
COMPARED = "13 files, 2 tensors, 2 rows, 11 figures"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that are the same, each in a place of its own."""
    return [write_run(tmp_path / name) for name in ("before", "after")]


def at(run: Path, file: str) -> Path:
    """Where a file of a run lies."""
    digits = DIGITS[run.name]
    if not digits:
        return run / file.replace("configuration.json", "prepared/config.json").replace("report/", "published/report/")
    if file == "configuration.json":
        return run / f"configurations/{digits}.json"
    return run / re.sub(r"^(prepared|report|iteration-1/\w+)(?=/)|(?=\.json$)(?<=train)", rf"\1-{digits}", file)


def write_run(folder: Path) -> Path:
    """A small run with a file of each kind."""
    digits = DIGITS[folder.name]
    more = {"contents": {"prompts": digits}, "continues": ""} if digits else {}
    write_json(folder, "configuration.json", {"output_uri": str(folder), "seed": 0, **more})
    write_json(folder, "prepared/MANIFEST.json", manifest({"prepare/kept": 40.0}))
    write_json(folder, TRAINED, manifest({"train/loss": 0.1, "train/seconds": 3.0}))
    write_json(folder, BINS, [0.5, 2.5])
    write_json(folder, f"{MODEL}/tokenizer.json", {"vocab": {"time": 1}})
    at(folder, LOG).write_text('{"step": 0, "loss": 0.1}\n{"step": 1, "loss": NaN}\n')
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, at(folder, WEIGHTS))
    write_json(folder, VERDICT, {"decision": "stop", "model_uri": str(at(folder, WEIGHTS).parent)})
    write_json(folder, EVALUATED, manifest({"eval/win_rate_vs_base": 0.5}))
    pq.write_table(pa.table({"prompt_id": ["p0", "p1"], "win_rate": [0.5, float("nan")]}), at(folder, TABLE))
    write_json(folder, f"{REPORT}/MANIFEST.json", manifest({}))
    at(folder, f"{REPORT}/report.md").write_text(
        f"# Report\n\n## Time\n\n2 s\n\n## What was run\n\n- configuration: `{digits:0<64}`\noutput_uri: {folder}\n"
    )
    said = {"figures": {"train/loss": 0.1}, "made": digits, "system": [{"cpu": 1.0}], "time": 5, "tags": {"c": "d"}}
    write_json(folder, RECORD, said)
    (folder / "mlflow.db").write_text(str(folder))
    return folder


def manifest(figures: dict[str, float]) -> dict[str, Any]:
    return {
        "inputs": {"stage": "c0", "judge": "j0"},
        "figures": figures,
        "seconds": 1.5,
        "files": [{"path": "a", "sha256": "aa"}],
    }


def write_json(folder: Path, file: str, value: Any) -> None:
    at(folder, file).parent.mkdir(parents=True, exist_ok=True)
    at(folder, file).write_text(json.dumps(value))


def set_value(run: Path, file: str, keys: tuple[str | int, ...], to: Any) -> None:
    content = inner = json.loads(at(run, file).read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    write_json(run, file, content)


def set_cell(run: Path, file: str, where: tuple[int, str], to: Any) -> None:
    rows = pq.read_table(at(run, file)).to_pylist()
    rows[where[0]][where[1]] = to
    pq.write_table(pa.Table.from_pylist(rows), at(run, file))


def set_element(run: Path, file: str, where: tuple[str, tuple[int, ...]], to: float) -> None:
    weights = load_file(at(run, file))
    weights[where[0]][where[1]] = to
    save_file(weights, at(run, file))


def drop_tensor(run: Path, file: str, name: str, _: None) -> None:
    save_file({other: value for other, value in load_file(at(run, file)).items() if other != name}, at(run, file))


def set_text(run: Path, file: str, old: str, new: str) -> None:
    text = at(run, file).read_text()
    assert old in text
    at(run, file).write_text(text.replace(old, new))


def compare(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main([str(run) for run in runs])
    return code, capsys.readouterr().out.splitlines()


def test_runs_in_two_places_are_the_same(runs, capsys):
    assert compare(runs, capsys) == (0, [f"the same: {COMPARED}"])


def test_a_run_that_was_moved_is_the_same(runs, tmp_path, capsys):
    moved = shutil.move(runs[1], tmp_path / "elsewhere")
    assert compare([runs[0], moved], capsys) == (0, [f"the same: {COMPARED}"])


def test_a_run_of_version_0_1_may_be_the_same(runs, tmp_path, capsys):
    assert compare([write_run(tmp_path / "version-0.1"), runs[1]], capsys) == (0, [f"the same: {COMPARED}"])


def test_a_place_where_other_values_were_played_is_an_error(runs, capsys):
    (runs[1] / "configurations" / "8c9d0e1f.json").write_text("{}")
    assert main([str(run) for run in runs]) == 2
    two = "configurations/4e5f6a7b.json and configurations/8c9d0e1f.json"
    assert f"{runs[1]} holds more than one run: {two}" in capsys.readouterr().err


VARYING = [
    (set_value, TRAINED, ("seconds",), 77.0),
    (set_value, TRAINED, ("inputs", "stage"), "c1"),
    (set_value, TRAINED, ("figures", "train/seconds"), 77.0),
    (set_value, TRAINED, ("figures", "train/tokens_per_second"), 77.0),
    (set_value, TRAINED, ("files", 0, "sha256"), "bb"),
    (set_value, f"{REPORT}/MANIFEST.json", ("inputs", "evaluations"), "bb"),
    (set_value, RECORD, ("figures", "rank/comparisons_per_second"), 77.0),
    (set_value, RECORD, ("made",), "4e5f6a7b"),
    (set_value, RECORD, ("time",), 77),
    (set_value, RECORD, ("system",), []),
    (set_value, RECORD, ("tags", "c"), "e"),
    (set_text, f"{REPORT}/report.md", "2 s", "3 min 2 s"),
]


@pytest.mark.parametrize(("change", "file", "where", "to"), VARYING)
def test_times_speeds_and_commits_may_differ(runs, capsys, change: Callable[..., None], file, where, to):
    change(runs[1], file, where, to)
    assert compare(runs, capsys)[0] == 0


NEXT = np.nextafter(np.float32(4), np.float32(5)).item()
CHANGES = [
    (set_element, WEIGHTS, ("a", (1, 1)), NEXT, "a: 1 of 6 elements, the first 4: 4.0 | 4.0000005"),
    (set_element, WEIGHTS, ("a", (0, 0)), -0.0, "a: 1 of 6 elements, the first 0: 0.0 | -0.0"),
    (set_element, WEIGHTS, ("b", (3,)), 1.5, "b: 1 of 4 elements, the first 3: 1.0 | 1.5"),
    (drop_tensor, WEIGHTS, "b", None, "b: 'BF16 [4]' | nothing"),
    (set_value, TRAINED, ("figures", "train/loss"), 0.1 + 1e-16, "figures.train/loss: 0.1 | 0.1000000000000001"),
    (set_value, TRAINED, ("inputs", "judge"), "j1", "inputs.judge: 'j0' | 'j1'"),
    (set_value, TRAINED, ("files", 0, "path"), "b", "files.0.path: 'a' | 'b'"),
    (set_value, EVALUATED, ("figures", "eval/new"), 1.0, "figures.eval/new: nothing | 1.0"),
    (set_value, VERDICT, ("decision",), "continue", "decision: 'stop' | 'continue'"),
    (set_value, VERDICT, ("model_uri",), "/base", f"model_uri: '<run>/{MODEL}' | '/base'"),
    (set_value, BINS, (1,), 3.5, "1: 2.5 | 3.5"),
    (set_text, LOG, "0.1", "0.2", "line 1.loss: 0.1 | 0.2"),
    (set_text, LOG, "NaN", "0.5", "line 2.loss: nan | 0.5"),
    (set_cell, TABLE, (0, "win_rate"), 0.25, "row 0.win_rate: 0.5 | 0.25"),
    (set_cell, TABLE, (1, "prompt_id"), "p2", "row 1.prompt_id: 'p1' | 'p2'"),
    (set_text, f"{REPORT}/report.md", "# Report", "# Rapport", "line 1: '# Report' | '# Rapport'"),
    (set_value, f"{MODEL}/tokenizer.json", ("vocab", "time"), 2, """content: b'{"vocab": {"time": 1}}' | """),
    (set_value, RECORD, ("figures", "train/loss"), 0.3, "figures.train/loss: 0.1 | 0.3"),
]


@pytest.mark.parametrize(("change", "file", "where", "to", "told"), CHANGES)
def test_any_other_change_is_told_with_both_values(runs, capsys, change: Callable[..., None], file, where, to, told):
    change(runs[1], file, where, to)
    code, lines = compare(runs, capsys)
    assert code == 1 and len(lines) == 2
    assert lines[0].startswith(f"{file}: {told}") and lines[1].startswith("different: 1 of ")


def test_a_file_that_only_one_run_has_is_told(runs, capsys):
    at(runs[1], LOG).unlink()
    assert compare(runs, capsys)[1][0] == f"{LOG}: the file: there | nothing"
    code, lines = compare(runs[::-1], capsys)
    assert (code, lines[0]) == (1, f"{LOG}: the file: nothing | there")


def test_of_many_changes_the_first_are_told_and_all_are_counted(runs, capsys):
    set_value(runs[1], TRAINED, ("figures",), {f"train/{number}": 1.0 for number in range(30)})
    code, lines = compare(runs, capsys)
    assert (code, len(lines)) == (1, SHOWN + 1) and lines[-1].startswith("different: 31 of ")


def test_a_real_report_may_differ_in_times_and_in_nothing_else(runs, capsys, play_run):
    played = play_run()
    report = collect(played.config, played.store)

    def write(run: Path, measured: float, **figures: float) -> None:
        names = ("train/seconds", "train/tokens_per_second", "rank/seconds", "rank/comparisons_per_second")
        changed, seconds = figures | dict.fromkeys(names, measured), {"train": measured}
        parts = [replace(each, figures={**each.figures, **changed}, seconds=seconds) for each in report.iterations]
        config = report.config.model_copy(update={"output_uri": str(run)})
        written = replace(report, config=config, iterations=parts)
        at(run, f"{REPORT}/report.md").write_text(render_markdown(written))
        at(run, f"{REPORT}/report.html").write_text(render_html(written))

    write(runs[0], 3.0)
    write(runs[1], 75.0)
    assert compare(runs, capsys)[0] == 0
    write(runs[1], 3.0, **{"train/a_figure_of_tomorrow": 0.778})
    code, lines = compare(runs, capsys)
    told = {line.partition(":")[0] for line in lines[:-1]}
    assert code == 1 and told == {f"{REPORT}/report.md", f"{REPORT}/report.html"}


@pytest.mark.parametrize("missing", ["configuration.json", f"{REPORT}/MANIFEST.json"])
def test_a_folder_without_a_finished_run_is_an_error(runs, capsys, missing):
    at(runs[1], missing).unlink()
    assert main([str(run) for run in runs]) == 2
    assert f"{runs[1]} holds no finished run: {missing} is not there" in capsys.readouterr().err
