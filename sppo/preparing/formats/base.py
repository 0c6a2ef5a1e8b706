"""What a prompt format is: how a row of the prompts' source holds the user's message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Format(Protocol):
    """A module of this folder."""

    EXAMPLE: Any
    """What the column holds, for messages: a value as JSON has them."""

    def text(self, row: Mapping[str, Any], column: str) -> str:
        """The prompt's text.

        Args:
            row: a row of the source, which has the column; of a Parquet file it has besides only the columns
                that docs/formats.md names.
            column: `prepare.prompt_column`.

        Raises:
            ValueError: saying what is wrong with the column, such as "is not text".
        """
        ...
