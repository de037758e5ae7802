"""The way back of the `userspace` plugin: the port goes, with its socket; by its record, or without one by its owner's mark."""

from __future__ import annotations

from cni import removal
from cni.attachments import NO_DEVICE
from cni.record import DEVICE, POD, Key, Record
from cni.rollback import bound, run_all
from cni.userspace.attachment import PLUGIN, from_record, owner_of
from cni.userspace.directory import own
from cni.userspace.model import NOBODY
from cni.userspace.plan import config_file_name, port_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.attachments import Attachments
    from cni.log import Log
    from cni.ports import Ipam
    from cni.userspace.model import Seen
    from cni.userspace.world import World


UNPLUG_SECONDS = 10.0
"""Bound for the vswitch: a pod that goes does not wait for it longer, what is left is done by a later call."""


class Removal(removal.Removal):
    """Undoes attachments of ports."""

    def __init__(self, *, world: World, attachments: Attachments, ipam: Ipam, log: Log) -> None:
        super().__init__(namespaces=world.namespaces, attachments=attachments, ipam=ipam, log=log)
        self._world = world

    def steps(self, record: Record, seconds: float | None) -> dict[str, Callable[[], None]]:
        return {
            POD: lambda: self._world.publisher.withdraw(record, from_record(record), seconds),
            DEVICE: lambda: self._unplug(record, seconds),
            **super().steps(record, seconds),
        }

    def holds_up(self, _record: Record, /) -> bool:
        """Nothing of a port keeps a pod from going: what is left is in nobody's way but the same attachment's."""
        return False

    def _unplug(self, record: Record, seconds: float | None) -> None:
        if not record.wanted["port"]:
            self.delete_unrecorded(record.key, record.wanted["remote"], record.wanted["vhost"])
            return
        attachment = from_record(record)
        bound = UNPLUG_SECONDS if seconds is None else min(seconds, UNPLUG_SECONDS)
        names = tuple(name for name in (attachment.socket, attachment.config_file) if name)
        run_all(
            lambda: self._world.vswitch(attachment.remote, seconds=bound).unplug(attachment.port.owner),
            lambda: self._world.sockets.remove(attachment.directory, names),
        )

    def delete_unrecorded(self, key: Key, remote: str, vhost: str) -> None:
        """Removes the ports that bear the attachment's mark, with their short folders in `vhost`, if no record has them."""
        owner = owner_of(key)
        vswitch = self._world.vswitch(remote)
        sockets = {port_name(key): "", **{seen.port.name: seen.port.path for seen in vswitch.show(owner=owner)}}
        for name, path in sockets.items():
            with self._attachments.locked(name):
                if self._attachments.of_device(name) is None:
                    if path:
                        self._log.warning(f"port {name} of {key} has no record, only its mark: removing it")
                        vswitch.unplug(owner, name=name)
                    self._remove_places(vhost, name, path.rpartition("/")[2])

    def promise(self, key: Key, remote: str, vhost: str) -> None:
        """Leaves a record to do `delete_unrecorded` later."""
        promised = Record(
            key=key,
            plugin=PLUGIN,
            device="",
            netns="",
            netns_identity="",
            boot_id=self._attachments.boot_id,
            left=(DEVICE,),
            found={},
            wanted={"port": None, "remote": remote, "vhost": vhost},
            removing=True,
        )
        with self._attachments.locked(NO_DEVICE):
            if self._attachments.find(key) is None:
                self._attachments.claim(promised)
                self._attachments.keep_pending(promised)

    def clean_orphans(self, network: str, valid: set[tuple[str, str]], remote: str, vhost: str) -> None:
        """Removes this network's ports of no valid attachment and without a record, and folders that lead nowhere."""
        seen = self._world.vswitch(remote).show()
        keys = [_key(one) for one in seen]
        stale = [key for key in keys if key.network == network and (key.container_id, key.ifname) not in valid]
        ports = {one.port.name for one in seen}
        folders = {*self._world.sockets.folders(vhost), *self._world.sockets.own_directories()}
        run_all(
            *[bound(self.delete_unrecorded, key, remote, vhost) for key in stale],
            *[bound(self._remove_orphaned_places, vhost, name) for name in sorted(folders - ports)],
        )

    def remove_orphan(self, name: str, remote: str, vhost: str) -> None:
        """Removes the port of that name if it bears a mark and has no record, and the folders of that name."""
        for seen in self._world.vswitch(remote).show(name=name):
            if seen.port.owner != NOBODY:
                self.delete_unrecorded(_key(seen), remote, vhost)
        self._remove_orphaned_places(vhost, name)

    def _remove_orphaned_places(self, vhost: str, name: str) -> None:
        with self._attachments.locked(name):
            if self._attachments.of_device(name) is None:
                self._remove_places(vhost, name, "")

    def _remove_places(self, vhost: str, name: str, socket: str) -> None:
        names = tuple(one for one in (socket, config_file_name(name)) if one)
        self._world.sockets.remove_folder(f"{vhost}/{name}", names)
        self._world.sockets.remove(own(name), names)


def _key(seen: Seen) -> Key:
    owner = seen.port.owner
    return Key(network=owner.network, container_id=owner.container_id, ifname=owner.ifname)
