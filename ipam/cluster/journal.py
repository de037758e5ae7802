"""The journal of a node: a file for each owner for which it has requested addresses from a cluster.

The entry is `<folder>/<network>/<container ID>:<interface>.json`. An empty file
`<folder>/.tombstones/<network>:<container ID>:<interface>` marks an entry whose addresses must still be freed, so that
later calls find it without reading all entries; the entry is authoritative. The modification time of the mark is that
of the last attempt, and that of the entry is the time of the first attempt. Names that are too long are shortened
(`cni.names.file_name`); then the content of the mark names the owner.
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

    from ipam.cluster.journal_entry import Entry
    from ipam.store import ClusterConf


RUN_DIRECTORY = "/run/barewire"
MACHINE_ID = "/etc/machine-id"
LOCK_SECONDS = 10.0


class Journal:
    """The journal in `folder`.

    Callers hold the owner's lock while they change the owner's files. All methods raise `IoFailure`.
    """

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
        """The node's identity, because node names may be equal: "localhost" on machines made from one image.

        It is the machine ID, or a random ID kept in the journal if there is none. Machines that were cloned together
        with their machine ID cannot be distinguished.
        """
        self._machine = self._machine or _machine_id(self._machine_id) or self._random_id()
        return self._machine

    def with_machine(self, cluster_conf: ClusterConf) -> ClusterConf:
        """The description of a cluster, completed by this machine's identity."""
        return {**cluster_conf, "machine": self.machine}

    def locked(self, owner: Owner, seconds: float = LOCK_SECONDS) -> Lock:
        """The owner's lock. Raises `TryAgainLater` when another call holds it for longer than `seconds`."""
        path = f"{self._run}/lock/{component(f'ipam:{_mark_name(owner)}')}"
        return Lock(path, f"the address of {name_of(owner)}", seconds, lasting=False)

    def locked_for_retaking(self, network: str, seconds: float) -> Lock:
        """The lock for taking the leases of a network again. Raises `TryAgainLater`."""
        path = f"{self._run}/lock/{component(f'ipam-again:{network}')}"
        return Lock(path, f"taking the leases of {network} again", seconds, lasting=False)

    def find(self, owner: Owner) -> Entry | None:
        """The entry for the owner's network, container ID and interface."""
        return self._load(self._path(owner))

    def modified(self, owner: Owner) -> float:
        """The time at which the owner's entry was last written; 0 if there is none."""
        return folders.changed(self._path(owner))

    def save(self, entry: Entry) -> None:
        """Writes the entry. It is on disk when this returns."""
        path = self._path(entry.owner)
        make_directory(os.path.dirname(path))
        write_file(path, entry.encoded())

    def append(self, entry: Entry, *, lasting: bool) -> None:
        """Appends a newer version of an entry that `save` wrote in this call, which is cheaper. The last line is valid.

        It is on disk when this returns if it is `lasting`; otherwise it can be lost in a power failure.
        """
        path = self._path(entry.owner)
        try:
            _append(path, entry.encoded(), lasting=lasting)
        except OSError as error:
            raise IoFailure(f"cannot write {path}: {os.strerror(error.errno or 0)}", hint="check free space") from error

    def save_tombstone(self, entry: Entry) -> None:
        """Keeps the entry as a tombstone.

        The mark is written first: a superfluous mark does no harm, but a missing one would hide the tombstone.
        """
        mark = self._mark_path(entry.owner)
        make_directory(os.path.dirname(mark))
        write_file(mark, _mark_name(entry.owner).encode() if is_shortened(os.path.basename(mark)) else b"")
        tombstone = entry.replace(phase=TOMBSTONE)
        if self.find(entry.owner) != tombstone:
            self.save(tombstone)

    def forget(self, owner: Owner) -> None:
        """Removes the entry and its mark."""
        remove_file(self._path(owner))
        self.remove_mark(owner)

    def remove_mark(self, owner: Owner) -> None:
        remove_file(self._mark_path(owner))

    def touch(self, owner: Owner) -> None:
        """Records an attempt now, which moves the owner to the end of `tombstones`."""
        folders.touch(self._mark_path(owner))

    def tombstones(self) -> list[Owner]:
        """The owners of tombstones, those with the oldest attempt first."""
        return [owner for _touched, owner in self._marks()]

    def due_tombstones(self) -> list[Owner]:
        """The owners whose tombstones are due for another attempt (`cni.pauses`)."""
        now = time.time()
        return [
            owner for touched, owner in self._marks() if pauses.is_due(folders.changed(self._path(owner)), touched, now)
        ]

    def _marks(self) -> list[tuple[float, Owner]]:
        folder = f"{self.folder}/.tombstones"
        marks = [(folders.changed(f"{folder}/{name}"), name) for name in folders.keys(folder)]
        # A name without an owner is not ours, or is a temporary file of an older version.
        owners = ((touched, _owner(self._mark_text(name))) for touched, name in sorted(marks))
        return [(touched, owner) for touched, owner in owners if owner is not None]

    def _mark_text(self, mark: str) -> str:
        """The name of a mark, or its content if the name is shortened."""
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
        """Removes temporary files that killed calls left behind."""
        folders.sweep(f"{self.folder}/{component(network)}", plain=True)
        for folder in (f"{self.folder}/.tombstones", self.folder):
            folders.sweep(folder)

    def require_writable(self) -> None:
        """Returns if entries can be written."""
        make_directory(self.folder)
        probe = folders.temporary(f"{self.folder}/probe")
        write_file(probe, b"")
        remove_file(probe)

    def _random_id(self) -> str:
        path = f"{self.folder}/.machine"
        made = f"barewire-{os.urandom(16).hex()}"
        if not os.path.exists(path):
            make_directory(self.folder)
            create_file(path, f"{made}\n".encode())  # If another call was faster, its ID is used.
        return _kept_id(self.folder) or made

    def _load(self, path: str) -> Entry | None:
        content = read_file(path)
        try:
            return None if content is None else decode(content)
        except ValueError as error:
            # The content is lost. The addresses stay with their owner until a GC finds them in the cluster.
            kept = folders.set_aside(path)
            if kept:
                self.warn(f"{path}: {error}; kept as {kept}")
            return None

    def _path(self, owner: Owner) -> str:
        return path_in(self.folder, owner)

    def _mark_path(self, owner: Owner) -> str:
        return f"{self.folder}/.tombstones/{component(_mark_name(owner))}"


def path_in(folder: str, owner: Owner) -> str:
    """The file of an owner's entry. Raises `IoFailure` for an invalid owner."""
    return f"{folder}/{component(owner.network)}/{component(f'{owner.container_id}:{owner.ifname}', folders.DOCUMENT)}"


def known_machine(folder: str) -> str:
    """The identity that `Journal.machine` returns, without creating one."""
    try:
        return _machine_id(MACHINE_ID) or _kept_id(folder)
    except IoFailure:
        return ""


def _kept_id(folder: str) -> str:
    """The ID that the journal created for this machine; empty if there is none."""
    return (read_file(f"{folder}/.machine") or b"").decode(errors="replace").strip()


def _machine_id(path: str) -> str:
    """The machine ID in the file; empty if there is none.

    In an image the file can be empty or "uninitialized" until the first boot has finished.
    """
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
    """The owner, as messages show it."""
    return f"{owner.network}/{owner.container_id}/{owner.ifname}"


def _mark_name(owner: Owner) -> str:
    return f"{owner.network}:{owner.container_id}:{owner.ifname}"


def _owner(mark: str) -> Owner | None:
    """The owner that a mark names; None if it is not a valid mark."""
    network, _, rest = mark.partition(":")
    container_id, _, ifname = rest.partition(":")
    if attachment_fault(network, container_id, ifname):
        return None
    return Owner(network=network, container_id=container_id, ifname=ifname)
