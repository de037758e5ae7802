"""Syntax trees of the project's sources, walked without their expressions, of which a tree mostly consists."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements of a module or of a statement, including those in functions, handlers and cases."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, ()):
            yield child
            yield from statements(child)
