"""Atomic files and locks with a time limit on the real file system."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import threading
import time

import pytest

from cni.errors import IoFailure, TryAgainLater
from cni.host import files


def test_a_written_file_is_private_and_whole(tmp_path):
    path = str(tmp_path / "record")
    files.write_file(path, b"old")
    files.write_file(path, b"new")
    assert files.read_file(path) == b"new"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path) == ["record"]


def test_a_missing_file_reads_as_none(tmp_path):
    assert files.read_file(str(tmp_path / "nothing")) is None


def test_a_small_read_of_a_fifo_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pidfile")
    seen = []
    looking = threading.Thread(target=lambda: seen.append(files.read_small(str(tmp_path / "pidfile"))), daemon=True)
    looking.start()
    looking.join(5)
    assert seen == [b""]


def test_create_leaves_a_present_file_alone(tmp_path):
    path = str(tmp_path / "record")
    assert files.create_file(path, b"first")
    assert not files.create_file(path, b"second")
    assert files.read_file(path) == b"first"
    assert os.listdir(tmp_path) == ["record"]


@pytest.fixture
def full_disk(tmp_path):
    """A file system of two pages, one of which is free."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_the_old_content_and_no_litter(full_disk):
    path = str(full_disk / "record")
    files.write_file(path, b"old")
    with pytest.raises(IoFailure, match="No space left"):
        files.write_file(path, b"x" * 20_000)
    with pytest.raises(IoFailure, match="No space left"):
        files.create_file(str(full_disk / "other"), b"x" * 20_000)
    assert files.read_file(path) == b"old"
    assert os.listdir(full_disk) == ["record"]


def test_writing_below_a_file_is_an_error_that_names_the_path(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IoFailure, match="file/record"):
        files.write_file(str(tmp_path / "file" / "record"), b"")
    with pytest.raises(IoFailure, match="file/directory"):
        files.make_directory(str(tmp_path / "file" / "directory"))


def test_a_symlink_is_neither_read_nor_locked(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(IoFailure):
        files.read_file(str(tmp_path / "link"))
    with pytest.raises(IoFailure), files.Lock(str(tmp_path / "link"), "device"):
        pass


def test_a_held_lock_is_awaited_for_its_bound_and_the_error_says_what_is_locked(tmp_path):
    path = str(tmp_path / "lock")
    with files.Lock(path, "0000:01:10.0"):
        start = time.monotonic()
        with pytest.raises(TryAgainLater, match=r"0000:01:10\.0 is locked"), files.Lock(path, "0000:01:10.0", 0.05):
            pass
        assert time.monotonic() - start >= 0.05


def test_a_lock_is_had_as_soon_as_it_is_free(tmp_path):
    path = str(tmp_path / "lock")
    held = files.Lock(path, "device")
    held.acquire()
    taken = threading.Event()

    def take() -> None:
        with files.Lock(path, "device"):
            taken.set()

    waiter = threading.Thread(target=take)
    waiter.start()
    assert not taken.is_set()
    held.release()
    waiter.join(10)
    assert taken.is_set()


def test_a_lock_is_freed_after_an_exception(tmp_path):
    path = str(tmp_path / "lock")
    with pytest.raises(RuntimeError), files.Lock(path, "device"):
        raise RuntimeError
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_fifo_and_a_device_are_no_files_and_hold_no_call(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    for name in ("fifo", "device"):
        with pytest.raises(IoFailure, match="not a regular file"):
            files.read_file(str(tmp_path / name))
        assert files.peek(str(tmp_path / name)) == b""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert files.peek(str(tmp_path / "file")) == b"content"
    assert files.peek(str(tmp_path / "link")) == b""


def test_a_file_of_the_kernel_is_read_whole():
    assert len(files.read_file("/proc/sys/kernel/random/boot_id") or b"") == 37
