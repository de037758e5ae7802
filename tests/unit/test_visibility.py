"""Whether ovs-vswitchd sees a folder: which process is the daemon, and what is refused. No mounts, so no root.

tests/contract/test_sockets.py tests a daemon in another mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from cni.errors import SocketDirUnfit
from cni.userspace.sockets import visibility


@contextmanager
def daemon(folder: Path, name: str = "ovs-vswitchd") -> Iterator[str]:
    """A process with the daemon's name; yields its ID."""
    program = folder / name
    program.symlink_to(shutil.which("sleep") or "/bin/sleep")
    process = subprocess.Popen([str(program), "infinity"])
    try:
        yield str(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def none_elsewhere(monkeypatch) -> None:
    """Hides an Open vSwitch on the machine that runs the tests."""
    monkeypatch.setattr(visibility, "pids", list)


def remote(folder: Path) -> str:
    return f"unix:{folder}/db.sock"


def test_a_daemon_that_wrote_its_pidfile_beside_the_socket_sees_our_folder(tmp_path, none_elsewhere):
    with daemon(tmp_path) as pid:
        (tmp_path / "ovs-vswitchd.pid").write_text(f"{pid}\n")
        visibility.require_visible(str(tmp_path), remote(tmp_path))


@pytest.mark.parametrize("address", ["unix:{}/db.sock", "tcp:127.0.0.1:6640"])
def test_a_daemon_without_a_pidfile_is_found_by_its_name(tmp_path, address):
    with daemon(tmp_path):
        visibility.require_visible(str(tmp_path), address.format(tmp_path))


@pytest.mark.parametrize("text", ["", "no number", "{pid} more", "-1", "99999999"])
def test_a_pidfile_that_names_no_daemon_proves_nothing(tmp_path, text, none_elsewhere):
    with daemon(tmp_path) as pid:
        (tmp_path / "ovs-vswitchd.pid").write_text(text.format(pid=pid))
        with pytest.raises(SocketDirUnfit, match="no such process is seen here"):
            visibility.require_visible(str(tmp_path), remote(tmp_path))


def test_a_pidfile_of_another_program_proves_nothing(tmp_path, none_elsewhere):
    with daemon(tmp_path, "sleep") as pid:
        (tmp_path / "ovs-vswitchd.pid").write_text(pid)
        with pytest.raises(SocketDirUnfit, match="does not see") as refused:
            visibility.require_visible(str(tmp_path), remote(tmp_path))
    assert "mountPropagation" in refused.value.hint
    assert "allowUnsafeSocketDir" in refused.value.hint


def test_a_daemon_that_has_something_else_there_is_named(tmp_path, monkeypatch, none_elsewhere):
    with daemon(tmp_path) as pid:
        (tmp_path / "ovs-vswitchd.pid").write_text(pid)
        # As if one of our mounts were on the folder here.
        monkeypatch.setattr("cni.host.hostmounts.identity", lambda _folder: "another")
        with pytest.raises(SocketDirUnfit, match=f"process {pid} has something else there"):
            visibility.require_visible(str(tmp_path), remote(tmp_path))


def test_a_daemon_that_ends_meanwhile_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(visibility, "_vswitchds", lambda _remote: ["4194305"])
    with pytest.raises(SocketDirUnfit, match="process 4194305: No such file or directory"):
        visibility.require_visible(str(tmp_path), remote(tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SocketDirUnfit, match=r"cannot look at .*nowhere: No such file"):
        visibility.require_visible(str(tmp_path / "nowhere"), remote(tmp_path))


HOLD = """
import fcntl, os, sys
file, user = sys.argv[1], int(sys.argv[2])
if user:
    os.setgid(user)
    os.setuid(user)
with open(file, "r+") as pidfile:
    fcntl.lockf(pidfile, fcntl.LOCK_EX)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""
"""Locks the pidfile, as ovs-vswitchd does, until its input ends."""
USER = 991
NET_ADMIN, DAC_OVERRIDE = 1 << 12, 1 << 1
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can pass, with a pidfile."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "ovs-vswitchd.pid").write_text("1\n")
        yield Path(folder)


@contextmanager
def locking(folder: Path, user: int = 0, name: str = "ovs-vswitchd", within: tuple[str, ...] = ()) -> Iterator[str]:
    """A process of the user with a lock on the pidfile, which is then the user's; yields the process's ID."""
    program, file = folder / name, folder / "ovs-vswitchd.pid"
    program.symlink_to(os.path.realpath(sys.executable))
    if user:
        os.chown(file, user, user)
    argv = [*within, str(program), "-S", "-c", HOLD, str(file), str(user)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=30)


@as_root
@pytest.mark.parametrize("number", ["1", "", "no number"])
def test_the_user_is_that_of_the_daemon_that_has_locked_the_pidfile_whatever_number_is_in_it(folder, number):
    """A daemon in a container writes the container's number."""
    (folder / "ovs-vswitchd.pid").write_text(number)
    with locking(folder, USER):
        assert visibility.restricted_user(remote(folder)) == USER


@as_root
def test_no_restricted_user_is_found_if_the_daemon_is_root(folder):
    with locking(folder):
        assert visibility.restricted_user(remote(folder)) is None


@as_root
def test_capabilities_of_a_user_namespace_are_not_valid_for_the_hosts_files(folder):
    with locking(folder, within=("unshare", "--user", "--map-root-user")):
        assert visibility.restricted_user(remote(folder)) == 0


@pytest.mark.parametrize(
    ("uid", "capabilities", "user"),
    [(USER, NET_ADMIN, USER), (0, NET_ADMIN, 0), (USER, NET_ADMIN | DAC_OVERRIDE, None), (0, (1 << 41) - 1, None)],
)
def test_a_daemon_to_which_file_permissions_apply_is_a_restricted_user(folder, monkeypatch, uid, capabilities, user):
    text = f"Name:\tovs-vswitchd\nUid:\t991\t{uid}\t991\t991\nGid:\t5\t5\t5\t5\nCapEff:\t{capabilities:016x}\n"
    read: list[str] = []

    def status(path: str) -> bytes:
        read.append(path)
        return text.encode()

    monkeypatch.setattr(visibility, "read_small", status)
    monkeypatch.setattr(visibility, "_belongs", lambda *_look: True)
    with locking(folder) as pid:
        assert visibility.restricted_user(remote(folder)) == user
    assert read == [f"/proc/{pid}/status"], "all fields are of the same moment"


@as_root
@pytest.mark.parametrize("is_locked", [False, True])
def test_a_process_with_the_daemons_name_and_a_number_in_a_pidfile_without_its_lock_is_no_user(folder, is_locked):
    """The daemon was killed, and its number used again."""
    (folder / "other").mkdir()
    (folder / "other/ovs-vswitchd.pid").touch()
    with locking(folder / "other", USER) as pid, locking(folder, 0, "ovs-imposter") if is_locked else nullcontext():
        (folder / "ovs-vswitchd.pid").write_text(pid)
        with pytest.raises(SocketDirUnfit, match="cannot determine the user of ovs-vswitchd"):
            visibility.restricted_user(remote(folder))


@as_root
@pytest.mark.parametrize("place", ["", "ovs-vswitchd.pid"])
@pytest.mark.parametrize(("owner", "mode"), [(USER + 1, 0o755), (USER, 0o777), (USER, 0o775)])
def test_a_pidfile_that_other_users_can_write_or_replace_proves_no_user(folder, place, owner, mode):
    with locking(folder, USER):
        os.chown(folder / place, owner, USER + 1)
        os.chmod(folder / place, mode)
        with pytest.raises(SocketDirUnfit, match=f"other than root and {USER} may write"):
            visibility.restricted_user(remote(folder))


@pytest.mark.parametrize("kind", ["missing", "symlink", "fifo", "unlocked", "tcp"])
def test_a_daemon_without_a_pidfile_is_no_user_and_the_reason_is_named(folder, kind):
    file = folder / "ovs-vswitchd.pid"
    if kind != "unlocked":
        file.unlink()
    if kind == "symlink":
        (folder / "real").touch()
        file.symlink_to(folder / "real")
    if kind == "fifo":
        os.mkfifo(file)
    address = "tcp:127.0.0.1:6640" if kind == "tcp" else remote(folder)
    reason = {"tcp": "no socket with a pidfile", "unlocked": "no process here has locked"}.get(kind, str(file))
    with pytest.raises(SocketDirUnfit, match=reason):
        visibility.restricted_user(address)
