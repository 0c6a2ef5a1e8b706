"""A report in a real browser: it stays on its page, shows on a phone, and takes nothing that it quotes for its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sppo.reporting.compare import pages
from sppo.reporting.compare.comparison import compare
from sppo.reporting.compare.side import read_side
from sppo.reporting.report import collect, render_html
from sppo.store import keys
from tests.conftest import lineage_of
from tests.integration.browser import Page, executable, open_page
from tests.unit.conftest import play_run, with_every_figure  # noqa: F401 - one is a fixture
from tests.unit.test_report import HOSTILE

PHONE, DESKTOP = 390, 1280
"""Widths in CSS pixels."""
LETTERS = 11
"""Pixels below which letters are hard to read on a phone."""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALLEST = """Math.min(...[...document.querySelectorAll('body *')]
  .filter(each => [...each.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()))
  .filter(each => each.getClientRects().length)
  .map(each => {
    const drawn = each.ownerSVGElement ? each.getScreenCTM() : {a: 1, b: 0};
    return parseFloat(getComputedStyle(each).fontSize) * Math.hypot(drawn.a, drawn.b);
  }))"""
"""Height of the smallest letters, in pixels, also of drawings that are shrunk or turned."""
OPEN_ALL = "for (const each of document.querySelectorAll('details')) each.open = true"
GROUND = "getComputedStyle(document.body).backgroundColor"
BREAKS_EVERY_RULE = """<!doctype html><meta name="viewport" content="width=device-width"><title>x</title>
<img src="missing.png"><div style="width: 2000px">wide</div><script>console.error("told")</script>"""

pytestmark = pytest.mark.skipif(executable() is None, reason="Chromium is not installed (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as opened:
        yield opened


def check(page: Page, report: Path) -> None:
    """What must hold of every report, at both widths and in both colour schemes."""
    grounds = set()
    for width in (PHONE, DESKTOP):
        for scheme in ("light", "dark"):
            seen = page.show(report.as_uri(), width, scheme)
            assert page.value("innerWidth") == width
            page.value(OPEN_ALL)
            assert page.value(OVERFLOW) == 0, (width, scheme)
            assert page.value(SMALLEST) >= LETTERS, (width, scheme)
            assert seen.messages == [] and seen.requests == [report.as_uri()], (width, scheme)
            grounds.add(page.value(GROUND))
    assert len(grounds) == 2, "light and dark differ"


def test_the_report_of_a_whole_run(page, whole_run):
    report = whole_run / lineage_of(whole_run).report_key / keys.REPORT_FILE
    check(page, report)
    assert page.value("document.querySelectorAll('figure svg').length") > 10
    text = page.value("document.body.innerText")
    assert "2 of 2 evaluated" in text and "Greedy, where code checks what is followed" in text


def test_a_report_full_of_hostile_text(page, play_run, tmp_path):  # noqa: F811
    run = play_run(text=HOSTILE, prompts=f"/data/{HOSTILE}.jsonl")
    report = tmp_path / "report.html"
    report.write_text(render_html(with_every_figure(collect(run.config, run.store))), encoding="utf-8")
    check(page, report)
    assert page.value("document.querySelectorAll('script, img, iframe, link, form, a').length") == 0
    answers = page.value("[...document.querySelectorAll('.answers .text')].map(each => each.textContent)")
    assert len(answers) == 18 and all(answer.endswith(HOSTILE) for answer in answers)


def test_a_comparison_full_of_hostile_text(page, play_run, tmp_path):  # noqa: F811
    runs = [read_side(name, play_run(name=name, text=HOSTILE).store.uri) for name in "AB"]
    comparison = tmp_path / "comparison.html"
    comparison.write_text(pages.render_html(compare(*runs)), encoding="utf-8")
    check(page, comparison)
    assert page.value("document.querySelectorAll('script, img, iframe, link, form, a').length") == 0
    assert page.value("document.querySelector('figure svg title').textContent") == pages.CHART_TITLE
    answers = page.value("[...document.querySelectorAll('.answers .text')].map(each => each.textContent)")
    assert answers and all(answer.endswith(HOSTILE) for answer in answers)


def test_the_browser_tells_what_a_page_does_wrong(page, tmp_path):
    wrong = tmp_path / "wrong.html"
    wrong.write_text(BREAKS_EVERY_RULE)
    seen = page.show(wrong.as_uri(), PHONE, "light")
    assert any("told" in message for message in seen.messages)
    assert (tmp_path / "missing.png").as_uri() in seen.requests
    assert page.value(OVERFLOW) > 0
