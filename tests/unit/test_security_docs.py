"""docs/security.md names a test for each promise, and every credential."""

import re
from pathlib import Path

from sppo_pipelines.placement import CREDENTIALS, SETTINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
SECTION = PAGE.partition("\n## Which credential goes where\n")[2].partition("\n## ")[0]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 20
    missing = [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in (ROOT / file).read_text()]
    assert not missing


def test_every_row_of_what_somebody_cannot_do_names_a_test() -> None:
    for table in re.findall(r"^\| they cannot \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        assert not [row for row in table.splitlines() if "`tests/" not in row]


def test_every_credential_of_a_pod_has_a_row() -> None:
    rows = [line for line in SECTION.splitlines() if line.startswith("| `")]
    assert not [key for key in CREDENTIALS if not any(f"`{key}`" in row.split("|")[1] for row in rows)]
    where = "".join(row.split("|")[2] for row in rows)
    assert set(re.findall("`([A-Z_]{5,})`", where)) <= set(SETTINGS)


def test_the_page_that_tells_how_to_report_leads_here() -> None:
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text()
