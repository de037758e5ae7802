"""The directories of sockets on the real kernel: mounts, owners, clean-up. Attacks are in test_sockets_attacked.py."""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni.errors import CniError, SocketDirUnfit
from cni.host import mounts
from cni.host.files import make_directory
from tests.alone import alone, unshare_mounts
from tests.contract.pod_directory import (
    CONFIG,
    MOUNT,
    NAMES,
    OUTSIDE,
    PORT,
    SOCKET,
    VHOST,
    Host,
    child,
    connect,
    host_snapshot,
    listening,
    mounted,
)

PARALLEL = 50
SAFE_FLAGS = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | mounts.ST_NOSYMFOLLOW


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The mount.


@alone
def test_a_socket_that_the_application_makes_later_is_reached_through_the_mount():
    host = Host()
    host.prepared()
    with listening(host.volume / SOCKET):
        connect(MOUNT / SOCKET)


@alone
def test_a_planted_symlink_is_followed_by_the_directorys_path_and_not_by_the_mount():
    host = Host()
    host.prepared()
    (host.volume / SOCKET).symlink_to(OUTSIDE / "listener")
    connect(host.volume / SOCKET)
    with pytest.raises(OSError, match=f"Errno {errno.ELOOP}"):
        connect(MOUNT / SOCKET)


@alone
def test_nothing_in_the_mount_is_a_device_or_a_program():
    host = Host()
    host.prepared()
    assert os.statvfs(MOUNT).f_flag & SAFE_FLAGS == SAFE_FLAGS
    assert not os.statvfs(host.volume).f_flag & mounts.ST_NOSYMFOLLOW


@alone
def test_a_mount_in_a_shared_folder_comes_and_goes_in_a_container_that_gets_the_hosts_mounts():
    host = Host()
    subprocess.run(["mount", "--make-shared", "/run"], check=True)
    container = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert container.stdout is not None
    assert container.stdout.readline() == b"\n"
    there = Path(f"/proc/{container.pid}/root{MOUNT}")
    host.prepared()
    assert os.path.samestat(there.stat(), host.volume.stat())
    host.sockets.remove(host.directory, *NAMES)
    assert not there.exists()
    container.communicate(timeout=10)


@alone
def test_what_is_mounted_in_the_pods_directory_later_does_not_come_into_the_mount():
    host = Host()
    subprocess.run(["mount", "--make-shared", "/run"], check=True)
    (host.volume / "below").mkdir()
    host.prepared()
    subprocess.run(["mount", "--bind", str(OUTSIDE), str(host.volume / "below")], check=True)
    assert list((MOUNT / "below").iterdir()) == []


@alone
def test_where_nothing_is_mounted_nothing_is_taken_off_and_where_nothing_is_that_is_an_error():
    Host()
    assert not mounts.unmount(str(OUTSIDE))
    with pytest.raises(FileNotFoundError):
        mounts.unmount("/run/nowhere")


@alone
def test_in_a_run_that_follows_no_symlinks_itself_it_works_all_the_same():
    host = Host()
    subprocess.run(["mount", "-o", "remount,bind,nosymfollow", "/run"], check=True)
    for _ in range(2):
        host.sockets.prepare(host.made())
        assert len(mounted()) == 1
        host.sockets.remove(host.made(), *NAMES)
        host.sockets.remove(host.made(), *NAMES)
        assert mounted() == []
    assert list(host.volume.iterdir()) == []


# Prepare and remove.


@alone
def test_a_directory_of_ours_is_made_and_removed():
    host = Host()
    directory = host.made()
    host.sockets.prepare(directory)
    assert Path(directory.path).is_dir()
    with listening(Path(directory.path) / SOCKET):
        connect(MOUNT / SOCKET)
    host.sockets.write(directory, CONFIG, b"{}")
    host.sockets.remove(directory, *NAMES)
    assert not Path(directory.path).exists()
    assert list(VHOST.iterdir()) == []
    assert mounted() == []


@alone
def test_a_directory_of_the_pod_stays_with_all_that_is_not_ours():
    host = Host()
    host.prepared()
    others = [f"{SOCKET}0", f"{SOCKET}.tmp", f"{CONFIG}.tmp", "0123456789ab-net2", ".hidden", "file"]
    for name in others:
        (host.volume / name).write_text("")
    host.sockets.write(host.directory, CONFIG, b"{}")
    host.sockets.remove(host.directory, *NAMES)
    assert sorted(os.listdir(host.volume)) == sorted(others)


@alone
def test_prepare_and_remove_can_be_repeated():
    host = Host()
    host.sockets.prepare(host.made())
    host.sockets.prepare(host.made())
    assert [point for _root, point, _options in mounted()] == [str(MOUNT)]
    host.sockets.remove(host.made(), *NAMES)
    before = host_snapshot()
    host.sockets.remove(host.made(), *NAMES)
    assert host_snapshot() == before


@alone
def test_mounts_on_one_another_are_all_taken_off():
    host = Host()
    host.prepared()
    for _ in range(3):
        target = os.open(MOUNT, os.O_RDONLY)
        mounts.bind(target, target)
        os.close(target)
    assert len(mounted()) == 4
    host.sockets.remove(host.directory, *NAMES)
    assert mounted() == []
    assert list(VHOST.iterdir()) == []


@alone
def test_without_a_short_folder_nothing_is_mounted():
    host = Host()
    directory = host.made().replace(mount="")
    host.sockets.prepare(directory)
    assert mounted() == []
    host.sockets.write(directory, CONFIG, b"{}")
    assert host.sockets.differences(directory) == []
    host.sockets.remove(directory, *NAMES)
    assert list(host.volume.iterdir()) == []


@alone
def test_after_a_reboot_the_socket_and_the_directory_are_removed_without_the_mount():
    host = Host()
    directory = host.made()
    host.sockets.prepare(directory)
    host.sockets.write(directory, CONFIG, b"{}")
    mounts.unmount(str(MOUNT))
    MOUNT.rmdir()
    VHOST.rmdir()
    host.sockets.remove(directory, *NAMES)
    assert list(host.volume.iterdir()) == []
    assert not VHOST.exists()


@alone
def test_a_socket_that_cannot_be_removed_does_not_keep_the_mount():
    host = Host()
    directory = host.prepared()
    listening(MOUNT / SOCKET)
    subprocess.run(["mount", "-o", "remount,ro,nosymfollow", "--bind", str(MOUNT)], check=True)
    with pytest.raises(SocketDirUnfit, match="Read-only file system"):
        host.sockets.remove(directory, *NAMES)
    assert mounted() == []
    host.sockets.remove(directory, *NAMES)
    assert list(host.volume.iterdir()) == []


@alone
def test_removing_from_a_volume_that_is_gone_takes_off_the_mount():
    host = Host()
    host.prepared()
    host.volume.rmdir()
    host.sockets.remove(host.directory, *NAMES)
    assert mounted() == []
    assert list(VHOST.iterdir()) == []


@alone
def test_folders_that_lead_to_sockets_can_be_passed_but_not_listed_whatever_the_umask_is():
    host = Host()
    os.umask(0o077)
    root = "/run/new/sockets"
    host.sockets.prepare(host.directory.replace(root=root, path=f"{root}/{PORT}", made=True))
    assert [mode(path) for path in (VHOST, Path("/run/new"), Path(root))] == [0o711] * 3
    assert mode(Path(f"{root}/{PORT}")) == 0o755
    assert os.umask(0o022) == 0o077


@alone
def test_short_folders_are_not_made_where_others_can_write():
    host = Host()
    VHOST.mkdir(parents=True)
    VHOST.chmod(0o777)
    with pytest.raises(CniError, match=str(VHOST)):
        host.prepared()
    assert mounted() == []


@alone
def test_no_descriptor_stays_open():
    host = Host()

    def cycle() -> None:
        host.sockets.prepare(host.made())
        host.sockets.write(host.made(), CONFIG, b"{}")
        assert host.sockets.differences(host.made()) == []
        host.sockets.remove(host.made(), *NAMES)
        with pytest.raises(SocketDirUnfit):
            host.sockets.write(host.made(), CONFIG, b"{}")

    cycle()
    before = os.listdir("/proc/self/fd")
    cycle()
    assert os.listdir("/proc/self/fd") == before


# Owner, permissions, label.


def entries(path: Path, kind: str) -> list[tuple[int, int, int]]:
    """An access control list, decoded: tag, permissions, ID."""
    raw = os.getxattr(path, f"system.posix_acl_{kind}")
    assert struct.unpack_from("<I", raw) == (2,)
    return list(struct.iter_unpack("<HHI", raw[4:]))


NOBODY = 0xFFFFFFFF
LIST = [(1, 7, NOBODY), (2, 7, 107), (4, 5, NOBODY), (8, 6, 42), (16, 7, NOBODY), (32, 0, NOBODY)]


@alone
def test_owner_group_permissions_and_label_are_as_wanted():
    host = Host()
    host.directory = host.directory.replace(owner=107, group="42", mode=0o2770, selinux_label="u:r:t:s0")
    host.prepared()
    status = host.volume.stat()
    assert (status.st_uid, status.st_gid, mode(host.volume)) == (107, 42, 0o2770)
    assert os.getxattr(host.volume, "security.selinux") == b"u:r:t:s0\0"


@alone
def test_what_is_not_requested_stays():
    host = Host()
    os.chown(host.volume, 5, 6)
    host.volume.chmod(0o1700)
    host.prepared()
    status = host.volume.stat()
    assert (status.st_uid, status.st_gid, mode(host.volume)) == (5, 6, 0o1700)
    assert os.listxattr(host.volume) == []


@pytest.mark.parametrize("wanted", [None, 0o750])
@alone
def test_the_access_control_list_is_the_directorys_own_and_that_of_new_files_also_when_it_is_set_again(wanted):
    host = Host()
    host.volume.chmod(0o750)
    host.directory = host.directory.replace(mode=wanted, acl=("user:107:rwx", "group:42:rw-"))
    for _ in range(2):
        host.prepared()
        assert entries(host.volume, "access") == LIST
        assert entries(host.volume, "default") == LIST


# The kernel applies the umask to a socket's permissions before the list, and the list's mask is the group's bits.
@pytest.mark.parametrize(("umask", "connects"), [(0o007, True), (0o002, True), (0o022, False)])
@alone
def test_a_user_of_the_list_can_connect_if_the_applications_umask_leaves_the_group_its_write_permission(
    umask, connects
):
    host = Host()
    host.directory = host.directory.replace(mode=0o750, acl=("user:107:rwx",))
    make_directory("/run/barewire/lock")  # as the very first call does, for locks
    host.prepared()
    os.umask(umask)
    with listening(host.volume / SOCKET):
        assert connected_as(107) == connects
        assert not connected_as(108)


def connected_as(user: int) -> bool:
    """Whether that user can connect to the socket."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        try:
            connect(MOUNT / SOCKET)
        except PermissionError:
            os._exit(1)
        except OSError:
            os._exit(2)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status < 2
    return status == 0


@alone
def test_a_group_that_the_host_does_not_have_is_named():
    host = Host()
    host.directory = host.directory.replace(group="no-such-group")
    with pytest.raises(SocketDirUnfit, match="no-such-group"):
        host.prepared()
    assert mounted() == []


# The vswitch's view.


@contextmanager
def vswitchd(prepare=lambda: None, name="ovs-vswitchd", pidfile=True):
    """A process with the daemon's name, in which `prepare` is called. Yields its database's address."""
    ready, told = os.pipe()

    def run() -> None:
        Path("/proc/self/comm").write_text(name)
        prepare()
        os.write(told, b"ready")
        signal.pause()

    folder = Path("/run/openvswitch")
    folder.mkdir(exist_ok=True)
    with child(run) as pid:
        os.close(told)
        assert os.read(ready, 5) == b"ready"
        os.close(ready)
        if pidfile:
            (folder / "ovs-vswitchd.pid").write_text(f"{pid}\n")
        yield f"unix:{folder}/db.sock"


@alone
def test_a_daemon_in_our_namespace_sees_the_mount():
    host = Host()
    host.prepared()
    with vswitchd() as remote:
        host.sockets.require_visible(host.directory, remote)


@alone
def test_a_daemon_without_a_pidfile_is_found_by_its_name():
    host = Host()
    host.prepared()
    with vswitchd(pidfile=False) as remote:
        host.sockets.require_visible(host.directory, remote)


@alone
def test_a_daemon_that_gets_the_hosts_mounts_sees_the_mount():
    host = Host()
    subprocess.run(["mount", "--make-shared", "/run"], check=True)
    with vswitchd(lambda: unshare_mounts("slave")) as remote:
        host.prepared()
        host.sockets.require_visible(host.directory, remote)


@alone
def test_a_daemon_in_a_namespace_of_its_own_does_not_see_the_mount():
    host = Host()
    MOUNT.mkdir(parents=True)
    with vswitchd(unshare_mounts) as remote:
        host.prepared()
        with pytest.raises(SocketDirUnfit, match="something else there"):
            host.sockets.require_visible(host.directory, remote)


@alone
def test_a_daemon_that_sees_the_directory_by_a_mount_that_follows_symlinks_does_not_see_ours():
    host = Host()
    MOUNT.mkdir(parents=True)

    def with_a_mount_of_its_own() -> None:
        unshare_mounts()
        subprocess.run(["mount", "--bind", str(host.volume), str(MOUNT)], check=True)

    with vswitchd(with_a_mount_of_its_own) as remote:
        host.prepared()
        with pytest.raises(SocketDirUnfit, match="something else there"):
            host.sockets.require_visible(host.directory, remote)


@alone
def test_a_daemons_symlinks_lead_where_they_lead_for_the_daemon():
    host = Host()
    jail = Path("/run/jail")
    (jail / "run" / "barewire").mkdir(parents=True)
    (jail / "run" / "barewire" / "vhost").symlink_to(VHOST)
    with vswitchd(lambda: os.chroot(jail)) as remote:
        host.prepared()
        with pytest.raises(SocketDirUnfit, match="does not see"):
            host.sockets.require_visible(host.directory, remote)


@alone
def test_a_pidfile_that_names_another_process_proves_nothing():
    host = Host()
    with vswitchd(unshare_mounts, name="sleep") as remote:
        host.prepared()
        with pytest.raises(SocketDirUnfit, match="does not see"):
            host.sockets.require_visible(host.directory, remote)
    with vswitchd(name="sleep") as remote, pytest.raises(SocketDirUnfit, match="does not see"):
        host.sockets.require_visible(host.directory, remote)


@alone
def test_without_a_daemon_the_error_says_so():
    host = Host()
    host.prepared()
    with pytest.raises(SocketDirUnfit, match="ovs-vswitchd does not see") as refused:
        host.sockets.require_visible(host.directory, "unix:/run/nowhere/db.sock")
    assert "allowUnsafeSocketDir" in refused.value.hint


# CHECK and GC.


@alone
def test_check_finds_nothing_while_the_mount_leads_to_the_directory():
    host = Host()
    assert host.sockets.differences(host.prepared()) == []


def replaced(host: Host) -> None:
    host.volume.rename(host.volume.with_name("old"))
    host.volume.mkdir()


def unmounted(_host: Host) -> None:
    mounts.unmount(str(MOUNT))


def covered(host: Host) -> None:
    subprocess.run(["mount", "--bind", str(host.volume), str(MOUNT)], check=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced, f"{MOUNT} is not the mount of"),
        (unmounted, f"{MOUNT} is not the mount of"),
        (covered, f"{MOUNT} is not the mount of"),
        (lambda host: host.volume.rmdir(), "open 'volume'"),
    ],
)
@alone
def test_check_reports_when_the_vswitch_does_not_reach_the_directory_any_more(change, told):
    host = Host()
    host.prepared()
    change(host)
    (difference,) = host.sockets.differences(host.directory)
    assert told in difference


@alone
def test_short_folders_are_listed_and_taken_away_with_the_sockets_that_they_lead_to():
    host = Host()
    assert host.sockets.folders(str(VHOST)) == []
    host.prepared()
    (host.volume / "other").write_text("")
    with listening(host.volume / SOCKET):
        assert host.sockets.folders(str(VHOST)) == [PORT]
        host.sockets.remove_folder(str(MOUNT), SOCKET, "")
    assert os.listdir(host.volume) == ["other"]
    assert host.sockets.folders(str(VHOST)) == []
    assert mounted() == []


def a_file(path: Path) -> None:
    path.write_text("")


def a_folder_with_content(path: Path) -> None:
    path.mkdir()
    (path / SOCKET).write_text("")


def an_empty_folder_for_all(path: Path) -> None:
    path.mkdir(mode=0o755)


def a_mount(path: Path) -> None:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], check=True)
    (path / SOCKET).write_text("")


def a_symlink(path: Path) -> None:
    path.symlink_to(OUTSIDE)


@pytest.mark.parametrize("make", [a_file, a_folder_with_content, an_empty_folder_for_all, a_mount, a_symlink])
@alone
def test_what_is_beside_the_short_folders_and_not_ours_is_left(make):
    host = Host()
    configured = Path("/run/vhost")
    configured.mkdir()
    make(configured / "foreign")
    before = host_snapshot()
    host.sockets.remove_folder(str(configured / "foreign"), SOCKET, "")
    assert host_snapshot() == before


@pytest.mark.parametrize("make", [a_file, a_folder_with_content, a_mount, a_symlink])
@alone
def test_what_is_in_our_own_place_and_not_empty_is_left_without_an_error(make):
    host = Host()
    VHOST.mkdir(parents=True)
    make(VHOST / "foreign")
    before = host_snapshot()
    host.sockets.remove_folder(str(VHOST / "foreign"), SOCKET, "")
    assert host_snapshot() == before


@pytest.mark.parametrize("place", [str(VHOST), "/run/vhost"])
@alone
def test_a_short_folder_that_was_never_mounted_on_is_removed(place):
    host = Host()
    make_directory(f"{place}/{PORT}")
    host.sockets.remove_folder(f"{place}/{PORT}", SOCKET, "")
    assert os.listdir(place) == []
    host.sockets.remove_folder(f"{place}/gone", SOCKET, "")
