"""Runs tests that mount file systems in processes of their own, each with its own mount namespace.

So none of their mounts can outlive them.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import subprocess
import traceback
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from cni.host import mounts

if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNS = 0x20000
SECONDS = 120
_END = b"\0"


def unshare_mounts(propagation: str = "private") -> None:
    """Gives this process its own mount namespace; `propagation` is the suffix of a `mount --make-r...` option."""
    mounts.call("unshare", CLONE_NEWNS)
    subprocess.run(["mount", f"--make-r{propagation}", "/"], check=True)


def alone(test: Callable[..., None]) -> Callable[..., None]:
    """Decorates a test that runs in a child, which is killed with all its children afterwards, or after `SECONDS`.

    If the test fails, its traceback is the message of the failure.
    """

    @functools.wraps(test)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        theirs, ours = os.pipe()
        with warnings.catch_warnings():
            # A fixture of an earlier test may have left a thread. The child runs only this test, which does not need
            # that thread.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(theirs)
            _run(ours, lambda: test(*args, **kwargs))
        os.close(ours)
        try:
            text = _told(theirs)
        finally:
            os.close(theirs)
            with suppress(ProcessLookupError):  # it ended before it led a group
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if text:
            pytest.fail(text, pytrace=False)

    return wrapped


def _run(pipe: int, test: Callable[[], None]) -> None:
    try:
        os.setsid()
        unshare_mounts()
        test()
    except BaseException:
        os.write(pipe, traceback.format_exc().encode()[-60_000:])
    finally:
        os.write(pipe, _END)
        signal.pause()  # waits until the parent kills this process and its children


def _told(pipe: int) -> str:
    """The traceback that the child sent; empty if the test passed."""
    told = b""
    while not told.endswith(_END):
        if not select.select([pipe], [], [], SECONDS)[0]:
            return f"still running after {SECONDS} s"
        part = os.read(pipe, 65536)
        if not part:
            return f"its process died: {told.decode()}"
        told += part
    return told.removesuffix(_END).decode()
