"""The journal of a node: a file for each owner that it has asked a cluster for addresses for.

`<folder>/<network>/<container ID>:<interface>.json` is the entry. `<folder>/.tombstones/<network>:<container ID>:<interface>`
marks one that is to be freed, so that any later call finds it by one look; the entry is the truth. The time of the mark
is that of the last try, and the time of such an entry that of the first one.
Where one of these names is too long it is shortened (`cni.names.file_name`), and the content of a mark tells the owner.
"""

from __future__ import annotations

import errno
import os
import time

from cni import pauses
from cni.errors import IoFailure
from cni.host import folders
from cni.host.files import (
    Lock,
    component,
    create_file,
    make_directory,
    read_file,
    remove_file,
    require_private,
    write_file,
)
from cni.names import attachment_fault, is_network_folder, is_shortened
from ipam.cluster.journal_entry import TOMBSTONE, decode
from ipam.store import Owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ipam.cluster.journal_entry import Entry


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
        self.folder = folder
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

    def with_machine(self, cluster_conf: dict[str, Any]) -> dict[str, Any]:
        """The description of a cluster, with this machine."""
        return {**cluster_conf, "machine": self.machine}

    def locked(self, owner: Owner, seconds: float = LOCK_SECONDS) -> Lock:
        """The owner's lock. Raises `TryAgainLater` when another call holds it for longer."""
        path = f"{self._run}/lock/{component(f'ipam:{_mark_name(owner)}')}"
        return Lock(path, f"the address of {name_of(owner)}", seconds, lasting=False)

    def locked_for_retaking(self, network: str, seconds: float) -> Lock:
        """Of those who take again what the journal holds in a network, one does it. Raises `TryAgainLater`."""
        path = f"{self._run}/lock/{component(f'ipam-again:{network}')}"
        return Lock(path, f"taking again what is held in {network}", seconds, lasting=False)

    def find(self, owner: Owner) -> Entry | None:
        """The entry of the owner's container ID and interface in its network."""
        return self._load(self._path(owner))

    def modified(self, owner: Owner) -> float:
        """When its entry was written last; 0 where there is none."""
        return folders.changed(self._path(owner))

    def save(self, entry: Entry) -> None:
        """Writes it; it is on disk when this returns."""
        path = self._path(entry.owner)
        make_directory(os.path.dirname(path))
        write_file(path, entry.encoded())

    def append(self, entry: Entry, *, lasting: bool) -> None:
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

    def save_tombstone(self, entry: Entry) -> None:
        """Keeps it as a tombstone. The mark is first: one too many does no harm, one missing would hide the entry."""
        mark = self._mark_path(entry.owner)
        make_directory(os.path.dirname(mark))
        write_file(mark, _mark_name(entry.owner).encode() if is_shortened(os.path.basename(mark)) else b"")
        tombstone = entry.replace(phase=TOMBSTONE)
        if self.find(entry.owner) != tombstone:
            self.save(tombstone)

    def forget(self, owner: Owner) -> None:
        """Removes the entry, and its mark."""
        remove_file(self._path(owner))
        self.remove_mark(owner)

    def remove_mark(self, owner: Owner) -> None:
        remove_file(self._mark_path(owner))

    def touch(self, owner: Owner) -> None:
        """Puts its mark at the end of `buried`."""
        try:
            os.utime(self._mark_path(owner))
        except FileNotFoundError:
            return

    def tombstones(self) -> list[Owner]:
        """The owners that are marked, the one whose last try is the longest ago first."""
        return [owner for _touched, owner in self._marks()]

    def due_tombstones(self) -> list[Owner]:
        """Those of them that are to be tried again by now (`cni.pauses`)."""
        now = time.time()
        return [
            owner for touched, owner in self._marks() if pauses.is_due(folders.changed(self._path(owner)), touched, now)
        ]

    def _marks(self) -> list[tuple[float, Owner]]:
        folder = f"{self.folder}/.tombstones"
        marks = [(folders.changed(f"{folder}/{name}"), name) for name in folders.keys(folder)]
        # What names nobody is not ours, or what an older version left under a temporary name.
        owners = ((touched, _owner(self._mark_text(name))) for touched, name in sorted(marks))
        return [(touched, owner) for touched, owner in owners if owner is not None]

    def _mark_text(self, mark: str) -> str:
        """What a mark's name says, or its content where the name is a shortened one."""
        if not is_shortened(mark):
            return mark
        try:
            return (read_file(f"{self.folder}/.tombstones/{mark}") or b"").decode(errors="replace")
        except IoFailure:
            return ""

    def of_network(self, network: str) -> list[Entry]:
        """All readable entries of a network."""
        folder = f"{self.folder}/{component(network)}"
        entries = [self._load(f"{folder}/{name}") for name in folders.documents(folder)]
        return [entry for entry in entries if entry is not None]

    def entries(self) -> list[Entry]:
        """All readable entries."""
        networks = [name for name in folders.keys(self.folder) if is_network_folder(name)]
        return [entry for name in networks for entry in self.of_network(name)]

    def sweep(self, network: str) -> None:
        """Removes the temporary files of killed calls."""
        folders.sweep(f"{self.folder}/{component(network)}", plain=True)
        for folder in (f"{self.folder}/.tombstones", self.folder):
            folders.sweep(folder)

    def require_writable(self) -> None:
        """Proves that entries can be written."""
        make_directory(self.folder)
        probe = folders.temporary(f"{self.folder}/probe")
        write_file(probe, b"")
        remove_file(probe)

    def _random_id(self) -> str:
        path = f"{self.folder}/.machine"
        made = f"barewire-{os.urandom(16).hex()}"
        if not os.path.exists(path):
            make_directory(self.folder)
            create_file(path, f"{made}\n".encode())  # Another call may be faster: then its ID is the one.
        return _kept_id(self.folder) or made

    def _load(self, path: str) -> Entry | None:
        content = read_file(path)
        try:
            return None if content is None else decode(content)
        except ValueError as error:
            # What it told is lost. Its addresses stay with their owner until a GC finds them in the cluster.
            kept = folders.set_aside(path)
            if kept:
                self.warn(f"{path}: {error}; kept as {kept}")
            return None

    def _path(self, owner: Owner) -> str:
        return path_in(self.folder, owner)

    def _mark_path(self, owner: Owner) -> str:
        return f"{self.folder}/.tombstones/{component(_mark_name(owner))}"


def path_in(folder: str, owner: Owner) -> str:
    """The file of an owner's entry. Raises `IoFailure` for an owner who can have none."""
    return f"{folder}/{component(owner.network)}/{component(f'{owner.container_id}:{owner.ifname}', folders.DOCUMENT)}"


def known_machine(folder: str) -> str:
    """The identity that `Journal.machine` has, without making one where there is none."""
    try:
        return _machine_id(MACHINE_ID) or _kept_id(folder)
    except IoFailure:
        return ""


def _kept_id(folder: str) -> str:
    """The ID that the journal made for itself, as it was written; empty where there is none."""
    return (read_file(f"{folder}/.machine") or b"").decode(errors="replace").strip()


def _machine_id(path: str) -> str:
    """Empty where there is none: an image's can be empty or "uninitialized" until its first start is over."""
    try:
        content = read_file(path) or b""
    except IoFailure:
        return ""
    text = content.decode(errors="replace").strip()
    return text if len(text) == 32 and text.isalnum() and text.strip("0") else ""


def _append(path: str, line: bytes, *, lasting: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
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


def _mark_name(owner: Owner) -> str:
    return f"{owner.network}:{owner.container_id}:{owner.ifname}"


def _owner(mark: str) -> Owner | None:
    """Whom a mark names; None for what is no mark."""
    network, _, rest = mark.partition(":")
    container_id, _, ifname = rest.partition(":")
    if attachment_fault(network, container_id, ifname):
        return None
    return Owner(network=network, container_id=container_id, ifname=ifname)
