"""Writes that the kernel does not finish. A pipe without a reader represents its file."""

from __future__ import annotations

import os
import threading
import time

import pytest

from cni.errors import KernelRefused, TryAgainLater
from deviceplugin.kernel_write import write


def soon():
    return time.monotonic() + 0.05


def writers(path):
    return [thread for thread in threading.enumerate() if thread.name == f"write {path}"]


def test_a_write_that_hangs_is_not_begun_again_until_it_has_ended(tmp_path):
    """Each round of the plugin left another thread in the kernel."""
    path = str(tmp_path / "reset")
    os.mkfifo(path)
    for _ in range(3):
        with pytest.raises(TryAgainLater, match=r"in time|not finished the last one"):
            write(path, "1", soon())
    [writer] = writers(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer.join(20)
        write(path, "1", time.monotonic() + 20)
        assert os.read(reader, 10) == b"11"
    finally:
        os.close(reader)


def test_another_devices_write_to_the_same_file_does_not_wait_for_one_that_hangs(tmp_path):
    path = str(tmp_path / "drivers_probe")
    os.mkfifo(path)
    for device in ("0000:01:00.0", "0000:02:00.0"):
        with pytest.raises(TryAgainLater, match="in time"):
            write(path, device, soon())
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def test_a_refusal_is_reported_with_its_errno(tmp_path):
    with pytest.raises(KernelRefused, match="Is a directory"):
        write(str(tmp_path), "1", soon() + 20)
