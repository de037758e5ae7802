"""Idioms of clean-up: undo on failure without hiding the cause, and run every step even if one fails."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def bound(action: Callable[..., object], *arguments: object) -> Callable[[], object]:
    """The action with its arguments, as a step: a lambda in a loop would see the last values of the loop."""
    return lambda: action(*arguments)


class on_failure:  # noqa: N801 - reads as a statement: `with on_failure(remove, attachment):`
    """Calls `undo(*args)` if the body raises, and raises the body's error.

    A failing undo never replaces that error: it is added as a note.
    """

    def __init__(self, undo: Callable[..., object], *args: object) -> None:
        self._undo = undo
        self._args = args

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            return
        try:
            self._undo(*self._args)
        except Exception as failure:  # noqa: BLE001 - whatever failed, the cause must reach the caller
            error.add_note(f"clean-up incomplete: {failure}")


def run_all(*steps: Callable[[], object]) -> None:
    """Runs every step even after a failure, then raises the first failure with the others as notes."""
    first: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as failure:  # noqa: BLE001 - the next step must run whatever failed in this one
            if first is None:
                first = failure
            else:
                first.add_note(str(failure))
    if first is not None:
        raise first
