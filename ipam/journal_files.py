"""The journal of a node: a file for each owner that it has asked a cluster for addresses for.

`<folder>/<network>/<container ID>:<interface>.json` is the entry. `<folder>/.tombstones/<network>:<container ID>:<interface>`
marks one that is to be freed, so that any later call finds it by one look; the entry is the truth. The time of the mark
is that of the last try.
"""

from __future__ import annotations

import errno
import os

from cni.errors import IoFailure
from cni.host.files import Lock, create_file, make_directory, read_file, remove_file, require_private, write_file
from ipam.journal_entry import TOMBSTONE, decode
from ipam.store import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.journal_entry import Entry


RUN_DIRECTORY = "/run/barewire"
MACHINE_ID = "/etc/machine-id"
LOCK_SECONDS = 10.0


class Journal:
    """Whoever changes what is here about an owner holds the owner's lock. All raise `IoFailure`."""

    def __init__(
        self,
        folder: str,
        run: str = RUN_DIRECTORY,
        *,
        warn: Callable[[str], None] = lambda _text: None,
        machine_id: str = MACHINE_ID,
    ) -> None:
        require_private(folder)
        require_private(run)
        self._folder = folder
        self._run = run
        self._machine_id = machine_id
        self._machine = ""
        self.warn = warn

    @property
    def machine(self) -> str:
        """The node's identity: names may be the same, as the "localhost" of machines that were made from one image.

        It is the machine ID, and where there is none a random one that the journal keeps. Machines that were cloned
        together with their machine ID cannot be told apart.
        """
        self._machine = self._machine or _machine_id(self._machine_id) or self._random_id()
        return self._machine

    def locked(self, owner: Owner, seconds: float = LOCK_SECONDS) -> Lock:
        """The owner's lock. Raises `TryAgainLater` when another call holds it for longer."""
        path = f"{self._run}/lock/ipam:{owner.network}:{owner.container_id}:{owner.ifname}"
        return Lock(path, f"the address of {name_of(owner)}", seconds, lasting=False)

    def find(self, owner: Owner) -> Entry | None:
        """The entry of the owner's container ID and interface in its network."""
        return self._load(self._path(owner))

    def save(self, entry: Entry) -> None:
        """Writes it; it is on disk when this returns."""
        path = self._path(entry.owner)
        make_directory(os.path.dirname(path))
        write_file(path, entry.encoded())

    def add(self, entry: Entry, *, lasting: bool) -> None:
        """Writes it behind what `save` wrote for the owner in this call, which is cheaper: the last line counts.

        It is on disk when this returns if it is `lasting`; else a machine that loses its power may forget it.
        """
        path = self._path(entry.owner)
        try:
            _append(path, entry.encoded(), lasting=lasting)
        except OSError as error:
            raise IoFailure(
                f"cannot write {path}: {os.strerror(error.errno or 0)}", hint="look at free space"
            ) from error

    def bury(self, entry: Entry) -> None:
        """Keeps it as a tombstone. The mark is first: one too many does no harm, one missing would hide the entry."""
        mark = self._mark(entry.owner)
        make_directory(os.path.dirname(mark))
        write_file(mark, b"")
        self.save(entry.replace(phase=TOMBSTONE))

    def forget(self, owner: Owner) -> None:
        """Removes the entry, and its mark."""
        remove_file(self._path(owner))
        self.unmark(owner)

    def unmark(self, owner: Owner) -> None:
        remove_file(self._mark(owner))

    def tried(self, owner: Owner) -> None:
        """Puts its mark at the end of `buried`."""
        try:
            os.utime(self._mark(owner))
        except FileNotFoundError:
            return

    def buried(self) -> list[Owner]:
        """The owners that are marked, the one whose last try is the longest ago first."""
        folder = f"{self._folder}/.tombstones"
        marks = [(_age(f"{folder}/{name}"), name) for name in _names(folder)]
        return [_owner(name) for _changed, name in sorted(marks)]

    def of_network(self, network: str) -> list[Entry]:
        """All readable entries of a network."""
        folder = f"{self._folder}/{network}"
        entries = [self._load(f"{folder}/{name}") for name in _names(folder)]
        return [entry for entry in entries if entry is not None]

    def sweep(self, network: str) -> None:
        """Removes the temporary files of killed calls."""
        for folder in (f"{self._folder}/{network}", f"{self._folder}/.tombstones"):
            for name in _entries(folder):
                if _is_temporary(name) and not os.path.exists(f"/proc/{name.split('.')[-2]}"):
                    remove_file(f"{folder}/{name}")

    def writable(self) -> None:
        """Proves that entries can be written."""
        make_directory(self._folder)
        probe = f"{self._folder}/.probe.{os.getpid()}.tmp"
        write_file(probe, b"")
        remove_file(probe)

    def _random_id(self) -> str:
        path = f"{self._folder}/.machine"
        made = f"barewire-{os.urandom(16).hex()}"
        if not os.path.exists(path):
            make_directory(self._folder)
            create_file(path, f"{made}\n".encode())  # Another call may be faster: then its ID is the one.
        return (read_file(path) or b"").decode(errors="replace").strip() or made

    def _load(self, path: str) -> Entry | None:
        content = read_file(path)
        try:
            return None if content is None else decode(content)
        except ValueError as error:
            # What it told is lost. Its addresses stay with their owner until a GC finds them in the cluster.
            os.replace(path, f"{path}.damaged")
            self.warn(f"{path}: {error}; kept as {path}.damaged")
            return None

    def _path(self, owner: Owner) -> str:
        return f"{self._folder}/{owner.network}/{owner.container_id}:{owner.ifname}.json"

    def _mark(self, owner: Owner) -> str:
        return f"{self._folder}/.tombstones/{owner.network}:{owner.container_id}:{owner.ifname}"


def known_machine(folder: str) -> str:
    """The identity that `Journal.machine` has, without making one where there is none."""
    return _machine_id(MACHINE_ID) or _machine_id(f"{folder}/.machine")


def _machine_id(path: str) -> str:
    """Empty where there is none: an image's can be empty or "uninitialized" until its first start is over."""
    try:
        content = read_file(path) or b""
    except IoFailure:
        return ""
    text = content.decode(errors="replace").strip()
    return text if len(text) == 32 and text.isalnum() and text.strip("0") else ""


def _append(path: str, line: bytes, *, lasting: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, "")
        if lasting:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def name_of(owner: Owner) -> str:
    """For messages."""
    return f"{owner.network}/{owner.container_id}/{owner.ifname}"


def _owner(mark: str) -> Owner:
    network, container_id, ifname = mark.split(":", 2)
    return Owner(network=network, container_id=container_id, ifname=ifname)


def _names(folder: str) -> list[str]:
    return [name for name in _entries(folder) if not (_is_temporary(name) or name.endswith(".json.damaged"))]


def _is_temporary(name: str) -> bool:
    """Whether it is `write_file`'s: a mark ends with an interface's name, which may end with ".tmp", too."""
    words = name.split(".")
    return len(words) > 2 and words[-1] == "tmp" and words[-2].isdecimal()


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise IoFailure(f"cannot list {folder}: {os.strerror(error.errno or 0)}") from error


def _age(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
