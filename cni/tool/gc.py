"""Finds leftovers of deleted pods in all networks, and removes them.

Most runtimes never call GC, which has a list of valid attachments. This command has none: an attachment is a leftover
if its removal could not finish, if its network namespace is gone, or if it is from an earlier boot. A device or a port
is a leftover if it carries an owner's mark and has no record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from cni.errors import CniError, TryAgainLater
from cni.pci import parse
from cni.sriov import repair
from cni.tool.giving_up import give_up
from cni.userspace.plan import is_port_name
from cni.userspace.vswitch.model import NOBODY
from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cni.attachment.record import Key, Record
    from cni.attachment.records import Attachments
    from cni.attachment.removal import Removal
    from cni.sriov.kernel import Kernel
    from cni.sriov.removal import DeviceRemoval
    from cni.userspace.adapters import Adapters
    from cni.userspace.removal import PortRemoval


class Leftover(Value):
    """A leftover with the reason: an attachment by its key, or a device or port without a record (`key` None)."""

    device: str
    reason: str
    key: Key | None = None

    def __str__(self) -> str:
        return f"{self.key or 'no record'}  {self.device or 'no device'}  {self.reason}"


class Collection(ABC):
    """The leftovers of one plugin on the node, and their removal."""

    def __init__(self, attachments: Attachments, removal: Removal) -> None:
        self._attachments = attachments
        self._removal = removal

    def leftovers(self) -> list[Leftover]:
        """The leftovers, attachments first. This changes nothing, except that it restores lost records."""
        self._attachments.recover()
        return [*self._attachments_left(), *self.unrecorded()]

    def damaged(self) -> list[str]:
        """Objects with our mark that cannot be ours, one line each, for an administrator. They are not changed."""
        return []

    def remove(self, leftovers: Iterable[Leftover]) -> list[str]:
        """Removes them, each checked again under its lock. Returns the failures, one line each."""
        failures = []
        for leftover in leftovers:
            try:
                self._remove(leftover)
            except CniError as error:
                failures.append(f"{leftover}: {error.msg}")
        return failures

    def give_up(self, key: Key) -> str:
        """See `cni.tool.giving_up`."""
        return give_up(self._attachments, self._removal, key)

    @abstractmethod
    def unrecorded(self) -> Iterator[Leftover]:
        """Marked objects without a record."""

    @abstractmethod
    def remove_unrecorded(self, device: str) -> None:
        """Removes such an object."""

    def _remove(self, leftover: Leftover) -> None:
        if leftover.key is None:
            self.remove_unrecorded(leftover.device)
            return
        self._removal.collect_dead(leftover.key)
        kept = self._attachments.find(leftover.key)
        if kept is not None and kept.removing:
            raise TryAgainLater(f"still to do: {', '.join(kept.left)}")

    def _attachments_left(self) -> Iterator[Leftover]:
        for network in self._attachments.networks():
            for record in self._attachments.of_network(network):
                reason = self._reason(record)
                if reason:
                    yield Leftover(key=record.key, device=record.device, reason=reason)

    def _reason(self, record: Record) -> str:
        if record.removing:
            return f"its removal did not finish: {', '.join(record.left)}"
        if record.boot_id != self._attachments.boot_id:
            return "it is from before the last boot"
        return "" if self._removal.is_alive(record) else f"its network namespace {record.netns} is gone"


class Devices(Collection):
    """The leftovers of `sriov`."""

    _removal: DeviceRemoval

    def __init__(self, kernel: Kernel, attachments: Attachments, removal: DeviceRemoval) -> None:
        super().__init__(attachments, removal)
        self._kernel = kernel

    def unrecorded(self) -> Iterator[Leftover]:
        for device in repair.orphans(self._kernel):
            if self._attachments.of_device(device) is None and self._removal.is_orphan(device):
                yield Leftover(device=device, reason="it is back on the host with its owner's mark")

    def remove_unrecorded(self, device: str) -> None:
        self._removal.clean_if_orphaned(parse(device))


class Ports(Collection):
    """The leftovers of `userspace`, at the vswitch `remote` and in the short directories in `vhost`."""

    _removal: PortRemoval

    def __init__(
        self, adapters: Adapters, attachments: Attachments, removal: PortRemoval, *, remote: str, vhost: str
    ) -> None:
        super().__init__(attachments, removal)
        self._adapters = adapters
        self._remote = remote
        self._vhost = vhost

    def unrecorded(self) -> Iterator[Leftover]:
        try:
            ports = self._adapters.vswitch(self._remote).show()
        except TryAgainLater:
            return  # Most nodes have no vswitch. If one is down, the records that need it are reported.
        named = {seen.port.name for seen in ports if seen.port.owner != NOBODY}
        ours = {name for name in named if is_port_name(name)}
        for name in sorted(ours.union(self._removal.places(self._vhost))):
            if not self._attachments.has_owner(name):
                yield Leftover(device=name, reason="it is a port of ours, or its folder, without a record")

    def damaged(self) -> list[str]:
        try:
            names = self._removal.damaged(self._remote)
        except TryAgainLater:
            return []
        return [f"damaged: port {name!a} at {self._remote} has our mark, and no name of ours" for name in names]

    def remove_unrecorded(self, device: str) -> None:
        self._removal.remove_orphan(device, self._remote, self._vhost)
