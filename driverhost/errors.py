"""The failures of the driver host, each with a hint that contains the remedy."""

from __future__ import annotations

import traceback


class DriverHostError(Exception):
    """A failure that is reported to a person or to an application: a one-line message, and a hint."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class DeviceUnavailable(DriverHostError):
    """The device does not exist, has no VFIO driver, or another process has it open."""


class GroupNotViable(DriverHostError):
    """A member of the device's IOMMU group has a driver that does DMA for somebody else."""


class OutOfDmaMemory(DriverHostError):
    """Memory for DMA cannot be pinned or mapped."""


class DeviceFailed(DriverHostError):
    """The device does not do what its driver requires: a reset or an answer is missing after the time limit."""


class NoDriver(DriverHostError):
    """No driver that is installed knows the device."""


class Unsupported(DriverHostError):
    """The device, or the driver, does not have the function."""


def described(error: Exception) -> str:
    """One line: our message with its hint, or an unexpected error with the place where it was raised."""
    if isinstance(error, DriverHostError):
        return f"{error.message}; {error.hint}" if error.hint else error.message
    place = traceback.extract_tb(error.__traceback__)[-1:]
    return f"unexpected {type(error).__name__}: {error}" + "".join(f" ({at.filename}:{at.lineno})" for at in place)
