"""The documentation says what the software does."""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sppo_components.images import PUBLISHED

from sppo.config.reference import reference, settings
from sppo.config.run import all_keys
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig

from .real_commands import PAGES, ROOT

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


FLAGS = ("kind", "train", "evaluate", "baseline", "output", "licenses", "seed")
"""Of `sppo train-preference`; all else is KEY=VALUE."""


@pytest.mark.parametrize(
    ("page", "tables"),
    [("configuration", reference), ("judges", partial(settings, TrainPreferenceConfig, FLAGS))],
    ids=["configuration", "judges"],
)
def test_tables_of_settings_are_current(page: str, tables: Callable[[], str]) -> None:
    path = ROOT / "docs" / f"{page}.md"
    before, held, after = re.split(r"(?<=<!-- reference: begin -->)|(?=<!-- reference: end -->)", path.read_text())
    written = f"\n\n{tables()}\n\n"
    if os.environ.get("SURFACE") == "write":
        path.write_text(before + written + after)
    else:
        assert held == written, f"`make surface` writes the tables of docs/{page}.md anew"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", page.read_text()):
        led_to = (page.parent / target) if target else page
        assert led_to.exists(), target
        assert not heading or heading in anchors(led_to), f"{target}#{heading}"


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_the_keys_that_are_named_exist(page: Path) -> None:
    """A value, a section, or all values that begin so (`rank.*`)."""
    known = set(all_keys())
    sections = "|".join(key for key in known if any(each.startswith(f"{key}.") for each in known))
    for key in re.findall(rf"`((?:{sections})\.[a-z_.]+[a-z])(?:[=:][^`]*)?`", page.read_text()):
        assert key in known or key.endswith(".py"), key


@each_page
def test_no_sentence_is_long(page: Path) -> None:
    """Thirty words at most, and on other pages than the first a few more; lists and tables aside."""
    most = 30 if page.name == "README.md" else 36
    text = re.sub(r"```.*?```|<!--.*?-->|^    .*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. |\|)", text):
        if paragraph.lstrip().startswith(("|", "#")) or "Written by `python" in paragraph or "Played on " in paragraph:
            continue
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        for sentence in re.split(r"(?<=[.!?:;])\s+", words):
            assert len(re.findall(r"\S*\w\S*", sentence)) <= most, sentence


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md"])
def test_pages_say_of_images_what_is_so(page: str) -> None:
    assert ("not published yet" in (ROOT / page).read_text()) == (not PUBLISHED)
