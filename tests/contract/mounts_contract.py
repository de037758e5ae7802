"""The behaviour of mounts on short folders, for the kernel's (`cni.host.hostmounts`) and FakeMounts.

Each function gets the mounts and an empty folder.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cni.host.mounts import ST_NOSYMFOLLOW, described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cni.userspace.sockets.sockets import Mounts

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def names(mounts: Mounts, folder: Path) -> list[str]:
    """The names in the folder as seen through its mount."""
    fd = mounts.opened(str(folder), _FOLDER)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def pod(folder: Path, name: str = "pod") -> Path:
    made = folder / name
    made.mkdir()
    (made / f"of-{name}").touch()
    return made


def bound(mounts: Mounts, directory: Path, short: Path) -> None:
    short.mkdir(exist_ok=True)
    with descriptor(directory) as fd:
        mounts.bind(fd, str(short))


def a_mounted_directory_is_seen_in_the_folder_until_it_is_taken_off(mounts: Mounts, folder: Path) -> None:
    directory, short = pod(folder), folder / "short"
    bound(mounts, directory, short)
    assert mounts.is_mounted(str(short))
    assert names(mounts, short) == ["of-pod"]
    assert mounts.identity(str(short)) == described(directory.stat(), ST_NOSYMFOLLOW)
    assert mounts.unmount(str(short))
    assert not mounts.is_mounted(str(short))
    assert names(mounts, short) == []
    assert mounts.identity(str(short)) == described(short.stat(), 0)


def a_mount_stays_with_its_directory_when_that_gets_another_name(mounts: Mounts, folder: Path) -> None:
    directory, short = pod(folder), folder / "short"
    bound(mounts, directory, short)
    directory.rename(folder / "renamed")
    pod(folder)
    assert names(mounts, short) == ["of-pod"]
    assert mounts.identity(str(short)) == described((folder / "renamed").stat(), ST_NOSYMFOLLOW)
    mounts.unmount(str(short))


def mounts_on_one_another_are_taken_off_one_by_one(mounts: Mounts, folder: Path) -> None:
    one, other, short = pod(folder, "one"), pod(folder, "other"), folder / "short"
    bound(mounts, one, short)
    bound(mounts, other, short)
    assert names(mounts, short) == ["of-other"]
    assert mounts.unmount(str(short))
    assert names(mounts, short) == ["of-one"]
    assert mounts.unmount(str(short))
    assert not mounts.unmount(str(short))


def a_folder_is_removed_when_nothing_is_on_it(mounts: Mounts, folder: Path) -> None:
    short = folder / "short"
    bound(mounts, pod(folder), short)
    mounts.unmount(str(short))
    mounts.remove(str(short))
    assert not short.exists()


def what_is_not_there_is_not_mounted_and_everything_else_is_an_error(mounts: Mounts, folder: Path) -> None:
    nowhere = str(folder / "nowhere")
    assert not mounts.is_mounted(nowhere)
    calls: list[Callable[[], object]] = [
        lambda: mounts.unmount(nowhere),
        lambda: mounts.remove(nowhere),
        lambda: mounts.identity(nowhere),
        lambda: mounts.opened(nowhere, _FOLDER),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError):
            call()
    with descriptor(folder) as fd, pytest.raises(FileNotFoundError):
        mounts.bind(fd, nowhere)


def a_symlink_in_the_place_of_the_folder_is_not_followed(mounts: Mounts, folder: Path) -> None:
    directory, link = pod(folder), folder / "link"
    link.symlink_to(directory)
    assert not mounts.is_mounted(str(link))
    with pytest.raises(OSError, match=f"Errno ({errno.ENOTDIR}|{errno.ELOOP})"):
        mounts.opened(str(link), _FOLDER)
    with descriptor(directory) as fd, pytest.raises(OSError, match=f"Errno ({errno.ENOTDIR}|{errno.ELOOP})"):
        mounts.bind(fd, str(link))


CONTRACT: dict[str, Callable[[Mounts, Path], None]] = {
    function.__name__: function
    for function in (
        a_mounted_directory_is_seen_in_the_folder_until_it_is_taken_off,
        a_mount_stays_with_its_directory_when_that_gets_another_name,
        mounts_on_one_another_are_taken_off_one_by_one,
        a_folder_is_removed_when_nothing_is_on_it,
        what_is_not_there_is_not_mounted_and_everything_else_is_an_error,
        a_symlink_in_the_place_of_the_folder_is_not_followed,
    )
}
