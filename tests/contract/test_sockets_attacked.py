"""A pod against the host: links, swapped directories, odd names. Whatever it does, nothing outside its directory is
created, changed, removed or connected to, and its DEL ends.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cni.errors import SocketDirUnfit
from tests.alone import alone
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
    exchange,
    for_ever,
    host_snapshot,
    listening,
    mounted,
    tree,
)

ROUNDS = 300
RACE_SECONDS = 60.0
PARALLEL = 50


# Something else in the place of the directory.


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
    host.sockets.remove(host.directory, NAMES)
    assert host_snapshot() == before


@pytest.mark.parametrize("plant", NO_FOLDERS)
@alone
def test_what_is_no_folder_is_left_in_the_place_of_a_folder_of_ours(plant):
    host = Host()
    plant(host.volume / PORT)
    before = tree(host.volume, OUTSIDE)
    with pytest.raises(SocketDirUnfit):
        host.sockets.prepare(host.made())
    host.sockets.remove(host.made(), NAMES)
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
        host.sockets.remove(directory, NAMES)
    assert host_snapshot() == before


# Something else under the name of the socket or of the file.


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / SOCKET).write_text("the pod's")


@pytest.mark.parametrize("plant", NO_FOLDERS)
@alone
def test_what_the_pod_plants_under_our_names_is_removed_and_what_it_leads_to_is_not(plant):
    host = Host()
    before = host_snapshot()[0]
    host.prepared()
    for name in NAMES:
        plant(host.volume / name)
    host.sockets.remove(host.directory, NAMES)
    assert os.listdir(host.volume) == []
    VHOST.rmdir()
    VHOST.parent.rmdir()
    assert host_snapshot() == (before, [])


@alone
def test_a_folder_under_our_names_is_left():
    host = Host()
    host.prepared()
    for name in NAMES:
        a_folder(host.volume / name)
    before = tree(host.volume)
    host.sockets.remove(host.directory, NAMES)
    assert tree(host.volume) == before
    assert mounted() == []


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
    host.sockets.remove(host.directory, NAMES)
    assert tree(host.volume) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/run/x", "a/b", "a\0b", "n" * 300])
@alone
def test_a_name_that_is_none_is_refused(name):
    host = Host()
    host.prepared()
    before = host_snapshot()
    with pytest.raises(SocketDirUnfit):
        host.sockets.write(host.directory, name, b"ours")
    with pytest.raises(SocketDirUnfit):
        host.sockets.remove(host.directory, (name,))
    assert host_snapshot() == before


@alone
def test_a_name_with_a_newline_is_one_file():
    host = Host()
    host.prepared()
    host.sockets.write(host.directory, "one\ntwo", b"ours")
    assert os.listdir(host.volume) == ["one\ntwo"]
    host.sockets.remove(host.directory, ("one\ntwo",))
    assert os.listdir(host.volume) == []


# A directory that changes under us.


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
        host.sockets.remove(host.directory, NAMES)
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
    host.sockets.remove(host.made(), NAMES)
    assert tree(OUTSIDE) == before
    assert mounted() == []
    assert filled.exists() == (plant is a_folder)


@alone
def test_a_directory_of_ours_with_very_many_files_does_not_make_its_del_last_for_ever():
    host = Host()
    host.sockets.prepare(host.made())
    filled = Path(host.made().path)
    for number in range(11_000):
        (filled / str(number)).touch()
    host.sockets.remove(host.made(), NAMES)
    assert mounted() == []
    assert len(os.listdir(filled)) == 1_000
    host.sockets.remove(host.made(), NAMES)
    assert not filled.exists()


@alone
def test_another_directory_in_the_place_of_ours_is_not_emptied():
    host = Host()
    host.sockets.prepare(host.made())
    ours = Path(host.made().path)
    ours.rename(host.volume / "aside")
    a_folder(ours)
    host.sockets.remove(host.made(), NAMES)
    assert os.listdir(ours) == [SOCKET]
    assert os.listdir(host.volume / "aside") == []


# A pod that is faster than we are.


def swapping(host: Host, what: str):
    """What a pod does in a loop: a folder and a symlink change places, by one step or by two renames."""
    real = host.volume if what != "the parent" else host.volume.parent
    link, aside = Path("/run/link"), Path("/run/aside")
    link.symlink_to(OUTSIDE)
    if what != "two renames":
        return lambda: exchange(real, link)

    def two_renames() -> None:
        real.rename(aside)
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
    with child(for_ever(swap)):
        while len(outcomes) < ROUNDS or len(set(outcomes)) < 2:
            assert time.monotonic() < deadline, f"no race: {set(outcomes)} after {len(outcomes)} rounds"
            prepared = tried(lambda: host.sockets.prepare(directory))
            if prepared and not made:
                assert MOUNT.stat().st_ino == identity
            written = tried(lambda: host.sockets.write(directory, CONFIG, b"ours"))
            host.sockets.remove(directory, NAMES)
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

    with child(for_ever(plant)):
        outcomes = [tried(lambda: host.sockets.write(host.directory, CONFIG, b"ours")) for _ in range(ROUNDS)]
        assert tree(OUTSIDE) == outside
        for _ in range(ROUNDS):
            host.sockets.remove(host.directory, NAMES)
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
    with listening(host.volume / SOCKET) as pods, child(for_ever(lambda: exchange(host.volume / SOCKET, link))):
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
    assert nobody_came(host.listener)


def nobody_came(listener) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return True
    return False


# Many, and none to the end.


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
            host.sockets.remove(directory, names)

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
