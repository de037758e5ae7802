"""Removes ports with their sockets: by their records, or without a record by their owner's mark."""

from __future__ import annotations

import os

from cni.attachment.record import DEVICE, POD, Key, Record
from cni.attachment.removal import Removal, within
from cni.errors import DeviceBusy, InvalidConfig, KubeRefused, TryAgainLater, VswitchRefused
from cni.host.files import LOCK_SECONDS
from cni.names import is_file_name
from cni.rollback import bound, run_all
from cni.userspace.attachment import PLUGIN, deferred_of, found_of, from_record, is_deferred, owner_of, wanted_of
from cni.userspace.plan import config_file_name, is_port_name, port_name
from cni.userspace.sockets import ownership
from cni.userspace.sockets.directory import SocketDirectory, own
from cni.userspace.vswitch.model import NOBODY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.attachment.ipam import Ipam
    from cni.attachment.records import Attachments
    from cni.host.files import Lock
    from cni.log import Log
    from cni.userspace.adapters import Adapters
    from cni.userspace.attachment import DeferredDict, PortAttachment
    from cni.userspace.vswitch.model import PortStatus


UNPLUG_SECONDS = 10.0
"""Time limit for the vswitch. A pod's deletion does not wait longer: a later call does the rest."""

LOOK_SECONDS = 2.0
"""Time limit for the configured database, after the recorded one did not respond."""

MOST_DEFERRED = 64
"""Maximum number of removals deferred until a vswitch responds.

On a node without a vswitch, every DEL would add one that can never be carried out.
"""


class PortRemoval(Removal):
    """Undoes attachments of ports. `present` is the database that is configured now; empty if there is none."""

    def __init__(
        self, *, adapters: Adapters, attachments: Attachments, ipam: Ipam, log: Log, present: str = ""
    ) -> None:
        super().__init__(namespaces=adapters.namespaces, attachments=attachments, ipam=ipam, log=log)
        self._adapters = adapters
        self._present = present

    def steps(self, record: Record, deadline: float | None) -> dict[str, Callable[[], None]]:
        return {
            POD: lambda: self._withdraw(record, deadline),
            DEVICE: lambda: self._unplug(record, deadline),
            **super().steps(record, deadline),
        }

    def blocks_delete(self, _record: Record, /) -> bool:
        """The rest of a port never blocks the pod's deletion: only an ADD of the same attachment needs its removal."""
        return False

    def remotes(self, record: Record) -> dict[str, str]:
        wanted = wanted_of(record)
        return {
            DEVICE: f"OVSDB at {wanted.get('remote')}",
            POD: f"API server of {wanted.get('kubeconfig') or 'the cluster'}",
            **super().remotes(record),
        }

    def _withdraw(self, record: Record, deadline: float | None) -> None:
        attachment = from_record(record)
        run_all(
            lambda: self.withdraw_device_info(record, POD),
            lambda: self._withdraw_annotations(record, attachment, deadline),
        )

    def _withdraw_annotations(self, record: Record, attachment: PortAttachment, deadline: float | None) -> None:
        try:
            self._adapters.publisher.withdraw(record, attachment, deadline)
        except (InvalidConfig, KubeRefused) as error:
            # Missing credentials or rights may be restored later, but a pod without a directory is gone.
            if not attachment.pod_folder or os.path.isdir(attachment.pod_folder):
                raise
            self._log.warning(f"the pod is gone, its annotations are not looked after: {error}")

    def _unplug(self, record: Record, deadline: float | None) -> None:
        if self.is_deferred(record):
            self._remove_deferred(record, deadline)
            return
        attachment = from_record(record)
        seconds = within(deadline, UNPLUG_SECONDS)
        unplugged: list[str] = []

        def unplug() -> None:
            try:
                self._adapters.vswitch(attachment.remote, seconds=seconds).unplug(attachment.port.owner)
            except TryAgainLater:
                if not self._has_moved(record.key, attachment.remote, deadline):
                    raise
                self._adapters.vswitch(self._present, seconds=within(deadline, UNPLUG_SECONDS)).unplug(
                    attachment.port.owner
                )
            unplugged.append(attachment.port.name)

        run_all(unplug, lambda: self._remove_socket(record, attachment, bool(unplugged)))

    def _remove_deferred(self, record: Record, deadline: float | None) -> None:
        wanted = deferred_of(record)
        remote, vhost = wanted["remote"], wanted["vhost"]
        try:
            self.delete_unrecorded(record.key, remote, vhost, deadline)
        except TryAgainLater:
            if not self._has_moved(record.key, remote, deadline):
                raise
            self.delete_unrecorded(record.key, self._present, vhost, deadline)

    def _has_moved(self, key: Key, remote: str, deadline: float | None) -> bool:
        """Whether the attachment's ports are in the database that is configured now: its socket may have moved."""
        if self._present in ("", remote):
            return False
        try:
            vswitch = self._adapters.vswitch(self._present, seconds=within(deadline, LOOK_SECONDS))
            return bool(vswitch.show(owner=owner_of(key)))
        except (TryAgainLater, VswitchRefused):
            return False

    def _remove_socket(self, record: Record, attachment: PortAttachment, unplugged: bool) -> None:
        """Removes the socket and its directory, except parts that another attachment uses by now.

        A socket with a configured name, or the interface's, has the same name in the pod's next sandbox.
        """
        directory = attachment.directory
        with self.locked_directories():
            beside = self.in_directory(record.key, attachment)
            shared = any(wanted_of(other)["socket"] == attachment.socket for other in beside)
            socket = "" if shared else attachment.socket
            kept: frozenset[str] = frozenset().union(*[ownership.changes(directory_of(other)) for other in beside])
            left = self._going(record.key, directory, beside)
            self._adapters.sockets.remove(left, socket, attachment.config_file, found=found_of(record), kept=kept)
            if unplugged and (beside or left != directory):
                # The next removal must not count this attachment among those that need the directory.
                self._attachments.keep_pending(record.replace(left=tuple(set(record.left) - {DEVICE})))

    def locked_directories(self) -> Lock:
        """The lock on the use of directories. A port's lock may be held; no lock is taken while this one is held."""
        return self._attachments.locked_directories()

    def in_directory(self, key: Key, attachment: PortAttachment) -> list[Record]:
        """The other attachments whose sockets are in this one's directory."""
        path = attachment.directory.path
        found = self._attachments.others_with(key, path)
        return [
            one for one in found if DEVICE in one.left and (wanted_of(one).get("directory") or {}).get("path") == path
        ]

    def with_parents(self, key: Key, directory: SocketDirectory) -> SocketDirectory:
        """The directory with the parents that are removed with it: missing ones, and those of our attachments."""
        if not directory.absent and not directory.made:
            return directory
        parents = []
        for folder in directory.above:
            if os.path.lexists(folder) and not self.making(key, folder):
                break
            parents.append(folder)
        return directory.replace(parents=tuple(parents))

    def _going(self, key: Key, directory: SocketDirectory, beside: list[Record]) -> SocketDirectory:
        """The directory without the parts that other attachments use: the last of these attachments removes them."""
        if beside or (directory.absent and self.making(key, directory.path)):
            return directory.replace(absent=False, parents=())
        parents = list(directory.parents)
        for place, folder in enumerate(parents):
            if self.making(key, folder):
                del parents[place:]
                break
        return directory.replace(parents=tuple(parents))

    def making(self, key: Key, folder: str) -> list[Record]:
        """The other attachments that made the folder, or found that another one had made it: each of them needs it."""
        with_it = self._attachments.others_with(key, folder)
        return [one for one in with_it if DEVICE in one.left and _makes(one, folder)]

    def is_deferred(self, record: Record, /) -> bool:
        """Whether `defer` made the record."""
        return is_deferred(record)

    def delete_unrecorded(self, key: Key, remote: str, vhost: str, deadline: float | None = None) -> None:
        """Removes the ports with the attachment's mark, and their short directories in `vhost`, unless recorded."""
        owner = owner_of(key)
        vswitch = self._adapters.vswitch(remote, seconds=within(deadline, UNPLUG_SECONDS))
        shown = {seen.port.name: seen.port.path for seen in vswitch.show(owner=owner)}
        for name, path in {port_name(key): "", **shown}.items():
            if not is_port_name(name):
                # Every client of the database, and the server itself, can choose the name: do not use it as a path or a
                # lock.
                self._log.warning(
                    f"{remote}: the port {name!a} of {key} has a name that we do not give: it is left alone"
                )
                continue
            with self._attachments.locked(name, None if deadline is None else within(deadline, LOCK_SECONDS)):
                if self._attachments.of_device(name) is None:
                    if name in shown:
                        self._log.warning(f"port {name} of {key} has no record, only its mark: removing it")
                        self._adapters.vswitch(remote, seconds=within(deadline, UNPLUG_SECONDS)).unplug(
                            owner, name=name
                        )
                    socket = path.rpartition("/")[2]
                    self._remove_places(vhost, name, socket if is_file_name(socket) else "")

    def defer(self, key: Key, remote: str, vhost: str) -> None:
        """Saves a record by which a later call runs `delete_unrecorded`."""
        wanted: DeferredDict = {"port": None, "remote": remote, "vhost": vhost}
        deferred = Record(
            key=key,
            plugin=PLUGIN,
            device="",
            netns="",
            netns_identity="",
            boot_id=self._attachments.boot_id,
            left=(DEVICE,),
            found={},
            wanted=wanted,
            removing=True,
        )
        if sum(map(self.is_deferred, self._attachments.pending())) >= MOST_DEFERRED:
            self._log.warning(
                f"{MOST_DEFERRED} removals wait for a vswitch already: no other is noted, GC finds the port"
            )
            return
        with self._attachments.locked_record(deferred):
            if self._attachments.find(key) is None:
                try:
                    self._attachments.claim(deferred)
                except (DeviceBusy, TryAgainLater):
                    return  # Another plugin has the attachment, which has no port then; or a concurrent ADD was faster.
                self._attachments.keep_pending(deferred)

    def clean_orphans(self, network: str, valid: set[tuple[str, str]], remote: str, vhost: str) -> None:
        """Removes this network's ports without a record or a valid attachment, and short directories without a port."""
        seen = self._adapters.vswitch(remote).show()
        keys = [_key(one) for one in seen]
        stale = [key for key in keys if key.network == network and (key.container_id, key.ifname) not in valid]
        ports = {one.port.name for one in seen}
        run_all(
            *[bound(self.delete_unrecorded, key, remote, vhost) for key in stale],
            *[bound(self._remove_orphaned_places, vhost, name) for name in self.places(vhost) if name not in ports],
        )

    def damaged(self, remote: str) -> list[str]:
        """The ports with our mark that cannot be ours: their names, or their owners' names, are invalid."""
        seen = self._adapters.vswitch(remote).show()
        return [one.port.name for one in seen if one.port.owner == NOBODY or not is_port_name(one.port.name)]

    def places(self, vhost: str) -> list[str]:
        """The names of ports that have a short directory in `vhost`, or a directory that we created."""
        names = {*self._adapters.sockets.folders(vhost), *self._adapters.sockets.own_directories()}
        return sorted(name for name in names if is_port_name(name))

    def remove_orphan(self, name: str, remote: str, vhost: str) -> None:
        """Removes the port of that name if it has a mark and no record, and the directories of that name."""
        if not is_port_name(name):
            return
        for seen in self._adapters.vswitch(remote).show(name=name):
            if seen.port.owner != NOBODY:
                self.delete_unrecorded(_key(seen), remote, vhost)
        self._remove_orphaned_places(vhost, name)

    def _remove_orphaned_places(self, vhost: str, name: str) -> None:
        with self._attachments.locked(name):
            if self._attachments.of_device(name) is None:
                self._remove_places(vhost, name, "")

    def _remove_places(self, vhost: str, name: str, socket: str) -> None:
        self._adapters.sockets.remove_folder(f"{vhost}/{name}", socket, config_file_name(name))
        self._adapters.sockets.remove(own(name), socket, config_file_name(name))


def directory_of(record: Record) -> SocketDirectory:
    """The directory of a recorded attachment's socket."""
    return SocketDirectory.from_document(wanted_of(record)["directory"])


def _makes(record: Record, folder: str) -> bool:
    """Whether the attachment made the folder, or found that another one had made it."""
    directory = wanted_of(record).get("directory") or {}
    return folder in (directory.get("parents") or ()) or (
        directory.get("path") == folder and bool(directory.get("absent"))
    )


def _key(seen: PortStatus) -> Key:
    owner = seen.port.owner
    return Key(network=owner.network, container_id=owner.container_id, ifname=owner.ifname)
