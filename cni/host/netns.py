"""Network namespaces: open one by path and verify it, find it again, run code inside it."""

from __future__ import annotations

import errno
import fcntl
import os

from cni.errors import InvalidNetns, KernelRefused
from cni.host.files import read_small
from cni.host.processes import descriptors, pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl of linux/nsfs.h
_NAMED = "/run/netns"
_OWN = "/proc/thread-self/ns/net"


class Netns:
    """An open network namespace. `identity` is `device:inode`, the same for every path to the same namespace."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        stat = os.fstat(fd)
        self.identity = f"{stat.st_dev}:{stat.st_ino}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptor; it can be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def entered(self) -> Entered:
        """Context in which this thread is inside the namespace."""
        return Entered(self.fd)


class Entered:
    """Enters a namespace and returns to the previous one, even after an exception.

    Paths below /proc/sys/net and new sockets then belong to the namespace; /sys does not (it belongs to its mount).
    """

    def __init__(self, fd: int) -> None:
        self._target = fd
        self._home = -1

    def __enter__(self) -> None:
        """Raises `KernelRefused`."""
        self._home = -1
        try:
            self._home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            setns(self._target, CLONE_NEWNET)
        except OSError as error:
            self._close()
            raise _refused("enter the pod's network namespace", error) from error

    def __exit__(self, *_exc: object) -> None:
        """Raises `KernelRefused`; this process cannot continue then."""
        try:
            setns(self._home, CLONE_NEWNET)
        except OSError as error:
            raise _refused("return to the host's network namespace", error) from error
        finally:
            self._close()

    def _close(self) -> None:
        if self._home >= 0:
            os.close(self._home)
            self._home = -1


class Namespaces:
    """The network namespaces of this host, for a plugin that does not enter them."""

    def netns(self, path: str) -> Netns:
        """As `open_netns`."""
        return open_netns(path)

    def is_inhabited(self, path: str, identity: str) -> bool:
        """As the function of that name."""
        return is_inhabited(path, identity)


class OptionalNetns:
    """The context of a namespace that may be None."""

    def __init__(self, netns: Netns | None) -> None:
        self._netns = netns

    def __enter__(self) -> Netns | None:
        return self._netns

    def __exit__(self, *_exc: object) -> None:
        if self._netns is not None:
            self._netns.close()


def _refused(what: str, error: OSError) -> KernelRefused:
    refused = KernelRefused(f"{what}: the kernel refused: {error.strerror}", hint="it needs CAP_SYS_ADMIN")
    refused.number = error.errno or 0
    return refused


def open_netns(path: str) -> Netns:
    """Opens the namespace at `path`. Raises `InvalidNetns` if there is none, or if it is something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidNetns(
            f"CNI_NETNS {path}: {os.strerror(error.errno or 0)}",
            hint="the pod's network namespace is gone or not visible here",
        ) from error
    if not _is_netns(fd):
        os.close(fd)
        raise InvalidNetns(f"CNI_NETNS {path} is not a network namespace", hint="pass a path such as /run/netns/NAME")
    return Netns(path, fd)


def find_netns(path: str, identity: str = "") -> Netns | None:
    """The namespace at `path`; None when there is none.

    With an `identity` it is that namespace, at its path or kept alive by a process.
    """
    try:
        netns = open_netns(path) if path else None
    except InvalidNetns:
        netns = None
    if netns is not None and identity in ("", netns.identity):
        return netns
    if netns is not None:
        netns.close()
    return _held_by_process(identity) if identity else None


def named_namespaces() -> list[str]:
    """The paths of the namespaces in /run/netns, where runtimes keep those of their pods."""
    try:
        return [f"{_NAMED}/{name}" for name in sorted(os.listdir(_NAMED))]
    except FileNotFoundError:
        return []


def is_inhabited(path: str, identity: str) -> bool:
    """Whether the namespace is still somebody's.

    It is when it is at its path, or when a process lives in it although the path says nothing (it cannot be opened
    here, or leads elsewhere now). A path that is gone means that its owner is gone, where its folder is seen at all: a
    container may not see the host's /run/netns.
    """
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return not os.path.isdir(os.path.dirname(path)) and _inhabitant(identity) is not None
    except OSError:
        return _inhabitant(identity) is not None
    return f"{stat.st_dev}:{stat.st_ino}" == identity or _inhabitant(identity) is not None


def _held_by_process(identity: str) -> Netns | None:
    # A deleted namespace lives on while a process is in it or holds a descriptor of it: both are reachable by /proc.
    for candidate in _held_paths(identity):
        try:
            netns = open_netns(candidate)
        except InvalidNetns:
            continue
        if netns.identity == identity:
            return netns
        netns.close()
    return None


def _held_paths(identity: str) -> Iterator[str]:
    inhabitant = _inhabitant(identity)
    if inhabitant is not None:
        yield inhabitant
    # There are many more descriptors than processes: they are searched only if no process is in the namespace.
    yield from _descriptors(identity)


def _inhabitant(identity: str) -> str | None:
    """The path of the namespace through a process in it."""
    for pid in pids():
        path = f"/proc/{pid}/ns/net"
        try:
            stat = os.stat(path)
        except OSError:
            continue
        if f"{stat.st_dev}:{stat.st_ino}" == identity:
            return path
    return None


def _descriptors(identity: str) -> Iterator[str]:
    """Paths of descriptors with that inode number.

    /proc reports it (Linux 5.14) without access to the file system of the file, which may not respond.
    """
    wanted = b"\nino:\t" + identity.partition(":")[2].encode() + b"\n"
    for path in descriptors("fdinfo"):
        if wanted in read_small(path):
            yield path.replace("/fdinfo/", "/fd/")


def _is_netns(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def setns(fd: int, kind: int) -> None:
    """Enters a namespace with this thread, or process where the kernel wants that. Raises `OSError`."""
    if hasattr(os, "setns"):
        os.setns(fd, kind)
        return
    import ctypes  # noqa: PLC0415 - Python 3.11 has no os.setns; newer ones must not pay for ctypes

    if ctypes.CDLL(None, use_errno=True).setns(fd, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)} ({errno.errorcode.get(number)})")
