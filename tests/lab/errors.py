"""Failures of the lab itself, as opposed to those of the code under test."""

from __future__ import annotations

TAIL = 3000


class LabError(Exception):
    """The lab does not work; `hint` is the remedy."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  what to do: {hint}" if hint else message)


class VmFailed(LabError):
    """The virtual machine did not start, or has ended. Contains the end of its console, and how QEMU ended."""

    def __init__(self, message: str, console: str) -> None:
        super().__init__(f"{message}\n--- console\n{console[-TAIL:]}")


class VmGone(VmFailed):
    """QEMU, or the agent in the guest, ended unexpectedly."""


class VmStuck(VmFailed):
    """The machine did not start in time."""


class GuestFailed(LabError):
    """A command in the guest ended with a code other than 0. Contains its output."""

    def __init__(self, what: str, rc: int, out: str, err: str) -> None:
        super().__init__(f"{what} ended with {rc}\n--- stderr\n{err[-TAIL:]}\n--- stdout\n{out[-TAIL:]}")
        self.rc, self.out, self.err = rc, out, err


class GuestTimeout(LabError):
    """A command in the guest did not end in time, and was killed. Contains its output."""

    def __init__(self, what: str, seconds: float, out: str, err: str) -> None:
        super().__init__(f"{what} did not end in {seconds:g} s\n--- stderr\n{err[-TAIL:]}\n--- stdout\n{out[-TAIL:]}")
        self.out, self.err = out, err
