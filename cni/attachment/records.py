"""The records: one JSON file per attachment, written before anything is changed and removed when all is undone.

`<run>/spare/<device>` is a second copy of the record of a device that cannot carry a mark; it ends with the boot, as
what was done to the device does. So does `<run>/marks/<device>`, a link whose text is a note of the plugin and the owner of a
device that we have marked: a pod can write any mark onto its interface. `<run>/collected-<plugin>` tells for which boot what
earlier ones left has been put away.

`<state>/<network>/<container ID>:<ifname>.json` is the record. `<state>/.devices/<device>` links to the record that
owns the device, `<state>/.pending/<network>:<container ID>:<ifname>` to a record whose removal could not finish.
Both are found by one look, without reading records; the record is the truth, a link that leads nowhere says nothing. Names
that are too long for a file are shortened (`cni.names.file_name`).
"""

from __future__ import annotations

import os
import stat
import time

from cni import jsontext, pauses
from cni.attachment.record import DEVICE, DamagedRecord, Key, Record, decode
from cni.errors import CniError, DeviceBusy, IoFailure, TryAgainLater
from cni.host import folders
from cni.host.files import (
    LOCK_SECONDS,
    Lock,
    component,
    create_file,
    make_directory,
    read_file,
    remove_file,
    require_private,
    write_file,
)
from cni.names import is_network_folder
from cni.rollback import on_failure
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATE_DIRECTORY = "/var/lib/cni/barewire"
RUN_DIRECTORY = "/run/barewire"


class Mark(Value):
    """The mark that we set on a device: what the plugin noted of the device as found, and its owner."""

    note: str
    key: Key


class Attachments:
    """The records of one plugin on this node, and the locks that guard their devices. Those of another are not found."""

    def __init__(
        self,
        state: str = STATE_DIRECTORY,
        run: str = RUN_DIRECTORY,
        *,
        plugin: str,
        lasting_locks: bool = True,
        lock_seconds: float = LOCK_SECONDS,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        require_private(state)
        require_private(run)
        self._state = state
        self._run = run
        self._roots: tuple[str, ...] = ()
        self._resolved_folders: dict[str, str] = {}
        self._plugin = plugin
        self._lasting_locks = lasting_locks
        self._lock_seconds = lock_seconds
        self._warn = warn
        self.boot_id = _boot_id()

    def locked(self, device: str, seconds: float | None = None) -> Lock:
        """Lock on a device (or on any other name); everything about its record happens under it."""
        bound = self._lock_seconds if seconds is None else seconds
        return Lock(f"{self._run}/lock/{component(device)}", device, bound, lasting=self._lasting_locks)

    def locked_record(self, record: Record, seconds: float | None = None) -> Lock:
        """Lock on what a record is about: its device, or where it has none itself."""
        if record.device:
            return self.locked(record.device, seconds)
        bound = self._lock_seconds if seconds is None else seconds
        return Lock(f"{self._run}/lock/{component(_flat(record.key))}", str(record.key), bound, lasting=False)

    def locked_directories(self) -> Lock:
        """Lock on which attachments share a directory, which is held for milliseconds.

        It is one for all, and stays: of one for each directory a killed call would leave a file that nobody asks for again.
        """
        return Lock(f"{self._run}/lock/.directories", "the directories of sockets", self._lock_seconds)

    def find(self, key: Key) -> Record | None:
        """The record of an attachment, or None."""
        return self._own(self._load(self._path(key)))

    def of_device(self, device: str) -> Record | None:
        """The record that owns a device, or None."""
        record = self._load(self._device_link(device))
        return record if record is not None and record.device == device and DEVICE in record.left else None

    def has_owner(self, device: str) -> bool:
        """Whether a record owns the device, by a look that reads none: it may be wrong when a call was killed."""
        return os.path.lexists(self._device_link(device))

    def claim(self, record: Record, *, spare: bool = False, note: str | None = None) -> None:
        """Saves a new record. Raises `DeviceBusy` when the attachment has one already, and changes nothing then.

        `spare`: keeps a second copy until the next boot, for a device that has nothing to carry a mark of its owner.
        `note`: for a device that gets a mark, what to know of it until the next boot if the record is lost.

        The device's owner is checked by the caller, under the device's lock. Two devices for one attachment have two
        locks: which of them gets the attachment is decided by the exclusive creation of the record file.
        """
        make_directory(os.path.dirname(self._path(record.key)))
        if record.device:
            _link(_target(record.key), self._device_link(record.device))
        with on_failure(self._unclaim, record):
            if not create_file(self._path(record.key), record.encoded()):
                raise _attached_already(self._load(self._path(record.key)) or record)
        if spare:
            with on_failure(self.forget, record):
                make_directory(os.path.dirname(self._spare(record.device)))
                write_file(self._spare(record.device), record.encoded())
        if note is not None:
            with on_failure(self.forget, record):
                _link(f"{note} {record.key}", self._mark(record.device))

    def marked(self, device: str) -> Mark | None:
        """The mark that we have set on a device since the last boot, and have not taken away."""
        try:
            note, _, owner = os.readlink(self._mark(device)).rpartition(" ")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise IoFailure(f"cannot read {self._mark(device)}: {os.strerror(error.errno or 0)}") from error
        names = owner.split("/")
        return (
            Mark(note=note, key=Key(network=names[0], container_id=names[1], ifname=names[2]))
            if len(names) == 3
            else None
        )

    def unmark(self, device: str) -> None:
        """Forgets the mark of a device that does not carry it any more."""
        remove_file(self._mark(device))

    def _unclaim(self, record: Record) -> None:
        if record.device:
            remove_file(self._device_link(record.device))

    def save(self, record: Record) -> None:
        """Writes a record, atomically."""
        make_directory(os.path.dirname(self._path(record.key)))
        write_file(self._path(record.key), record.encoded())

    def keep_pending(self, record: Record) -> None:
        """Keeps a record whose removal is not finished, so that any later call can finish it."""
        kept = record.replace(removing=True)
        # The file's age is the time since the first try, as long as nothing gets done.
        if self.find(kept.key) != kept:
            self.save(kept)
        _link(_target(kept.key), self._pending_link(kept.key))
        if DEVICE not in kept.left:
            self._drop_spare(kept)
            self._drop_mark(kept)
            self._release_device(kept)

    def forget(self, record: Record) -> None:
        """Removes a record; called when everything that it tells of has been undone.

        The link to it goes first: once the record is gone, the same attachment may be made again, with a link of its own.
        """
        remove_file(self._pending_link(record.key))
        self._drop_spare(record)
        self._drop_mark(record)
        remove_file(self._path(record.key))
        self._release_device(record)

    def pending(self) -> list[Record]:
        """The records whose removal could not finish, the one that was tried the longest ago first.

        A link that leads to no record is a crash's leftover, and is removed.
        """
        return [record for _tried, record in sorted(self._pending(), key=lambda entry: entry[0])]

    def due(self) -> list[Record]:
        """Those of them that are to be tried again by now (`cni.pauses`)."""
        now, pending = time.time(), sorted(self._pending(), key=lambda entry: entry[0])
        return [one for tried, one in pending if pauses.is_due(folders.changed(self._path(one.key)), tried, now)]

    def tried(self, key: Key) -> None:
        """Notes a try of a pending record."""
        try:
            os.utime(self._pending_link(key), follow_symlinks=False)
        except FileNotFoundError:
            return

    def _pending(self) -> Iterator[tuple[float, Record]]:
        folder = f"{self._state}/.pending"
        for name in folders.keys(folder):
            # keep_pending makes the link anew each time, so its age is the time since the last try.
            tried, record = folders.changed(f"{folder}/{name}"), self._readable(f"{folder}/{name}")
            if record is not None and record.removing and self._own(record) is not None:
                yield tried, record
            elif record is None and not os.path.exists(f"{folder}/{name}"):
                remove_file(f"{folder}/{name}")

    def recover(self) -> None:
        """Brings back lost records that have a second copy."""
        for device in folders.keys(f"{self._run}/spare", plain=True):
            if self._lost(device) is None:
                continue
            try:
                with self.locked(device, 0.0):
                    # Looked at again under the lock: a removal may just have ended.
                    lost = self._lost(device)
                    if lost is not None:
                        self._warn(f"the record of {lost.key} was lost; its copy takes its place")
                        _link(_target(lost.key), self._device_link(device))
                        self.save(lost)
            except TryAgainLater:
                continue

    def _lost(self, device: str) -> Record | None:
        spare = self._load(self._spare(device))
        is_its = spare is not None and spare.device == device
        return spare if spare is not None and is_its and not os.path.exists(self._path(spare.key)) else None

    def _drop_spare(self, record: Record) -> None:
        if not record.device:
            return
        path = self._spare(record.device)
        copy = self._load(path)
        if copy is not None and copy.key == record.key:
            remove_file(path)

    def _drop_mark(self, record: Record) -> None:
        mark = self.marked(record.device) if record.device else None
        if mark is not None and mark.key == record.key:
            self.unmark(record.device)

    def sweep(self, network: str) -> None:
        """Removes what killed calls left behind: temporary files, and device links that lead to no record."""
        devices = f"{self._state}/.devices"
        # A record's name ends in .json, a copy's is that of a PCI device. Those of links end with an interface's name.
        for folder in (f"{self._state}/{component(network)}", f"{self._run}/spare"):
            folders.sweep(folder, plain=True)
        for folder in (f"{self._state}/.pending", self._state, f"{self._run}/marks"):
            folders.sweep(folder)
        for device in folders.sweep(devices):
            if not os.path.exists(f"{devices}/{device}"):
                self._remove_dangling(device)

    def _remove_dangling(self, device: str) -> None:
        try:
            # An ADD makes the link before the record, and holds this lock meanwhile.
            with self.locked(device, 0.0):
                if not os.path.exists(self._device_link(device)):
                    remove_file(self._device_link(device))
        except TryAgainLater:
            return

    def networks(self) -> list[str]:
        """The names of all networks that have had records."""
        return [name for name in folders.keys(self._state) if is_network_folder(name)]

    def of_network(self, network: str) -> list[Record]:
        """The readable records of one network."""
        folder = f"{self._state}/{component(network)}"
        records = [self._own(self._readable(f"{folder}/{name}")) for name in folders.documents(folder)]
        return [record for record in records if record is not None]

    def has_collected(self) -> bool:
        """Whether `collected` was called since the node was booted."""
        try:
            return os.readlink(self._collected()) == self.boot_id
        except OSError:
            return False

    def collected(self) -> None:
        """Notes that nothing is left to do about what earlier boots left behind."""
        _link(self.boot_id, self._collected())

    def of_earlier_boots(self) -> list[Record]:
        """The records, of all networks, of attachments that a boot has ended and no call has removed."""
        records = [record for network in self.networks() for record in self.of_network(network)]
        return [one for one in records if one.boot_id != self.boot_id and not one.removing]

    def others_with(self, key: Key, text: str) -> list[Record]:
        """The records of this plugin, but for this attachment's, in which the text is a value, such as a path that both use."""
        needle = jsontext.dumps(text).encode()
        paths = [
            f"{self._state}/{network}/{name}"
            for network in self.networks()
            for name in folders.documents(f"{self._state}/{network}")
        ]
        found = [self._own(self._readable(path)) for path in paths if needle in _content(path)]
        return [one for one in found if one is not None and one.key != key]

    def writable(self) -> None:
        """Proves that records can be written. Raises `IoFailure`."""
        make_directory(self._state)
        make_directory(f"{self._run}/lock")
        probe = f"{self._state}/.probe"
        write_file(probe, b"")
        remove_file(probe)

    def _own(self, record: Record | None) -> Record | None:
        return record if record is not None and record.plugin == self._plugin else None

    def _readable(self, path: str) -> Record | None:
        try:
            return self._load(path)
        except IoFailure:
            return None

    def _load(self, path: str) -> Record | None:
        """The record that a path leads to, None where it leads to none of ours."""
        path = self._resolved(path)
        content = read_file(path) if path and self._is_ours(path) else None
        try:
            return None if content is None else decode(content, path)
        except DamagedRecord as error:
            # What it told is lost; its attachment is treated as one without a record, by the device's own mark.
            kept = folders.set_aside(path)
            if kept:
                self._warn(f"{error}; kept as {kept}")
            return None

    def _resolved(self, path: str) -> str:
        """Where the path leads, empty where nothing is. Each folder on the way is looked at once in a call."""
        folder, _, name = path.rpartition("/")
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except FileNotFoundError:
            return ""
        except OSError:
            is_link = True  # whoever reads it gets the reason
        if is_link:
            return os.path.realpath(path)
        if folder not in self._resolved_folders:
            self._resolved_folders[folder] = os.path.realpath(folder)
        return f"{self._resolved_folders[folder]}/{name}"

    def _is_ours(self, path: str) -> bool:
        """Whether it is in our folders: a link of ours leads nowhere else, and what it leads to may be renamed."""
        self._roots = self._roots or tuple(f"{os.path.realpath(root)}/" for root in (self._state, self._run))
        return path.startswith(self._roots)

    def _release_device(self, record: Record) -> None:
        # Only the link that leads to this record: the device can have the next owner's already.
        if not record.device:
            return
        link = self._device_link(record.device)
        if os.path.realpath(link) == os.path.realpath(self._path(record.key)):
            remove_file(link)

    def _path(self, key: Key) -> str:
        return f"{self._state}/{component(key.network)}/{component(_stem(key), folders.DOCUMENT)}"

    def _device_link(self, device: str) -> str:
        return f"{self._state}/.devices/{component(device)}"

    def _spare(self, device: str) -> str:
        return f"{self._run}/spare/{component(device)}"

    def _mark(self, device: str) -> str:
        return f"{self._run}/marks/{component(device)}"

    def _collected(self) -> str:
        return f"{self._run}/collected-{component(self._plugin)}"

    def _pending_link(self, key: Key) -> str:
        return f"{self._state}/.pending/{component(_flat(key))}"


class LockedRecord:
    """A record read again under its device's lock: `with LockedRecord(attachments, key) as record`; None when it is gone.

    The record found before the lock may be another call's by the time the lock is held.
    """

    def __init__(self, attachments: Attachments, key: Key, seconds: float | None = None) -> None:
        self._attachments = attachments
        self._key = key
        self._seconds = seconds
        self._lock: Lock | None = None

    def __enter__(self) -> Record | None:
        while True:
            record = self._attachments.find(self._key)
            if record is None:
                return None
            lock = self._attachments.locked_record(record, self._seconds)
            lock.acquire()
            again = self._attachments.find(self._key)
            if again is not None and again.device == record.device:
                self._lock = lock
                return again
            lock.release()

    def __exit__(self, *_exc: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _attached_already(record: Record) -> CniError:
    if DEVICE not in record.left:
        return TryAgainLater(
            f"the addresses of the previous attachment {record.key} are not released yet",
            hint="its IPAM plugin failed; if that is gone for good: barewire forget",
        )
    return DeviceBusy(
        f"container {record.key.container_id} already has {record.key.ifname}, with {record.device} of {record.plugin}",
        hint="DEL it first, or ask for another interface name",
    )


def _content(path: str) -> bytes:
    try:
        return read_file(path) or b""
    except IoFailure:
        return b""


def _link(target: str, path: str) -> None:
    make_directory(os.path.dirname(path))
    made = folders.temporary(path)
    try:
        remove_file(made)
        os.symlink(target, made)
        os.replace(made, path)
    except OSError as error:
        remove_file(made)
        raise IoFailure(
            f"cannot link {path}: {os.strerror(error.errno or 0)}", hint=f"look at the mount of {path}"
        ) from error


def _stem(key: Key) -> str:
    return f"{key.container_id}:{key.ifname}"


def _target(key: Key) -> str:
    """Where a link beside the networks' folders leads to."""
    return f"../{component(key.network)}/{component(_stem(key), folders.DOCUMENT)}"


def _flat(key: Key) -> str:
    return f"{key.network}:{key.container_id}:{key.ifname}"


def _boot_id() -> str:
    content = read_file("/proc/sys/kernel/random/boot_id")
    return content.decode().strip() if content else ""
