"""The template environments: whatever is put into a page is escaped, unless it is marked as markup."""

from __future__ import annotations

import html
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_STRUCTURAL = re.compile(r"[\\`*_{}\[\]()#|!~$]|:(?=//)")


def html_environment() -> Environment:
    """Templates of HTML: autoescaped."""
    return Environment(
        loader=PackageLoader("sppo.reporting.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def markdown_environment() -> Environment:
    """Templates of Markdown: every value goes through `escape_markdown`; the filter `code` makes a code span."""
    environment = Environment(
        loader=PackageLoader("sppo.reporting.report"),
        autoescape=False,
        finalize=escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    environment.filters["fenced"] = fenced
    environment.filters["clip"] = clip
    return environment


def escape_markdown(value: object) -> str:
    """A value as one line of literal text, in a paragraph or a table cell.

    Angle brackets become entities, so that no HTML and no autolink is left; what Markdown would read as structure gets
    a backslash (CommonMark 0.31, section 2.4; GitHub Flavored Markdown, section 4.10, for the pipe).
    """
    if isinstance(value, Markup):
        return value
    return _STRUCTURAL.sub(r"\\\g<0>", html.escape(" ".join(str(value).split()), quote=False))


def code(value: object) -> Markup:
    """A name or path as a code span, whose text nothing can end early; not for table cells."""
    return Markup("`{}`").format(Markup(" ".join(str(value).replace("`", "'").split())))


def fenced(text: str, language: str) -> Markup:
    """A code block whose fence is longer than any in the text, so that nothing ends it early (CommonMark 0.31, 4.5)."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup("{0}{1}\n{2}\n{0}").format(fence, language, Markup(text.rstrip("\n")))


def clip(value: str, length: int) -> str:
    """The beginning of a long text, with an ellipsis where something is left out."""
    return value if len(value) <= length else value[: length - 1].rstrip() + "…"
