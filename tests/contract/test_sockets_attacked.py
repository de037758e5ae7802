"""A pod attacks the host with links, swapped directories and unusual names.

Whatever it does, nothing outside its directory is created, changed, removed or connected to, and its DEL ends.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cni.errors import SocketDirUnfit
from cni.userspace.sockets.directory import SocketDirectory, own
from tests.alone import alone
from tests.contract.pod_directory import (
    CONFIG,
    MOUNT,
    NAMES,
    OUTSIDE,
    PORT,
    SOCKET,
    VHOST,
    VOLUMES,
    Host,
    child,
    connect,
    endlessly,
    exchange,
    host_snapshot,
    listening,
    mounted,
    tree,
)

ROUNDS = 300
RACE_SECONDS = 60.0
PARALLEL = 50


# Something else in place of the directory.


def a_symlink(path: Path) -> None:
    path.symlink_to(OUTSIDE)


def a_dangling_symlink(path: Path) -> None:
    path.symlink_to("/run/nowhere/at/all")


def a_symlink_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(1, 0))


def a_file(path: Path) -> None:
    path.write_text("the pod's")


def a_hard_link(path: Path) -> None:
    path.hardlink_to(OUTSIDE / SOCKET)


def a_file_of_another_owner(path: Path) -> None:
    path.write_text("the pod's")
    os.chown(path, 1000, 1000)


def a_socket(path: Path) -> None:
    listening(path).close()


NO_FOLDERS = [a_symlink, a_dangling_symlink, a_symlink_to_itself, a_fifo, a_device, a_file, a_hard_link]


@pytest.mark.parametrize("plant", NO_FOLDERS)
@pytest.mark.parametrize("place", ["volume", "its parent"])
@alone
def test_what_is_no_folder_is_refused_in_the_place_of_a_folder(plant, place):
    host = Host()
    replaced = host.volume if place == "volume" else host.volume.parent
    replaced.rename("/run/aside")
    plant(replaced)
    before = host_snapshot()
    with pytest.raises(SocketDirUnfit, match=f"open '{replaced.name}' in it"):
        host.sockets.prepare(host.directory)
    with pytest.raises(SocketDirUnfit):
        host.sockets.write(host.directory, CONFIG, b"ours")
    host.sockets.remove(host.directory, *NAMES)
    assert host_snapshot() == before


@pytest.mark.parametrize("plant", NO_FOLDERS)
@alone
def test_what_is_no_folder_is_left_in_the_place_of_a_folder_of_ours(plant):
    host = Host()
    plant(host.volume / PORT)
    before = tree(host.volume, OUTSIDE)
    with pytest.raises(SocketDirUnfit):
        host.sockets.prepare(host.made())
    host.sockets.remove(host.made(), *NAMES)
    assert tree(host.volume, OUTSIDE) == before
    assert mounted() == []


@pytest.mark.parametrize("path", ["/run/volumes/../outside", "/run/volumes/pod/../../outside/volume", "/run/volumes/."])
@alone
def test_a_path_does_not_lead_up(path):
    host = Host()
    before = host_snapshot()
    for directory in (host.directory.replace(path=path), host.directory.replace(path=path, made=True)):
        with pytest.raises(SocketDirUnfit, match="is no file's name"):
            host.sockets.prepare(directory)
        with pytest.raises(SocketDirUnfit):
            host.sockets.write(directory, CONFIG, b"ours")
        host.sockets.remove(directory, *NAMES)
    assert host_snapshot() == before


# Something else under the name of the socket or of the file.


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / SOCKET).write_text("the pod's")


@pytest.mark.parametrize("plant", [*NO_FOLDERS, a_folder])
@alone
def test_what_the_pod_plants_under_the_sockets_name_is_left_with_what_it_leads_to(plant):
    host = Host()
    host.prepared()
    plant(host.volume / SOCKET)
    before = tree(host.volume, OUTSIDE)
    host.sockets.remove(host.directory, *NAMES)
    assert tree(host.volume, OUTSIDE) == before
    assert mounted() == []


@pytest.mark.parametrize("plant", [a_symlink, a_fifo, a_device, a_folder, a_file_of_another_owner])
@alone
def test_what_the_pod_plants_under_the_files_name_is_left_with_what_it_leads_to(plant):
    host = Host()
    host.prepared()
    for name in (CONFIG, f".{CONFIG}.tmp"):
        plant(host.volume / name)
    before = tree(host.volume, OUTSIDE)
    host.sockets.remove(host.directory, *NAMES)
    assert tree(host.volume, OUTSIDE) == before
    assert mounted() == []


# Files that existed before.


@pytest.mark.parametrize("plant", [*NO_FOLDERS, a_folder, a_socket])
@pytest.mark.parametrize("name", [*NAMES, f".{CONFIG}.tmp"])
@alone
def test_a_name_that_is_taken_is_refused_and_what_has_it_is_left(plant, name):
    host = Host()
    plant(host.volume / name)
    before = host_snapshot()
    with pytest.raises(SocketDirUnfit, match=f"{host.volume}/{name} is there already"):
        host.sockets.require_free(host.directory, *NAMES)
    assert host_snapshot() == before


@alone
def test_names_that_are_free_or_not_of_interest_are_not_refused():
    host = Host()
    a_socket(host.volume / "another")
    host.sockets.require_free(host.directory, *NAMES)
    host.sockets.require_free(host.made(), *NAMES)
    a_socket(host.volume / SOCKET)
    host.sockets.require_free(host.directory, "", CONFIG)


@alone
def test_in_a_directory_of_the_pods_own_a_socket_and_a_file_of_earlier_are_not_in_the_way():
    host = Host()
    directory = host.directory.replace(of_pod=True)
    a_socket(host.volume / SOCKET)
    a_file(host.volume / CONFIG)
    host.sockets.require_free(directory, *NAMES)
    (host.volume / SOCKET).unlink()
    a_symlink(host.volume / SOCKET)
    with pytest.raises(SocketDirUnfit, match="is there already"):
        host.sockets.require_free(directory, *NAMES)


@alone
def test_a_folder_that_is_there_is_not_taken_for_one_that_is_to_be_made():
    host = Host()
    a_folder(host.volume / PORT)
    with pytest.raises(SocketDirUnfit, match=f"{host.volume}/{PORT} is there already"):
        host.sockets.require_free(host.made(), *NAMES)


@pytest.mark.parametrize("mounted_before", [True, False])
@alone
def test_a_socket_and_a_file_from_before_the_add_are_never_removed(mounted_before):
    host = Host()
    a_socket(host.volume / SOCKET)
    a_file(host.volume / CONFIG)
    before = tree(host.volume)
    directory = host.older(host.directory)
    if mounted_before:
        host.sockets.prepare(directory)
    host.sockets.remove(directory, *NAMES)
    assert tree(host.volume) == before
    assert mounted() == []


@alone
def test_in_a_folder_of_another_owner_only_later_files_are_removed():
    host = Host()
    (host.volume / PORT).mkdir()
    a_file(host.volume / PORT / "theirs")
    host.sockets.remove(host.older(host.made()), *NAMES)
    assert os.listdir(host.volume / PORT) == ["theirs"]


@alone
def test_in_a_folder_where_only_we_make_folders_all_is_removed_also_of_an_earlier_life():
    host = Host()
    directory = own(PORT).replace(mount=str(MOUNT))
    host.sockets.prepare(directory)
    a_file(Path(directory.path) / "the pod's")
    host.sockets.require_free(directory, *NAMES)
    host.sockets.remove(host.older(directory), *NAMES)
    assert not Path(directory.path).exists()


@alone
def test_a_socket_that_the_application_makes_again_is_removed():
    host = Host()
    host.directory = host.directory.replace(since=host.sockets.now())
    host.prepared()
    for _ in range(2):
        with suppress(FileNotFoundError):
            (host.volume / SOCKET).unlink()
        a_socket(host.volume / SOCKET)
    host.sockets.remove(host.directory, *NAMES)
    assert os.listdir(host.volume) == []


@alone
def test_of_a_record_that_has_no_time_only_sockets_and_our_file_are_removed():
    """Its root, which a pod could write to, is reached from a directory that only root controls."""
    host = Host()
    document: Any = host.directory.as_document()
    del document["since"], document["of_pod"]
    document["root"] = str(host.volume)
    host.volume.chmod(0o777)
    directory = SocketDirectory.from_document(document)
    a_socket(host.volume / SOCKET)
    a_file(host.volume / CONFIG)
    host.sockets.remove(directory, *NAMES)
    assert os.listdir(host.volume) == []
    a_file(host.volume / SOCKET)
    host.sockets.remove(directory, *NAMES)
    assert os.listdir(host.volume) == [SOCKET]


# Directories that others than root can write to.


def owned_by_a_user(path: Path) -> None:
    os.chown(path, 1000, 1000)


def writable_for_others(path: Path) -> None:
    path.chmod(0o1777)


def a_users_link(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.symlink_to(path.with_name("aside"))
    os.lchown(path, 1000, 1000)


@pytest.mark.parametrize("spoil", [owned_by_a_user, writable_for_others, a_users_link])
@alone
def test_a_root_that_is_not_roots_alone_is_not_entered(spoil):
    """For example, a kubelet's directory that a network's author places in the volume of a pod."""
    host = Host()
    wanted = host.directory.replace(owner=1000, mode=0o777)
    a_socket(host.volume / SOCKET)
    before = tree(OUTSIDE), os.stat(host.volume).st_uid
    spoil(VOLUMES)
    for directory in (wanted, wanted.replace(path=f"{host.volume}/{PORT}", made=True)):
        with pytest.raises(SocketDirUnfit):
            host.sockets.prepare(directory)
        with pytest.raises(SocketDirUnfit):
            host.sockets.write(directory, CONFIG, b"ours")
        host.sockets.remove(directory, *NAMES)
    assert (tree(OUTSIDE), os.stat(host.volume).st_uid) == before
    assert os.listdir(host.volume) == [SOCKET]
    assert mounted() == []


@alone
def test_short_folders_where_a_pod_can_write_are_not_ours():
    """A link there would lead to another pod's directory."""
    host = Host()
    host.prepared()
    planted = host.volume / "vhost"
    planted.symlink_to(VHOST)
    host.volume.chmod(0o777)
    with listening(host.volume / SOCKET):
        before = host_snapshot()
        assert host.sockets.folders(str(planted)) == []
        host.sockets.remove_folder(f"{planted}/{PORT}", SOCKET, CONFIG)
        assert host_snapshot() == before


# Owner and permissions.


@alone
def test_a_directory_that_took_the_place_of_the_one_that_was_looked_at_gets_no_owner():
    host = Host()
    directory = host.directory.replace(owner=1000, mode=0o700)
    found = host.sockets.found(directory)
    host.volume.rename(host.volume.with_name("old"))
    host.volume.mkdir()
    before = tree(host.volume.parent)
    with pytest.raises(SocketDirUnfit, match="replaced"):
        host.sockets.prepare(directory, found)
    host.sockets.remove(directory, *NAMES, found=found)
    assert tree(host.volume.parent) == before


@alone
def test_the_owner_is_not_given_back_to_another_directory():
    host = Host()
    directory = host.directory.replace(owner=1000, mode=0o700, mount="")
    found = host.sockets.found(directory)
    host.sockets.prepare(directory, found)
    host.volume.rename(host.volume.with_name("old"))
    host.volume.mkdir(mode=0o711)
    before = tree(host.volume.parent)
    host.sockets.remove(directory, *NAMES, found=found)
    assert tree(host.volume.parent) == before


@pytest.mark.parametrize("plant", NO_FOLDERS)
@pytest.mark.parametrize("name", [CONFIG, f".{CONFIG}.tmp"])
@alone
def test_a_file_takes_the_place_of_what_the_pod_planted_and_is_never_written_through_it(plant, name):
    host = Host()
    host.prepared()
    before = tree(OUTSIDE)[str(OUTSIDE / CONFIG)][4]
    plant(host.volume / name)
    host.sockets.write(host.directory, CONFIG, b"ours")
    assert not (host.volume / CONFIG).is_symlink()
    assert (host.volume / CONFIG).read_bytes() == b"ours"
    assert os.listdir(host.volume) == [CONFIG]
    assert [(OUTSIDE / name).read_text() for name in NAMES] == ["secret", "secret"]
    assert tree(OUTSIDE)[str(OUTSIDE / CONFIG)][4] == before


@pytest.mark.parametrize("name", [CONFIG, f".{CONFIG}.tmp"])
@alone
def test_a_folder_in_the_place_of_the_file_is_an_error_that_leaves_nothing_of_ours(name):
    host = Host()
    host.prepared()
    a_folder(host.volume / name)
    before = tree(host.volume)
    with pytest.raises(SocketDirUnfit, match="cannot write"):
        host.sockets.write(host.directory, CONFIG, b"ours")
    host.sockets.remove(host.directory, *NAMES)
    assert tree(host.volume) == before


@pytest.mark.parametrize("name", [".", "..", "../x", "/run/x", "a/b", "a\0b", "n" * 300])
@alone
def test_a_name_that_is_none_is_refused(name):
    host = Host()
    host.prepared()
    before = host_snapshot()
    with pytest.raises(SocketDirUnfit):
        host.sockets.write(host.directory, name, b"ours")
    for names in ((name, ""), ("", name)):
        with pytest.raises(SocketDirUnfit):
            host.sockets.remove(host.directory, *names)
    assert host_snapshot() == before


@alone
def test_a_name_with_a_newline_is_one_file():
    host = Host()
    host.prepared()
    host.sockets.write(host.directory, "one\ntwo", b"ours")
    assert os.listdir(host.volume) == ["one\ntwo"]
    host.sockets.remove(host.directory, "", "one\ntwo")
    assert os.listdir(host.volume) == []


# A directory that changes while we use it.


@alone
def test_a_directory_that_was_renamed_is_cleaned_where_it_is_now_and_its_successor_is_not():
    host = Host()
    host.prepared()
    host.sockets.write(host.directory, CONFIG, b"ours")
    with listening(host.volume / SOCKET):
        host.volume.rename(OUTSIDE / "taken")
        host.volume.mkdir()
        (host.volume / SOCKET).write_text("the pod's")
        connect(MOUNT / SOCKET)
        host.sockets.remove(host.directory, *NAMES)
    assert os.listdir(OUTSIDE / "taken") == []
    assert os.listdir(host.volume) == [SOCKET]
    assert mounted() == []


@alone
def test_a_file_is_written_where_the_socket_is():
    host = Host()
    host.prepared()
    host.volume.rename(host.volume.with_name("old"))
    host.volume.mkdir()
    host.sockets.write(host.directory, CONFIG, b"ours")
    assert os.listdir(host.volume.with_name("old")) == [CONFIG]
    assert os.listdir(host.volume) == []


@pytest.mark.parametrize("plant", [a_folder, a_fifo])
@alone
def test_a_directory_of_ours_that_the_pod_filled_does_not_keep_its_del_from_ending(plant):
    host = Host()
    host.sockets.prepare(host.made())
    filled = Path(host.made().path)
    plant(filled / "the pod's")
    (filled / "link").symlink_to(OUTSIDE)
    before = tree(OUTSIDE)
    host.sockets.remove(host.made(), *NAMES)
    assert tree(OUTSIDE) == before
    assert mounted() == []
    assert filled.exists() == (plant is a_folder)


@alone
def test_a_directory_of_ours_with_very_many_files_does_not_make_its_del_endless():
    host = Host()
    host.sockets.prepare(host.made())
    filled = Path(host.made().path)
    for number in range(11_000):
        (filled / str(number)).touch()
    host.sockets.remove(host.made(), *NAMES)
    assert mounted() == []
    assert len(os.listdir(filled)) == 1_000
    host.sockets.remove(host.made(), *NAMES)
    assert not filled.exists()


@alone
def test_another_directory_in_the_place_of_ours_is_not_emptied():
    host = Host()
    host.sockets.prepare(host.made())
    ours = Path(host.made().path)
    ours.rename(host.volume / "aside")
    a_folder(ours)
    host.sockets.remove(host.made(), *NAMES)
    assert os.listdir(ours) == [SOCKET]
    assert os.listdir(host.volume / "aside") == []


# A pod that is faster than we are.


def swapping(host: Host, what: str):
    """Repeats an attack: a folder and a symlink are exchanged, in one step or by two renames."""
    real = host.volume if what != "the parent" else host.volume.parent
    link, aside = Path("/run/link"), Path("/run/aside")
    link.symlink_to(OUTSIDE)
    if what != "two renames":
        return lambda: exchange(real, link)

    def two_renames() -> None:
        with suppress(OSError):
            real.rename(aside)
        # A call may have created a folder of this name in between.
        with suppress(OSError):
            real.rmdir()
        with suppress(OSError):
            link.rename(real)
            real.rename(link)
        aside.rename(real)

    return two_renames


def tried(action) -> bool:
    try:
        action()
    except SocketDirUnfit:
        return False
    return True


@pytest.mark.parametrize("what", ["the volume", "the parent", "two renames"])
@pytest.mark.parametrize("made", [False, True])
@alone
def test_a_directory_that_is_swapped_with_a_symlink_all_the_time_never_leads_outside(what, made):
    host = Host()
    directory = host.directory
    if made:
        directory = directory.replace(path=f"{host.volume}/{PORT}", made=True)
    directory = directory.replace(owner=107, mode=0o2750, acl=("user:107:rwx",))
    outside = tree(OUTSIDE)
    identity = host.volume.stat().st_ino
    outcomes: list[bool] = []
    swap = swapping(host, what)
    deadline = time.monotonic() + RACE_SECONDS
    with child(endlessly(swap)):
        while len(outcomes) < ROUNDS or len(set(outcomes)) < 2:
            assert time.monotonic() < deadline, f"no race: {set(outcomes)} after {len(outcomes)} rounds"
            prepared = tried(lambda: host.sockets.prepare(directory))
            if prepared and not made:
                assert MOUNT.stat().st_ino == identity
            written = tried(lambda: host.sockets.write(directory, CONFIG, b"ours"))
            host.sockets.remove(directory, *NAMES)
            outcomes += [prepared, written]
            assert tree(OUTSIDE) == outside
            assert mounted() == []
    assert list(VHOST.iterdir()) == []


@pytest.mark.parametrize("mount", [str(MOUNT), ""])
@alone
def test_names_that_become_symlinks_all_the_time_are_never_written_through_nor_taken_for_their_targets(mount):
    host = Host()
    host.directory = host.directory.replace(mount=mount)
    host.prepared()
    outside = tree(OUTSIDE)

    def plant() -> None:
        for name in (SOCKET, CONFIG, f".{CONFIG}.tmp"):
            with suppress(OSError):
                (host.volume / name).symlink_to(OUTSIDE / CONFIG)

    with child(endlessly(plant)):
        outcomes = [tried(lambda: host.sockets.write(host.directory, CONFIG, b"ours")) for _ in range(ROUNDS)]
        assert tree(OUTSIDE) == outside
        for _ in range(ROUNDS):
            host.sockets.remove(host.directory, *NAMES)
            host.prepared()
        assert tree(OUTSIDE) == outside
    assert True in outcomes


@alone
def test_a_socket_that_is_swapped_with_a_symlink_all_the_time_is_never_left_for_its_target():
    host = Host()
    host.prepared()
    link = host.volume / "link"
    link.symlink_to(OUTSIDE / "listener")
    seen: set[str] = set()
    deadline = time.monotonic() + RACE_SECONDS
    with listening(host.volume / SOCKET) as pods, child(endlessly(lambda: exchange(host.volume / SOCKET, link))):
        while len(seen) < 2:
            assert time.monotonic() < deadline, f"no race: {seen}"
            try:
                connect(MOUNT / SOCKET)
            except OSError as error:
                seen.add(errno.errorcode[error.errno or 0])
            else:
                seen.add("connected")
                pods.accept()[0].close()
    assert seen == {"connected", "ELOOP"}
    assert no_client_connected(host.listener)


def no_client_connected(listener) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return True
    return False


# Many files, and an endless number of them.


@alone
def test_fifty_attachments_in_one_directory_do_not_touch_one_another():
    host = Host()
    places = [
        host.directory.replace(mount=f"{VHOST}/port{number}", mode=0o755, acl=("user:107:rwx",))
        if number % 2
        else host.made().replace(mount=f"{VHOST}/port{number}", path=f"{host.volume}/port{number}")
        for number in range(PARALLEL)
    ]

    def live(number: int) -> None:
        directory, names = places[number], (f"net{number}", f"configData-{number}.json")
        for _ in range(5):
            host.sockets.prepare(directory)
            host.sockets.write(directory, names[1], str(number).encode())
            with listening(Path(directory.path) / names[0]):
                connect(Path(directory.mount) / names[0])
            assert host.sockets.differences(directory) == []
            assert (Path(directory.path) / names[1]).read_text() == str(number)
            host.sockets.remove(directory, *names)

    failed = [pid for pid in [in_child(lambda number=number: live(number)) for number in range(PARALLEL)] if ended(pid)]
    assert failed == []
    assert os.listdir(host.volume) == []
    assert mounted() == []
    assert list(VHOST.iterdir()) == []


def in_child(action) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            action()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
