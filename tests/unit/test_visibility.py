"""Whether ovs-vswitchd sees a folder: which process is the daemon, and what is refused. No mounts, so no root.

tests/contract/test_sockets.py tests a daemon in another mount namespace.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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


STATUS = "Name:\tovs-vswitchd\nUid:\t991\t{uid}\t991\t991\nCapEff:\t{capabilities:016x}\n"
NET_ADMIN, DAC_OVERRIDE = 1 << 12, 1 << 1


@pytest.mark.parametrize(
    ("uid", "capabilities", "user"),
    [(991, NET_ADMIN, 991), (0, NET_ADMIN, 0), (991, NET_ADMIN | DAC_OVERRIDE, None), (0, (1 << 41) - 1, None)],
)
def test_a_daemon_to_which_file_permissions_apply_is_a_restricted_user(tmp_path, monkeypatch, uid, capabilities, user):
    with daemon(tmp_path) as pid:
        (tmp_path / "ovs-vswitchd.pid").write_text(pid)
        found = {f"/proc/{pid}/status": STATUS.format(uid=uid, capabilities=capabilities).encode()}
        monkeypatch.setattr(visibility, "read_small", lambda path: found.get(path, b"ovs-vswitchd\n"))
        assert visibility.restricted_user(remote(tmp_path)) == user


def test_a_process_that_only_has_the_daemons_name_is_no_user_to_give_access_to(tmp_path, monkeypatch):
    with daemon(tmp_path) as pid:
        found = {f"/proc/{pid}/status": STATUS.format(uid=991, capabilities=0).encode()}
        monkeypatch.setattr(visibility, "read_small", lambda path: found.get(path, b"ovs-vswitchd\n"))
        assert visibility.restricted_user(remote(tmp_path)) is None
        assert visibility.restricted_user("tcp:127.0.0.1:6640") is None


def test_a_daemon_that_ends_meanwhile_is_no_user(tmp_path, monkeypatch):
    monkeypatch.setattr(visibility, "_by_pidfile", lambda _remote: "4194305")
    assert visibility.restricted_user(remote(tmp_path)) is None
