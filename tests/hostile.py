"""Hostile values for every field in which a name or a path is read that others can write."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UP = "/.." * 24
"""More levels than any folder of the tests has."""


def climbing(victim: Path | str) -> tuple[str, ...]:
    """Names that lead to the file from any folder."""
    path = str(victim)
    below = path.removeprefix("/")
    return (path, f"{UP}{path}", f"..{UP}{path}", f"x{UP}{path}", f"a:b{UP}{path}", f"../{below}", f"./{UP}{path}")


ODD = (
    "", ".", "..", "/", "//", "../..", "a/b", "a\0b", "\0", "a b", "a\nb", "a\r\nb", "a\x1b[2Jb", "%d", "-", "-rf", "--", "_x",
    ".x", "*", "~", "$HOME", "a:b", "a:b:c", "\u202e", "é", "\ud800", "x" * 16, "x" * 300, "x.tmp", "x.damaged", "x.1.tmp",
    "x.json", "x.json.damaged", ".x.1.tmp",
)  # fmt: skip
"""Names that are invalid, belong to others, or look like our own temporary names."""

WRONG: tuple[object, ...] = (None, True, 0, -1, 1 << 70, 1.5, [], [[]], {}, {"a": []}, ["x"])
"""Values of types other than text."""
