"""The interface of a subcommand of `barewire`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.value import Value

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

FINE, FOUND = 0, 1
"""Exit codes: no findings; findings or failures. argparse exits with 2 for wrong usage."""


class Command(Value):
    """`summary` is its line in the list of subcommands, `description` the text of its own help.

    `configure` adds its options, and `run` executes it and returns the exit code; it may raise `CniError`.
    """

    name: str
    summary: str
    description: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
