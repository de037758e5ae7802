"""Clean-up idioms: the cause stays the cause, and every step runs."""

from __future__ import annotations

import pytest

from cni.errors import CniError, TryAgainLater
from cni.rollback import on_failure, run_all


def refuse(text: str):
    raise ValueError(text)


def test_undo_does_not_run_after_success():
    undone: list[str] = []
    with on_failure(undone.append, "undone"):
        pass
    assert undone == []


def test_undo_runs_after_failure_and_the_cause_comes_through():
    undone: list[str] = []
    with pytest.raises(KeyError), on_failure(undone.append, "undone"):
        raise KeyError
    assert undone == ["undone"]


def test_a_failing_undo_becomes_a_note_on_the_cause():
    with pytest.raises(CniError) as caught, on_failure(refuse, "clean-up broke"):
        raise TryAgainLater("the cause", hint="the hint")
    assert caught.value.msg == "the cause"
    assert caught.value.details == "the hint\nclean-up incomplete: clean-up broke"


def test_undo_runs_when_the_process_is_signalled_to_stop():
    undone: list[str] = []
    with pytest.raises(KeyboardInterrupt), on_failure(undone.append, "undone"):
        raise KeyboardInterrupt
    assert undone == ["undone"]


def test_every_step_runs_and_the_first_failure_is_raised_with_the_others_as_notes():
    done = []
    with pytest.raises(ValueError, match="one") as caught:
        run_all(lambda: refuse("one"), lambda: done.append("two"), lambda: refuse("three"), lambda: done.append("four"))
    assert done == ["two", "four"]
    assert (str(caught.value), caught.value.__notes__) == ("one", ["three"])
