"""The shape of a subcommand of `barewire`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.value import Value

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

FINE, FOUND = 0, 1
"""Exit codes: nothing to do; something is wrong, or could not be done. Wrong usage is argparse's 2."""


class Command(Value):
    """`summary` is its line in the list of subcommands, `description` the text of its own help.

    `configure` adds its options, and `run` carries it out and returns the exit code; it may raise `CniError`.
    """

    name: str
    summary: str
    description: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
