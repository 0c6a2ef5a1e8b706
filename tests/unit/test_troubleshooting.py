"""The messages that the page explains are those that the code has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| `(.+?)` \|", PAGE, re.MULTILINE)


def texts(source: str) -> set[str]:
    """The texts of a source, with … for what is put into them; documentation is none."""
    tree = ast.parse(source)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        "".join(part.value if isinstance(part, ast.Constant) else "…" for part in getattr(node, "values", [node]))
        for node in ast.walk(tree)
        if id(node) not in said
        and (isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)))
    }


@pytest.fixture(scope="module")
def known() -> str:
    """Every text of the code, one a line."""
    sources = (path for package in ("sppo", "pipelines") for path in (ROOT / package).rglob("*.py"))
    return "\n".join(text for path in sources for text in texts(path.read_text()))


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_has_every_message(message, known):
    assert message in known


def test_a_message_that_was_changed_is_not_found():
    found = texts('"""a: gone"""\nraise E(f"{a}: no {b!r} " f"there; give {c}")\nprint("x")')
    assert {"…: no … there; give …", "x"} <= found
    assert not any("gone" in text for text in found)


def test_every_part_of_the_page_has_messages():
    parts = PAGE.split("\n## ")[1:]
    assert len(parts) == 6 and all(re.search(r"^\| `", part, re.MULTILINE) for part in parts)
    assert 20 <= len(MESSAGES) <= 40
