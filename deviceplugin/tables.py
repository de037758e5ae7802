"""Tables as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def aligned(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """The rows below their headings, in columns. An empty cell is a dash."""
    lines = [head, *(tuple(cell or "-" for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
