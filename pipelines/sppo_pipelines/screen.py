"""Standard output as a terminal that is drawn anew, and how times are written on it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sppo.process.output import printable, terminal


class Screen(Console):
    """Standard output, where a terminal is steered to draw anew, but not by what others wrote."""

    def __init__(self) -> None:
        super().__init__(file=terminal())

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of what is shown."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
