"""`sppo compare` on runs in stores, named by their place or by their id in MLflow."""

import pytest
from markdown_it import MarkdownIt
from mlflow import MlflowClient

from sppo.config.run import resolve
from sppo.errors import ConfigError, InfrastructureError
from sppo.preparing.recorded import run_name
from sppo.reporting.compare.comparison import compare
from sppo.reporting.compare.locate import locate
from sppo.reporting.compare.pages import render_html, render_markdown
from sppo.reporting.compare.side import read_side
from sppo.reporting.tracking import Record, track
from sppo.store.opening import open_store

from .test_report import HOSTILE, Page

RISING, FLAT = [[0.6] * 8, [0.75] * 8], [[0.5] * 8, [0.25] * 8]


@pytest.fixture
def two_runs(play_run):
    """Where two runs on the same prompts lie; the second is worse."""
    a = play_run(name="a", win_rates=RISING, **{"train.eta": 7.0})
    b = play_run(name="b", win_rates=FLAT, loss=900.0, text="Another answer.")
    return a.store.uri, b.store.uri


def test_two_stored_runs_are_compared(run_sppo, two_runs, tmp_path):
    html, markdown = tmp_path / "new" / "comparison.html", tmp_path / "comparison.md"
    result = run_sppo("compare", *two_runs, "--html", str(html), "--markdown", str(markdown))
    assert result.code == 0, result.err
    sentence = "B is worse than A: the win rate over the base of its best model is 0.250 against 0.750, a difference of"
    for text in (result.out, html.read_text(), markdown.read_text()):
        flat = " ".join(text.split())
        assert sentence in flat and "B is ahead on 0 of 8 held-out prompts, A on 8; sign test p = 0.0078." in flat
        assert "train.eta" in flat.replace("\\", "") and "train.learning_rate" not in flat.replace("\\", "")
        assert text is result.out or two_runs[0] in flat.replace("\\", ""), "a terminal breaks it"
    assert result.out.count("wrote ") == 2
    assert "−0.100 [−0.100, −0.100]" in " ".join(result.out.split())
    page = Page(html.read_text())
    assert ("div", "iteration-2 0.0: A plain answer.") in page.texts
    assert ("div", "iteration-2 0.0: Another answer.") in page.texts


def test_a_worse_run_fails_where_that_is_asked(run_sppo, two_runs, play_run):
    result = run_sppo("compare", *two_runs, "--fail-if-worse")
    assert result.code == 5 and result.err.startswith("not passed: B is worse than A: ") and result.err.count("\n") == 1
    assert run_sppo("compare", *two_runs[::-1], "--fail-if-worse").code == 0
    assert run_sppo("compare", two_runs[0], two_runs[0], "--fail-if-worse").code == 0
    other = play_run(name="c", win_rates=FLAT, loss=800.0, **{"evaluate.temperature": 0.5})
    assert run_sppo("compare", two_runs[0], other.store.uri).code == 0
    result = run_sppo("compare", two_runs[0], other.store.uri, "--fail-if-worse")
    assert result.code == 2 and "A and B do not compare, they differ in evaluate.temperature" in result.err


def test_the_base_model_as_the_best_is_even_with_itself(play_run):
    run = play_run(decisions=("keep-previous",), lows=(0.2,), win_rates=[[0.1] * 8])
    kept = read_side("A", run.store.uri)
    assert kept.best_name == "the base model" and kept.best_win_rates.tolist() == [0.5] * 8
    assert kept.held_out[0].answers == ("base 0.0: A plain answer.", "base 0.1: A plain answer.")
    Page(render_html(compare(kept, kept)))


def test_runs_of_different_length_are_compared(run_sppo, play_run):
    short = play_run(name="short", decisions=("stop",), lows=(0.4,), win_rates=RISING[:1])
    long = play_run(name="long", win_rates=RISING, loss=900.0)
    result = run_sppo("compare", short.store.uri, long.store.uri)
    assert result.code == 0, result.err
    assert "B is better than A" in result.out and "0.620 [0.520, 0.720]" in result.out


def test_a_place_without_a_run_is_told(run_sppo, play_run, tmp_path):
    run = play_run()
    result = run_sppo("compare", run.store.uri, str(tmp_path / "none"))
    assert (result.code, result.err.count("\n")) == (
        2,
        1,
    ) and f"{tmp_path}/none: no run was started there" in result.err
    unplayed = play_run(name="unplayed", decisions=(), lows=())
    result = run_sppo("compare", unplayed.store.uri, run.store.uri)
    assert result.code == 2 and "no iteration is evaluated there yet" in result.err


def test_hostile_answers_stay_text(play_run):
    run = play_run(text=HOSTILE)
    comparison = compare(read_side("A", run.store.uri), read_side("B", run.store.uri))
    page = Page(render_html(comparison))
    assert not {tag for tag, _ in page.elements} & {"script", "img", "iframe", "link", "object", "form", "base", "a"}
    assert not [
        name for _, attrs in page.elements for name in attrs if name.startswith("on") or name in ("href", "src")
    ]
    shown = [text for _, text in page.texts if text.startswith("iteration-2 0.0: ")]
    assert shown == [f"iteration-2 0.0: {HOSTILE}"] * 2
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(render_markdown(comparison))
    kinds = {token.type for token in tokens} | {c.type for token in tokens for c in token.children or ()}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "s_open"}
    cells = ["".join(c.content for c in token.children) for token in tokens if token.type == "inline"]
    assert cells.count(f"iteration-2 0.0: {' '.join(HOSTILE.split())}") == 2


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run that is tracked in a database: the server, the run's place, and the client."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("tracked")
        uri = f"sqlite:///{folder}/mlflow.db"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        config = resolve({"output_uri": str(folder / "run"), "iterations": 1})
        store = open_store(config.output_uri)
        track(config, store, Record(stage="prepare", iteration=0))
        track(config, store, Record(stage="train", iteration=1, figures={"train/loss": 1.0}))
        yield uri, run_name(config), MlflowClient(uri)


def test_a_run_is_found_by_its_id_in_mlflow(tracked, monkeypatch):
    uri, place, client = tracked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    runs = client.search_runs([client.get_experiment_by_name("sppo").experiment_id])
    assert len(runs) == 2, "the parent and its nested run"
    for each in runs:
        assert locate(f"mlflow:{each.info.run_id}") == locate(each.info.run_id) == place


def test_a_run_that_mlflow_cannot_place_is_told(tracked, monkeypatch):
    uri, _, client = tracked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"^mlflow:ffff: MLflow at sqlite.* has no such run"):
        locate("mlflow:ffff")
    stranger = client.create_run(client.create_experiment("other")).info.run_id
    with pytest.raises(ConfigError, match=r"neither it nor its parent has the tag sppo\.output_uri"):
        locate(stranger)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match=r"^mlflow:ffff: set MLFLOW_TRACKING_URI"):
        locate("mlflow:ffff")


def test_a_dead_server_is_told_without_its_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InfrastructureError, match=r"^mlflow:ffff: MLflow at http://127\.0\.0\.1:9 failed") as raised:
        locate("mlflow:ffff")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("place", ["runs/mine", "s3://bucket/run", "/runs/mlflow"])
def test_a_place_is_itself(place):
    assert locate(place) == place
