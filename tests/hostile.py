"""Values that nobody honest writes, for every place in which a name or a path is read from what others can write."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UP = "/.." * 24
"""More than any folder of the tests is deep."""


def climbing(victim: Path | str) -> tuple[str, ...]:
    """Names that lead to the file from wherever they are put into a path."""
    path = str(victim)
    below = path.removeprefix("/")
    return (path, f"{UP}{path}", f"..{UP}{path}", f"x{UP}{path}", f"a:b{UP}{path}", f"../{below}", f"./{UP}{path}")


ODD = (
    "", ".", "..", "/", "//", "../..", "a/b", "a\0b", "\0", "a b", "a\nb", "a\r\nb", "a\x1b[2Jb", "%d", "-", "-rf", "--", "_x",
    ".x", "*", "~", "$HOME", "a:b", "a:b:c", "\u202e", "é", "\ud800", "x" * 16, "x" * 300, "x.tmp", "x.damaged", "x.1.tmp",
    "x.json", "x.json.damaged", ".x.1.tmp",
)  # fmt: skip
"""Names that are none, are something else's, or look like our own temporary names."""

WRONG: tuple[object, ...] = (None, True, 0, -1, 1 << 70, 1.5, [], [[]], {}, {"a": []}, ["x"])
"""Values of other types than a text's."""
