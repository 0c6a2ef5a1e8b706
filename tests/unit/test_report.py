import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from moto import mock_aws
from rich.console import Console
from rich.table import Table

from sppo.config.run import resolve
from sppo.errors import ConfigError, InfrastructureError
from sppo.preparing.recorded import run_name
from sppo.reporting.report import (
    SUMMARY_COLUMNS,
    collect,
    distribution_svg,
    model_card,
    plots,
    render_html,
    render_markdown,
    summary_rows,
)
from sppo.reporting.report.card import overrides
from sppo.reporting.report.catalogue import CHARTS
from sppo.reporting.report.escape import code, escape_markdown, fenced
from sppo.store import keys
from sppo.store.base import MANIFEST
from sppo.store.local import LocalStore
from sppo.store.opening import open_store
from tests.conftest import lineage_of
from tests.unit.conftest import with_every_figure

HOSTILE = (
    "<script>alert(1)</script></style></textarea>|x| `tick` ``` {{ report }} {% raw %} ![i](http://evil/i.png) "
    "[l](javascript:x) <img src=http://evil/x onerror=y> http://evil/ \\| &lt;b&gt; $$m$$ **b** ~~s~~\n\n# heading\n"
    "| a | b |\n|---|---|\n```\n<!-- \u202e"
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects a page's elements and fails on one that is closed out of order or never."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def test_collect_reads_every_iteration(play_run):
    run = play_run()
    report = collect(run.config, run.store)
    assert [each.iteration for each in report.iterations] == [1, 2]
    assert [each.decision for each in report.iterations] == ["continue", "stop"]
    assert report.best is report.iterations[1]
    second = report.iterations[1]
    assert second.figures["train/loss"] == 989.5 and second.figures["eval/mean_length"] == 42.5
    assert [row["loss"] for row in second.training_log] == [1002, 992, 982, 972]
    sample = second.samples[2]
    assert (sample.prompt_id, sample.prompt) == ("p2", "Prompt 2: A plain answer.")
    assert sample.base == "base 2.0: A plain answer."
    assert sample.previous == "iteration-1 2.0: A plain answer."
    assert sample.new == "iteration-2 2.0: A plain answer."
    assert sample.win_rate_vs_base == 0.625 and sample.probability_vs_base == pytest.approx(0.625)
    assert sample.probability_vs_previous == pytest.approx(0.5)


def test_panel_limits_the_samples(play_run):
    run = play_run(**{"evaluate.panel": 2})
    assert [s.prompt_id for s in collect(run.config, run.store).iterations[0].samples] == ["p0", "p1"]


def test_a_kept_previous_model_stays_the_best(play_run, no_charts):
    run = play_run(decisions=("continue", "keep-previous"), lows=(0.52, 0.4))
    report = collect(run.config, run.store)
    assert report.best is report.iterations[0] and report.passed
    assert "Iteration 1 gave the best model: its win rate over the base is 0.620 [0.520, 0.720]" in render_html(report)


def test_base_as_best_does_not_pass(play_run, no_charts):
    run = play_run(decisions=("keep-previous",), lows=(0.9,))
    report = collect(run.config, run.store)
    assert report.best is None and not report.passed
    assert "the base model is still the best" in render_html(report)
    assert "The gate is not passed" in render_markdown(report)


@pytest.mark.parametrize(("low", "passed"), [(0.5, False), (0.5000001, True), (0.49, False)])
def test_gate_needs_the_interval_above_the_bound(play_run, low, passed):
    run = play_run(decisions=("stop",), lows=(low,))
    assert collect(run.config, run.store).passed is passed


def test_a_gate_of_zero_is_off(play_run):
    run = play_run(decisions=("stop",), lows=(0.0,), **{"evaluate.gate.required_vs_base": 0})
    report = collect(run.config, run.store)
    assert report.passed and "The gate is passed: it asks for no win rate" in render_markdown(report)


def test_results_of_an_earlier_start_are_pointed_to(play_run):
    first = play_run()
    second = play_run(decisions=(), lows=(), **{"train.eta": 500.0})
    with pytest.raises(ConfigError, match=f"other starts there have results: `sppo report '{run_name(first.config)}'`"):
        collect(second.config, second.store)


def test_nothing_to_report_is_told(play_run, tmp_path):
    run = play_run(decisions=(), lows=())
    with pytest.raises(ConfigError, match="no iteration is evaluated"):
        collect(run.config, run.store)
    with pytest.raises(ConfigError, match="no iteration is evaluated"):
        collect(run.config, LocalStore(tmp_path / "empty"))


def test_a_report_is_of_its_own_configuration(play_run):
    run = play_run()
    with pytest.raises(ConfigError, match="no iteration is evaluated there yet"):
        collect(run.config.model_copy(update={"seed": 7}), run.store)


def test_a_damaged_training_log_is_found(play_run):
    run = play_run()
    (run.store.root / lineage_of(run.config).model_key(1) / keys.TRAINING_LOG_FILE).write_text("{}\n")
    with pytest.raises(InfrastructureError, match=r"training_log\.jsonl: missing, or differs"):
        collect(run.config, run.store)


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_every_figure_is_shown(play_run, render, no_charts):
    run = play_run()
    text = render(collect(run.config, run.store)).replace("\\", "")
    for shown in (
        "0.510 [0.410, 0.610]",
        "0.620 [0.520, 0.720]",
        "0.530 [0.430, 0.630]",
        *("988.5", "989.5", "1.25", "2.5", "0.0625", "321", "654", "0.375", "0.125", "0.6875", "0.3125"),
        *("41.5", "42.5", "39.25", "0.518", "0.777", "train/a_figure_of_tomorrow"),
        *("continue", "stop", "the win rate is what it is in iteration 2"),
        "Prompt 2: A plain answer.",
        run.config.digest(),
    ):
        assert shown in text, shown


def test_html_is_one_inert_balanced_page(play_run):
    run = play_run(text=HOSTILE)
    html = render_html(collect(run.config, run.store))
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "form", "base", "textarea", "a"}
    assert [attrs for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs] == [
        {
            "http-equiv": "Content-Security-Policy",
            "content": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        }
    ]
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"href", "src", "xlink:href", "data", "action", "srcset", "background"}:
                assert value.startswith("#"), (tag, name, value)
    style = "".join(text for tag, text in page.texts if tag == "style")
    assert "@import" not in html and "url(" not in style
    answers = [text for _, text in page.texts if text.startswith(("base 0.0", "iteration-1 0.0", "iteration-2 0.0"))]
    assert len(answers) == 6 and all(text.partition(": ")[2] == HOSTILE for text in answers)


def test_a_run_with_one_judge_speaks_of_no_second(play_run, no_charts):
    run = play_run()
    assert "A second judge" not in render_html(collect(run.config, run.store))


def test_a_second_judge_has_its_say(play_run, no_charts):
    run = play_run(**{"evaluate.second_judge": "hf://org/second"})
    report = collect(run.config, run.store)
    name = "eval/second_win_rate_vs_base"
    rate = {name: 0.4, f"{name}_low": 0.3, f"{name}_high": 0.5}
    rate |= {"eval/second_mean_probability_vs_base": 0.45, "eval/second_disagreement": 0.25}
    report = replace(report, iterations=[replace(each, figures={**each.figures, **rate}) for each in report.iterations])
    for text in (render_html(report), render_markdown(report), model_card(report)):
        shown = " ".join(text.replace("\\", "").split())
        said = "A second judge, hf://org/second, gives iteration 2 a win rate over the base of 0.400 [0.300, 0.500]"
        assert said in shown


def test_markdown_shows_hostile_text_as_text(play_run):
    run = play_run(text=HOSTILE, prompts=f"/data/{HOSTILE}.jsonl")
    tokens = (
        MarkdownIt("commonmark", {"html": True})
        .enable(["table", "strikethrough"])
        .parse(render_markdown(collect(run.config, run.store)))
    )
    kinds = {token.type for token in tokens} | {c.type for token in tokens for c in token.children or ()}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "s_open"}
    rows = _table_rows(tokens)
    assert {len(row) for row in rows} == {4, 7, 9}  # curves, side by side and figures of two iterations, summary
    flat = " ".join(HOSTILE.split())
    panel = [row for row in rows if row[0].startswith("Prompt ")]
    assert len(panel) == 3
    models = ("base", "iteration-1", "iteration-2")
    assert [row[1:4] for row in panel] == [[f"{model} {i}.0: {flat}" for model in models] for i in range(3)]


def _table_rows(tokens):
    rows = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children))
    return rows


@pytest.mark.parametrize("text", [HOSTILE, "a\\", "`", "*a*", "_a_", "a|b", "<a", "&amp;", "- x", "#1", "x" * 50])
def test_escape_markdown_keeps_the_words(text):
    inline = MarkdownIt("commonmark", {"html": True}).parse(f"| {escape_markdown(text)} |")[1]
    assert "".join(child.content for child in inline.children) == f"| {' '.join(text.split())} |"


@pytest.mark.parametrize("text", ["a: 1\n", "~~~\n```\n````` <b>\n  ``` x\n", ""])
def test_code_blocks_cannot_be_ended_early(text):
    tokens = MarkdownIt("commonmark", {"html": True}).parse(f"before\n\n{fenced(text, 'yaml')}\n\nafter")
    assert [token.type for token in tokens if token.type.startswith(("fence", "html"))] == ["fence"]
    block = next(token for token in tokens if token.type == "fence")
    assert (block.info, block.content.strip()) == ("yaml", text.strip())


def test_code_spans_cannot_be_ended_early():
    inline = MarkdownIt("commonmark", {"html": True}).parse(str(code("a`<b>\n`c")))[1]
    assert [(child.type, child.content) for child in inline.children] == [("code_inline", "a'<b> 'c")]


@pytest.fixture(scope="module")
def plain(plain_run):
    """A report and its charts."""
    report = collect(plain_run.config, plain_run.store)
    return report, plots.drawings(report)


@pytest.fixture(scope="module")
def full(plain):
    """The same of iterations that measured everything there is."""
    report = with_every_figure(plain[0])
    return report, plots.drawings(report)


def all_of(drawn):
    return [each for part in drawn for each in part]


def test_page_ids_are_unique(full, monkeypatch):
    report, drawn = full
    monkeypatch.setattr(plots, "drawings", lambda _: drawn)
    page = Page(render_html(report))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert ids and len(ids) == len(set(ids))


def test_charts_are_wellformed_and_take_the_page_colours(full):
    drawn = all_of(full[1])
    assert len(drawn) == len(CHARTS) + 2 + 2, "charts over iterations, over steps, and a distribution an iteration"
    for drawing in drawn:
        root = ElementTree.fromstring(drawing.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("role") == "img"
        assert root.findtext("{*}title") == drawing.title and " by " in root.findtext("{*}desc")
        words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert any("iteration" in word for word in words)
        assert "currentColor" in drawing.svg and "var(--series-1)" in drawing.svg
        assert not re.search(r"(fill|stroke): #", drawing.svg)


def test_every_series_of_a_chart_is_drawn_and_named(full):
    drawn = {each.name: each for each in all_of(full[1])}
    for chart in CHARTS:
        drawing = drawn[chart.name]
        words = [text.text for text in ElementTree.fromstring(drawing.svg).iter("{http://www.w3.org/2000/svg}text")]
        assert drawing.title == chart.title and chart.unit in words
        for index, (_, label) in enumerate(chart.series, start=1):
            assert len(chart.series) == 1 or label in words
            assert f"var(--series-{index})" in drawing.svg


def test_the_distribution_of_probabilities_is_drawn_for_every_iteration(plain):
    report, drawn = plain[0], all_of(plain[1])
    assert [each.distribution[0] for each in report.iterations] == [19, 19]
    assert [drawing.title for drawing in drawn[-2:]] == [f"The judge's probabilities in iteration {t}" for t in (1, 2)]
    bars = [path for path in drawn[-2].svg.split("<path") if "fill: var(--series-1)" in path]
    assert len(bars) == 20
    silent = replace(report, iterations=[replace(each, distribution=()) for each in report.iterations])
    assert len(all_of(plots.drawings(silent))) == len(drawn) - 2


def test_six_charts_stand_beside_the_verdict_whatever_was_measured(plain, full):
    for _, (leading, others) in (plain, full):
        assert len(leading) == 6 and not {each.name for each in leading} & {each.name for each in others}
    assert [each.name for each in leading[:3]] == ["win-rate", "probability-base", "instructions"]
    assert all(f"{judge} judge" in leading[1].svg for judge in ("training", "second", "third"))


def test_a_distribution_is_also_a_file_with_its_own_colours(play_run):
    run = play_run()
    svg = distribution_svg(collect(run.config, run.store).iterations[1])
    root = ElementTree.fromstring(svg)
    assert "--series-1: #" in root.get("style") and "color: #" in root.get("style")
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("iteration 2" in word for word in words)


def test_a_figure_that_was_not_measured_has_no_chart(plain):
    titles = {drawing.title for drawing in all_of(plain[1])}
    assert "Speed" in titles and "Gradient norm before clipping" not in titles


def test_reports_are_deterministic(play_run):
    run = play_run(text=HOSTILE)
    assert render_html(collect(run.config, run.store)) == render_html(collect(run.config, run.store))
    assert render_markdown(collect(run.config, run.store)) == render_markdown(collect(run.config, run.store))


def test_one_iteration_is_enough(play_run, no_charts):
    run = play_run(decisions=("continue",), lows=(0.41,))
    html = render_html(collect(run.config, run.store))
    assert "<dd>1 of 3 evaluated</dd>" in html
    assert "<dt>Prompts kept</dt><dd>37</dd>" in html
    Page(html)


def test_summary_rows_fit_a_terminal_table(play_run):
    run = play_run()
    rows = summary_rows(collect(run.config, run.store))
    of_base, of_previous = ("0.620 [0.520, 0.720]", "0.5625"), ("0.530 [0.430, 0.630]", "0.5125")
    assert rows[1] == ("2", *of_base, "–", *of_previous, "42.5", "2.5", "stop")
    table = Table(*SUMMARY_COLUMNS)
    for row in rows:
        table.add_row(*row)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    assert "0.620 [0.520, 0.720]" in console.export_text()


def test_card_tells_how_to_get_the_same_run(play_run):
    run = play_run(**{"train.eta": 500.0, "seed": 3})
    changed = overrides(run.config)
    assert changed == {
        "preset": "cpu",
        "base_model": run.config.base_model,
        "seed": 3,
        # What `auto` was settled to, as another machine might settle it otherwise.
        "generate": {"dtype": run.config.generate.dtype},
        "judge": {"dtype": run.config.judge.dtype},
        "train": {"eta": 500.0, "dtype": run.config.train.dtype},
    }
    assert resolve(changed).digest() == run.config.digest()
    assert "eta: 500.0" in model_card(collect(run.config, run.store))


def without_times(report):
    """A report of which nobody knows when it was played."""
    return replace(report, began="", iterations=tuple(replace(each, ended="") for each in report.iterations))


def test_a_run_in_s3_is_reported_without_fetching_its_weights(play_run, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("SPPO_CACHE", str(tmp_path / "cache"))
    run = play_run()
    with mock_aws():
        store = open_store("s3://bucket/run")
        store.client.create_bucket(Bucket="bucket")
        for manifest in sorted(run.store.root.rglob(MANIFEST)):
            key = manifest.parent.relative_to(run.store.root).as_posix()
            committed = run.store.manifest(key)
            store.commit(key, manifest.parent, committed.inputs, committed.figures, committed.seconds)
        there, here = (without_times(collect(run.config, place)) for place in (store, run.store))
        moved = [replace(each, model_uri=each.model_uri.replace(run.store.uri, store.uri)) for each in here.iterations]
        assert there == replace(here, published=here.published.replace(run.store.uri, store.uri), iterations=(*moved,))
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert fetched == {keys.ANSWERS_FILE, keys.COMPARISONS_FILE, keys.VERDICT_FILE}
