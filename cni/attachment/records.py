"""The records: one JSON file per attachment, written before the first change and removed when everything is undone.

`<run>/spare/<device>` is a backup of the record of a device that cannot carry a mark. Like the changes to the device,
it ends with the boot. So does `<run>/marks/<device>`, a link whose text is a note of the plugin and the owner of a
device that we marked: a pod can write any mark to its interface. `<run>/collected-<plugin>` names the boot for which
the leftovers of earlier boots have been removed.

`<state>/<network>/<container ID>:<ifname>.json` is the record. `<state>/.devices/<device>` links to the record that
owns the device, `<state>/.pending/<network>:<container ID>:<ifname>` to a record whose removal could not finish.
Both can be looked up without reading records. The record is authoritative; a dangling link is ignored. Names that are
too long for a file are shortened (`cni.names.file_name`).
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
LOOKED_AT = 64
"""Device links that one call examines for leftovers: it must not pay for all on a node with a thousand devices."""


class Mark(Value):
    """The mark that we set on a device: the plugin's note about its found state, and its owner."""

    note: str
    key: Key


class Attachments:
    """The records of one plugin on this node, and the locks of their devices. Records of other plugins are ignored."""

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
        self._claimed: dict[Key, _HeldFile] = {}
        self._plugin = plugin
        self._lasting_locks = lasting_locks
        self._lock_seconds = lock_seconds
        self._warn = warn
        self.boot_id = _boot_id()

    def locked(self, device: str, seconds: float | None = None) -> Lock:
        """The lock of a device (or of any other name), held during all work on its record."""
        bound = self._lock_seconds if seconds is None else seconds
        return Lock(f"{self._run}/lock/{component(device)}", device, bound, lasting=self._lasting_locks)

    def locked_record(self, record: Record, seconds: float | None = None) -> Lock:
        """The lock of a record's device, or of the record itself if it has no device."""
        if record.device:
            return self.locked(record.device, seconds)
        bound = self._lock_seconds if seconds is None else seconds
        return Lock(f"{self._run}/lock/{component(_flat(record.key))}", str(record.key), bound, lasting=False)

    def locked_directories(self) -> Lock:
        """The lock for checks of which attachments share a directory; it is held for milliseconds.

        All directories share one lock, whose file is kept. With a lock file per directory, killed calls would leave
        files that no later call removes.
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
        """Whether a record owns the device, without reading the record: this may be wrong if a call was killed."""
        return os.path.lexists(self._device_link(device))

    def claim(self, record: Record, *, backup: bool = False, note: str | None = None) -> None:
        """Saves a new record. Raises `DeviceBusy`, and changes nothing, if the attachment has one already.

        `backup`: keeps a backup until the next boot, for a device that cannot carry a mark.
        `note`: information about a marked device that is needed, until the next boot, if the record is lost.

        The caller checks the owner of the device, under its lock. Two ADDs of one attachment with different devices
        hold different locks; the exclusive creation of the record file decides between them.
        """
        make_directory(os.path.dirname(self._path(record.key)))
        if record.device:
            _link(_target(record.key), self._device_link(record.device))
        with on_failure(self._unclaim, record):
            if not create_file(self._path(record.key), record.encoded()):
                raise _attached_already(self._load(self._path(record.key)) or record)
            self._claimed[record.key] = _HeldFile(self._path(record.key))
        if backup:
            with on_failure(self.forget, record):
                make_directory(os.path.dirname(self._backup(record.device)))
                write_file(self._backup(record.device), record.encoded())
        if note is not None:
            with on_failure(self.forget, record):
                _link(f"{note} {record.key}", self._mark(record.device))

    def marked(self, device: str) -> Mark | None:
        """The mark that we set on a device since the last boot and have not removed."""
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
        """Deletes the note about the mark of a device that no longer carries it."""
        remove_file(self._mark(device))

    def _unclaim(self, record: Record) -> None:
        if record.device:
            remove_file(self._device_link(record.device))

    def save(self, record: Record) -> None:
        """Writes a record, atomically."""
        make_directory(os.path.dirname(self._path(record.key)))
        write_file(self._path(record.key), record.encoded())
        if record.key in self._claimed:
            self._claimed[record.key] = _HeldFile(self._path(record.key))

    def has_written(self, key: Key) -> bool:
        """Whether the attachment's record is the file that this object has written, and not one of another call."""
        try:
            return key in self._claimed and self._claimed[key].is_at(self._path(key))
        except OSError:
            return False

    def keep_pending(self, record: Record) -> None:
        """Marks a record as pending, so that a later call can finish its removal."""
        kept = record.replace(removing=True)
        # Without progress, the age of the file is the time since the first try.
        if self.find(kept.key) != kept:
            self.save(kept)
        _link(_target(kept.key), self._pending_link(kept.key))
        if DEVICE not in kept.left:
            self._drop_spare(kept)
            self._drop_mark(kept)
            self._release_device(kept)

    def forget(self, record: Record) -> None:
        """Removes a record, after everything in it has been undone.

        The link is removed first: once the record is gone, a new ADD of the same attachment may create its own link.
        """
        remove_file(self._pending_link(record.key))
        self._drop_spare(record)
        self._drop_mark(record)
        remove_file(self._path(record.key))
        self._release_device(record)

    def pending(self) -> list[Record]:
        """The records whose removal could not finish, the one with the oldest try first.

        Dangling links, which crashed calls left, are removed.
        """
        return [record for _tried, record in sorted(self._pending(), key=lambda entry: entry[0])]

    def due(self) -> list[Record]:
        """Those whose next try is due (`cni.pauses`)."""
        now, pending = time.time(), sorted(self._pending(), key=lambda entry: entry[0])
        return [one for tried, one in pending if pauses.is_due(folders.changed(self._path(one.key)), tried, now)]

    def tried(self, key: Key) -> None:
        """Notes a try of a pending record."""
        folders.touch(self._pending_link(key))

    def _pending(self) -> Iterator[tuple[float, Record]]:
        folder = f"{self._state}/.pending"
        for name in folders.keys(folder):
            # keep_pending recreates the link each time, so its age is the time since the last try.
            tried, record = folders.changed(f"{folder}/{name}"), self._readable(f"{folder}/{name}")
            if record is not None and record.removing and self._own(record) is not None:
                yield tried, record
            elif record is None and not os.path.exists(f"{folder}/{name}"):
                remove_file(f"{folder}/{name}")

    def recover(self) -> None:
        """Restores lost records from their backups."""
        for device in folders.keys(f"{self._run}/spare", plain=True):
            if self._lost(device) is None:
                continue
            try:
                with self.locked(device, 0.0):
                    # Checked again under the lock, because a removal may just have finished.
                    lost = self._lost(device)
                    if lost is not None:
                        self._warn(f"the record of {lost.key} was lost; its copy takes its place")
                        _link(_target(lost.key), self._device_link(device))
                        self.save(lost)
            except TryAgainLater:
                continue

    def _lost(self, device: str) -> Record | None:
        backup = self._load(self._backup(device))
        if backup is None or backup.device != device or os.path.exists(self._path(backup.key)):
            return None
        return backup

    def _drop_spare(self, record: Record) -> None:
        if not record.device:
            return
        path = self._backup(record.device)
        copy = self._load(path)
        if copy is not None and copy.key == record.key:
            remove_file(path)

    def _drop_mark(self, record: Record) -> None:
        mark = self.marked(record.device) if record.device else None
        if mark is not None and mark.key == record.key:
            self.unmark(record.device)

    def sweep(self, network: str) -> None:
        """Removes leftovers of killed calls: temporary files, and dangling device links."""
        devices = f"{self._state}/.devices"
        # Names of records end in .json, backups have the name of a PCI device, and names of links end with an interface
        # name.
        for folder in (f"{self._state}/{component(network)}", f"{self._run}/spare"):
            folders.sweep(folder, plain=True)
        for folder in (f"{self._state}/.pending", self._state, f"{self._run}/marks"):
            folders.sweep(folder)
        for device in _some(folders.sweep(devices)):
            if not os.path.exists(f"{devices}/{device}"):
                self._remove_dangling(device)

    def _remove_dangling(self, device: str) -> None:
        try:
            # An ADD holds this lock while it creates the link and then the record.
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
        """Whether `collected` was called in this boot."""
        try:
            return os.readlink(self._collected()) == self.boot_id
        except OSError:
            return False

    def collected(self) -> None:
        """Notes that all leftovers of earlier boots have been removed."""
        _link(self.boot_id, self._collected())

    def of_earlier_boots(self) -> list[Record]:
        """The records, in all networks, of attachments of earlier boots that no call has removed."""
        records = [record for network in self.networks() for record in self.of_network(network)]
        return [one for one in records if one.boot_id != self.boot_id and not one.removing]

    def others_with(self, key: Key, text: str) -> list[Record]:
        """The other records of this plugin that contain the text as a value, such as a shared path."""
        needle = jsontext.dumps(text).encode()
        paths = [
            f"{self._state}/{network}/{name}"
            for network in self.networks()
            for name in folders.documents(f"{self._state}/{network}")
        ]
        found = [self._own(self._readable(path)) for path in paths if needle in _content(path)]
        return [one for one in found if one is not None and one.key != key]

    def writable(self) -> None:
        """Checks that records can be written. Raises `IoFailure`."""
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
        """The record at a path; None if it leads to none of our records."""
        path = self._resolved(path)
        content = read_file(path) if path and self._is_ours(path) else None
        try:
            return None if content is None else decode(content, path)
        except DamagedRecord as error:
            # Its information is lost; the attachment is treated like one without a record, by the device's own mark.
            kept = folders.set_aside(path)
            if kept:
                self._warn(f"{error}; kept as {kept}")
            return None

    def _resolved(self, path: str) -> str:
        """The resolved path; empty if nothing exists there. Each directory on the path is checked once per call."""
        folder, _, name = path.rpartition("/")
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except FileNotFoundError:
            return ""
        except OSError:
            is_link = True  # reading it reports the reason
        if is_link:
            return os.path.realpath(path)
        if folder not in self._resolved_folders:
            self._resolved_folders[folder] = os.path.realpath(folder)
        return f"{self._resolved_folders[folder]}/{name}"

    def _is_ours(self, path: str) -> bool:
        """Whether a path is in our directories: our links lead nowhere else, and their targets may be renamed."""
        self._roots = self._roots or tuple(f"{os.path.realpath(root)}/" for root in (self._state, self._run))
        return path.startswith(self._roots)

    def _release_device(self, record: Record) -> None:
        # Only the link to this record: the device may already have the link of its next owner.
        if not record.device:
            return
        link = self._device_link(record.device)
        if _leads_to(link, _target(record.key)) or os.path.realpath(link) == os.path.realpath(self._path(record.key)):
            remove_file(link)

    def _path(self, key: Key) -> str:
        return f"{self._state}/{component(key.network)}/{component(_stem(key), folders.DOCUMENT)}"

    def _device_link(self, device: str) -> str:
        return f"{self._state}/.devices/{component(device)}"

    def _backup(self, device: str) -> str:
        return f"{self._run}/spare/{component(device)}"

    def _mark(self, device: str) -> str:
        return f"{self._run}/marks/{component(device)}"

    def _collected(self) -> str:
        return f"{self._run}/collected-{component(self._plugin)}"

    def _pending_link(self, key: Key) -> str:
        return f"{self._state}/.pending/{component(_flat(key))}"


class LockedRecord:
    """A record read again under its device's lock: `with LockedRecord(attachments, key) as record`; None if it is gone.

    Another call may have replaced the record before the lock was acquired.
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


class _HeldFile:
    """A file that stays open: meanwhile no other file can get its inode number, also if it is removed."""

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # somebody has just removed it

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def is_at(self, path: str) -> bool:
        """Whether the path still leads to this file. Raises `OSError` when it leads nowhere."""
        ours, found = os.fstat(self._fd), os.lstat(path)
        return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)


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
            f"cannot link {path}: {os.strerror(error.errno or 0)}", hint=f"check the mount of {path}"
        ) from error


def _some(names: list[str]) -> list[str]:
    """At most `LOOKED_AT` of the names, from a random one on, so that all have their turn."""
    if len(names) <= LOOKED_AT:
        return names
    # The numbers of processes are not random: one caller may have every second, or the same one each time.
    start = int.from_bytes(os.urandom(4), "little") % len(names)
    return [*names[start:], *names[:start]][:LOOKED_AT]


def _leads_to(link: str, target: str) -> bool:
    """Whether the link has this text: one system call, where resolving both paths takes a dozen."""
    try:
        return os.readlink(link) == target
    except OSError:
        return False


def _stem(key: Key) -> str:
    return f"{key.container_id}:{key.ifname}"


def _target(key: Key) -> str:
    """The target of a link beside the networks' directories."""
    return f"../{component(key.network)}/{component(_stem(key), folders.DOCUMENT)}"


def _flat(key: Key) -> str:
    return f"{key.network}:{key.container_id}:{key.ifname}"


def _boot_id() -> str:
    content = read_file("/proc/sys/kernel/random/boot_id")
    return content.decode().strip() if content else ""
