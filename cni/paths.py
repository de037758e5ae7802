"""Rules for paths as text, without access to the file system. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def is_plain_path(text: str) -> bool:
    """Whether the text is an absolute path without `.`, `..` and NUL."""
    return text.startswith("/") and "\0" not in text and not {".", ".."} & set(text.split("/"))


def is_below(path: str, roots: Iterable[str]) -> bool:
    """Whether a plain path is one of the roots, or in one of them. Links are not resolved."""
    return any(f"{path.rstrip('/')}/".startswith(f"{root.rstrip('/')}/") for root in roots)
