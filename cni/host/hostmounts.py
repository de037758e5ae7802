"""Mounts that other processes of the host must see: they are created in the mount namespace of PID 1.

A plugin can run in a separate mount namespace, for example below Multus' thick daemon, which starts plugins in a chroot
in its container: mounts propagate from the host into such a namespace, but not out of it. So they are created, checked
and removed in the mount namespace of PID 1, if the mount point is the same directory there, and otherwise in our own.
"""

from __future__ import annotations

import os

from cni.host import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_HOST = "1"
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000


def bind(directory: int, folder: str) -> None:
    """Mounts the descriptor's directory on the folder; see `mounts.bind`. Raises `OSError`."""
    target = opened(folder, _FOLDER)
    try:
        # The clone is made from our own mount: our namespace may contain a tmpfs of the kubelet that PID 1 does not
        # see.
        with mounts.Clone(directory) as tree, _Host(folder):
            tree.attach(target)
    finally:
        os.close(target)


def unmount(folder: str) -> bool:
    """Removes the uppermost mount of the folder; see `mounts.unmount`. Raises `OSError`."""
    with _Host(folder):
        return mounts.unmount(folder)


def remove(folder: str) -> None:
    """Removes the folder, after our mount was removed. Raises `OSError`.

    A container that mounts /run without propagation has kept a copy of our mount. In its namespace the removal would
    fail (EBUSY); in PID 1's namespace the copy is removed with the folder.
    """
    with _Host(folder):
        os.rmdir(folder)


def is_mounted(folder: str) -> bool:
    """Whether one of our mounts is on the folder: only ours follow no symlinks.

    Only root can write to the folder's parent.
    """
    try:
        fd = opened(folder, _FOLDER)
    except OSError:
        return False
    try:
        return bool(os.fstatvfs(fd).f_flag & mounts.ST_NOSYMFOLLOW)
    finally:
        os.close(fd)


def opened(folder: str, flags: int) -> int:
    """A descriptor of the folder, or of what is mounted on it; a symbolic link in its place is not followed.

    Raises `OSError`.
    """
    flags |= os.O_NOFOLLOW
    if not _is_elsewhere(folder):
        return os.open(folder, flags)
    root = os.open(f"/proc/{_HOST}/root", _FOLDER)
    try:
        return mounts.open_in_root(root, folder, flags)
    finally:
        os.close(root)


def identity(folder: str) -> str:
    """The directory that is seen at the folder, and whether its mount follows links; see `mounts.described`.

    Raises `OSError`.
    """
    fd = opened(folder, _FOLDER)
    try:
        return mounts.described(os.fstat(fd), os.fstatvfs(fd).f_flag)
    finally:
        os.close(fd)


class _Host:
    """Context in which this process is in the namespace of the folder's mounts. Raises `OSError`.

    Descriptors do not change; paths are those of PID 1.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._kept: list[int] = []

    def __enter__(self) -> Self:
        if _is_elsewhere(self._folder):
            try:
                for path, flags in (("/proc/self/ns/mnt", os.O_RDONLY), ("/", os.O_PATH), (".", os.O_PATH)):
                    self._kept.append(os.open(path, flags | os.O_CLOEXEC))
                # A thread that shares its root and current directory with another one cannot change its mount
                # namespace.
                mounts.call("unshare", _CLONE_FS)
                _enter(f"/proc/{_HOST}/ns/mnt")
            except OSError:
                self._close()
                raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """Raises `OSError`; this process cannot continue then."""
        if not self._kept:
            return
        namespace, root, current = self._kept
        try:
            mounts.call("setns", namespace, _CLONE_NEWNS)
            # The kernel has moved us to the root of the namespace, which can be different from our chroot.
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(current)
        finally:
            self._close()

    def _close(self) -> None:
        while self._kept:
            os.close(self._kept.pop())


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mounts.call("setns", fd, _CLONE_NEWNS)
    finally:
        os.close(fd)


def _is_elsewhere(folder: str) -> bool:
    """Whether PID 1 has another mount namespace in which the folder's parent is the same directory.

    The folder itself may have a mount that is visible only on one side. If PID 1 is not accessible, our own namespace
    is used.
    """
    try:
        if os.readlink(f"/proc/{_HOST}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            return False
        root = os.open(f"/proc/{_HOST}/root", _FOLDER)
    except OSError:
        return False
    try:
        parent = mounts.open_in_root(root, os.path.dirname(folder), _FOLDER)
    except OSError:
        return False
    finally:
        os.close(root)
    try:
        return os.path.samestat(os.fstat(parent), os.stat(os.path.dirname(folder)))
    except OSError:
        return False
    finally:
        os.close(parent)
