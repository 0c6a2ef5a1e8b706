"""What a local run says at its end: the verdict in words, the time, and what to do next."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from sppo_pipelines import closing
from sppo_pipelines.closing import close, open_mlflow, print_table

from sppo.config.run import resolve
from sppo.errors import GateFailedError
from sppo.reporting.publish import publish
from sppo.reporting.report import checks, collect, headline
from sppo.reporting.report.verdict import decision_sentence, gate_sentence
from sppo.reporting.tracking.identity import remember
from sppo.store.opening import open_store

pytestmark = pytest.mark.usefixtures("no_charts")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def published(play_run, tiny_llama):
    """Plays a run of a name, publishes it, and gives its configuration."""

    def work(name="run", **overrides):
        config = play_run(model=tiny_llama, name=name, **overrides).config
        publish(config)
        return config

    return work


def words(text):
    return " ".join(text.split())


def test_the_end_tells_the_verdict_the_time_and_three_things_to_do(published, capsys, tmp_path):
    config = published(lows=(0.51, 0.52))
    remember(config, open_store(config.output_uri), f"sqlite:///{tmp_path}/mlflow.db", "1", "ab" * 16)
    capsys.readouterr()
    close(config, 75.0)
    out = capsys.readouterr().out
    report = collect(config, open_store(config.output_uri))
    assert headline(report) in out and all(check.said in out for check in checks(report))
    assert gate_sentence(report) in out and decision_sentence(report.iterations[-1]) in out
    assert "…" not in out, "nothing of the table is cut in a log"
    assert "It took 0:01:15. The report: " in out
    shown = out.partition("It took 0:01:15. The report: ")[2].splitlines()
    assert Path(shown[0]).is_file()
    steps = [(line[2:20].strip(), line[20:]) for line in shown if line.startswith("  ")]
    assert [title for title, _ in steps] == ["use the model", "compare", "open MLflow", "then open"]
    (_, use), (_, compare), (_, mlflow), (_, page) = steps
    folder, _, how = use.partition("; ")
    assert how == "its README.md shows how" and "from_pretrained" in Path(folder, "README.md").read_text()
    assert shlex.split(compare)[1:] == ["compare", "OTHER-RUN", config.output_uri]
    assert shlex.split(mlflow)[1:] == ["ui", "--backend-store-uri", "sqlite:///mlflow.db"]
    assert page.startswith(f"http://127.0.0.1:5000/#/experiments/1/runs/{'ab' * 16}/model-metrics")


def test_a_finished_run_beside_it_is_the_one_to_compare_with(published, play_run, capsys, tmp_path):
    for name in ("other", "newer", "run"):
        config = published(name, lows=(0.51, 0.52))
    play_run(name="unfinished")
    (tmp_path / "no-run").mkdir()
    capsys.readouterr()
    close(config, 1.0)
    assert f"compare newer {config.output_uri}\n" in capsys.readouterr().out


def test_a_failed_gate_is_told_last(published, capsys):
    config = published(lows=(0.41, 0.42))
    capsys.readouterr()
    with pytest.raises(GateFailedError, match=r"^The gate is not passed: .* interval lies above 0\.500\. The model"):
        close(config, 1.0)
    assert "use the model" in capsys.readouterr().out


@pytest.mark.parametrize(("width", "decisions"), [(100, ("continue",) * 2), (80, ("continue",) * 3), (200, ("stop",))])
def test_on_a_terminal_nothing_is_cut(play_run, monkeypatch, capsys, width, decisions):
    config = play_run(decisions=decisions, lows=(0.51,) * len(decisions)).config
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(closing, "Screen", lambda: screen)
    report = print_table(config)
    assert capsys.readouterr().out == ""
    shown = screen.file.getvalue()
    assert all(len(line) <= width for line in shown.splitlines()) and "…" not in shown
    assert words(headline(report)) in words(shown)
    for each in report.iterations:
        assert f"{each.figures['eval/win_rate_vs_base']:.3f}" in shown
    assert shown.count("pass") + shown.count("caution") >= len(checks(report))


def test_a_server_of_mlflow_is_opened_at_the_runs_charts(monkeypatch, tmp_path):
    config, store = resolve({"output_uri": str(tmp_path / "run")}), open_store(str(tmp_path / "run"))
    store.root.mkdir()
    server = "https://user:secret@mlflow.example.org/base"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    (line,) = open_mlflow(config, store)
    assert line.startswith("https://mlflow.example.org/base has not got the figures; `sppo resume ")
    remember(config, store, server, "3", "run-id")
    (line,) = open_mlflow(config, store)
    assert line.startswith("https://mlflow.example.org/base/#/experiments/3/runs/run-id/model-metrics")


def test_a_run_in_s3_without_a_server_is_told_how_to_get_one(s3):
    (line,) = open_mlflow(resolve({"output_uri": s3.uri}), open_store(s3.uri))
    assert line.startswith("set MLFLOW_TRACKING_URI")
