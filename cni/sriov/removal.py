"""Removes attachments of devices by their records, or by the marks on devices whose records are lost."""

from __future__ import annotations

import time

from cni.attachment.record import DEVICE
from cni.attachment.removal import Removal, is_on_the_side
from cni.errors import DeviceBusy
from cni.host.netns import OptionalNetns
from cni.pci import parse
from cni.rollback import bound, run_all
from cni.sriov import model, repair
from cni.sriov.attach import DeviceNotClean, detach
from cni.sriov.renewal import RenewalRules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.attachment.ipam import Ipam
    from cni.attachment.record import Key, Record
    from cni.attachment.records import Attachments, Mark
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.sriov.kernel import Kernel

HOME_SECONDS = 3.0
"""Time limit for a device that returns from a removed namespace: the kernel needs up to about a second."""


REBIND_SECONDS = 3.0
"""The time that a removal for another call must have left to rebind a driver: mlx5 needs seconds, and that call
waits."""


class DeviceRemoval(Removal):
    """Undoes attachments of devices. With `rebind` each device gets a new network device."""

    def __init__(self, *, kernel: Kernel, attachments: Attachments, ipam: Ipam, log: Log, rebind: bool = False) -> None:
        super().__init__(namespaces=kernel, attachments=attachments, ipam=ipam, log=log)
        self._kernel = kernel
        self._rebind = rebind
        self._untouched: set[Key] = set()
        self._handed_over: set[Key] = set()
        self._looked: dict[Key, str] = {}
        self._at_home: set[Key] = set()

    def steps(self, record: Record, deadline: float | None) -> dict[str, Callable[[], None]]:
        return {DEVICE: lambda: self._take_back(record, deadline), **super().steps(record, deadline)}

    def kept(self, record: Record) -> Record:
        """The record with the inspected network device: a repeated removal neither inspects nor rebinds again."""
        looked = self._looked.get(record.key)
        if not looked:
            return record
        found: model.FoundDict = {**model.found_of(record), "looked": looked}
        return record.replace(found=found)

    def blocks_delete(self, record: Record, /) -> bool:
        """A VF that is not back on the host blocks the pod's deletion. Addresses may stay reserved."""
        return DEVICE in record.left

    def is_in_use(self, record: Record) -> bool:
        return record.key not in self._at_home and super().is_in_use(record)

    def is_deferred(self, record: Record, /) -> bool:
        """A repair's record does not contain addresses: a DEL of the attachment releases them by its configuration."""
        return repair.is_repair(record)

    def remove_or_keep(self, record: Record, deadline: float | None = None) -> None:
        """As in the base class, except that a VF on the host that is not fully restored does not block the deletion."""
        try:
            super().remove_or_keep(record, deadline)
        except DeviceNotClean as error:
            self._log.error(f"{error}; it is not given to another pod before it is clean")

    def undo(self, record: Record) -> None:
        """The rollback of a failed ADD: before the device was handed over, no program of the pod has had it."""
        if record.key not in self._handed_over:
            self._untouched.add(record.key)
        self.remove(record)

    def hand_over(self, record: Record) -> None:
        """Notes that the device is about to be in the pod: it may return by itself, with a program's changes."""
        self._handed_over.add(record.key)

    def remove_device(self, record: Record) -> None:
        """Removes the attachment. Succeeds if the device is home and clean, even if addresses are still leased."""
        super().remove_or_keep(record)

    def _take_back(self, record: Record, deadline: float | None) -> None:
        run_all(lambda: self.withdraw_device_info(record, DEVICE), lambda: self._bring_home(record, deadline))

    def _bring_home(self, record: Record, deadline: float | None) -> None:
        attachment = model.from_record(record)
        if record.boot_id != self._attachments.boot_id or not self._is_there(attachment):
            return  # The recorded VF ended with its boot, or with its PF's VFs.
        owner = self._attachments.of_device(attachment.device)
        if owner is not None and owner.key != record.key:
            self._log.warning(f"{attachment.device} belongs to {owner.key} now: it is left alone")
            return
        with OptionalNetns(self._namespace(record, attachment, deadline)) as netns:
            rules = RenewalRules(
                untouched=record.key in self._untouched,
                always=self._rebind,
                later=deadline is not None and time.monotonic() > deadline - REBIND_SECONDS,
            )
            try:
                detach(
                    self._kernel,
                    attachment,
                    netns,
                    self._log,
                    rules=rules,
                    looked=lambda instance: self._looked.update({record.key: instance}),
                )
            except DeviceNotClean:
                self._at_home.add(record.key)
                raise

    def _is_there(self, attachment: model.DeviceAttachment) -> bool:
        """Whether the host has this device, and not another one that was created at its address since."""
        present = self._kernel.instance(attachment.device)
        if present and attachment.instance not in (0, present):
            self._log.warning(
                f"{attachment.device} was created again since it was attached: the new one is left as it is"
            )
            return False
        return present != 0

    def _namespace(self, record: Record, attachment: model.DeviceAttachment, deadline: float | None) -> Netns | None:
        """The namespace from which the device has to be moved; None if it is on the host, or on its way there."""
        if attachment.userspace or self._kernel.link(attachment.device, None) is not None:
            return None
        netns = self._kernel.find_netns(record.netns, record.netns_identity)
        # A removal for another call does not wait: a pod can hide its VF, and every other pod would wait for it each
        # time.
        waits = netns is None and not is_on_the_side(deadline)
        if waits and self._kernel.device(attachment.device).driver == attachment.expected_driver:
            self._kernel.await_home(attachment.device, HOME_SECONDS)
        return netns

    def clean_orphans(self, network: str) -> None:
        """Cleans every device on the host that has a mark of the network, and no record.

        A pod with CAP_NET_ADMIN can write a mark, and a device of another plugin returns from that pod with it.
        """
        links = repair.marked_links(self._kernel, None)
        devices = [parse(link.parent) for link in links if self._marked_key(link).network == network]
        run_all(*[bound(self.clean_if_orphaned, device) for device in devices])

    def _marked_key(self, link: Link) -> Key:
        return repair.marked_key(link, self._attachments.marked(link.parent))

    def clean_if_orphaned(self, device: PciAddress) -> None:
        """Cleans a device on the host that has a mark, if it has no record."""
        with self._attachments.locked(device):
            if self._attachments.of_device(device) is None and self.is_orphan(device):
                self._clean(device, None)

    def is_orphan(self, device: PciAddress) -> bool:
        """Whether the device is on the host with a mark that we set, and unused. Logs a warning about other marks."""
        link = repair.marked_at_home(self._kernel, device)
        if link is None:
            return False
        objection = repair.objection(self._kernel, link, self._attachments.marked(device))
        if objection:
            self._log.warning(f"{device} carries the mark {link.alias!r}, and {objection}: it is left alone")
        return not objection

    def clean_orphan(self, device: PciAddress) -> None:
        """Cleans the device for an ADD. Called with the device's lock held, for a device without a record.

        Raises `DeviceBusy` if it has a mark and may not be cleaned: the last pod may have left anything on it.
        """
        mark = self._attachments.marked(device)
        link = repair.marked_at_home(self._kernel, device)
        if link is None:
            if mark is not None and self._kernel.exists(device):
                self._clean_unmarked(device, mark)
            return
        objection = repair.objection(self._kernel, link, mark)
        if objection:
            raise DeviceBusy(
                f"{device} ({link.name}) carries the mark {link.alias!r}, and {objection}",
                hint=f"if it is free, and its settings are right: ip link set {link.name} alias ''",
            )
        self._clean(device, None)

    def _clean_unmarked(self, device: PciAddress, mark: Mark) -> None:
        """Cleans a device that we marked and that has no mark: its pod removed it, or it has a new network device."""
        owner = self._attachments.find(mark.key)
        if owner is not None and owner.device == device:
            # Its removal was completed, but killed before it could forget the mark.
            self._attachments.unmark(device)
            return
        link = self._kernel.link(device, None)
        use = repair.host_use(self._kernel, link) if link is not None else ""
        if use:
            raise DeviceBusy(f"{device} was given to {mark.key}, has no record any more, and {use}")
        self._clean(device, None)

    def _clean(self, device: PciAddress, netns: Netns | None) -> None:
        """Cleans a device that we marked. Its record is saved first: an interrupted or refused repair is not lost."""
        mark = self._attachments.marked(device)
        if mark is None:
            return
        taken = self._attachments.find(mark.key) is not None
        # The owner may have been attached again with another device, and an attachment has one record.
        owner = mark.key.replace(container_id=f"repair-{device.replace(':', '-')}") if taken else mark.key
        record = repair.record(self._kernel, device, netns, owner, mark.note, self._attachments.boot_id)
        if record is None:
            return
        self._log.warning(f"{device} was given to {mark.key} and has no record any more, only its mark; resetting it")
        self._attachments.claim(record, note=mark.note if taken else None)
        self._attachments.keep_pending(record)
        self.remove(record)

    def delete_marked(self, key: Key, path: str) -> None:
        """Restores the devices with the mark of this attachment, in the namespace at the path and on the host."""
        with OptionalNetns(self._kernel.find_netns(path)) as netns:
            for namespace in (None, netns) if netns is not None else (None,):
                for device in repair.marked_devices(self._kernel, key, namespace):
                    self._clean_marked(key, device, namespace)

    def delete_marked_in(self, path: str, network: str, valid: set[tuple[str, str]]) -> None:
        """Restores the network's devices in a namespace that have no record and belong to no valid attachment."""
        with OptionalNetns(self._kernel.find_netns(path)) as netns:
            if netns is None:
                return
            keys = [self._marked_key(link) for link in repair.marked_links(self._kernel, netns)]
            for key in keys:
                if key.network == network and (key.container_id, key.ifname) not in valid:
                    for device in repair.marked_devices(self._kernel, key, netns):
                        self._clean_marked(key, device, netns)

    def _clean_marked(self, key: Key, device: PciAddress, netns: Netns | None) -> None:
        with self._attachments.locked(device):
            # Checked again with the lock held: the device may have another owner since.
            marked = device in repair.marked_devices(self._kernel, key, netns)
            if not marked or self._attachments.of_device(device) is not None:
                return
            if netns is None:
                marked = self.is_orphan(device)
            elif not repair.is_ours(key, self._attachments.marked(device)):
                self._log.warning(f"{device} carries a mark of {key} that Barewire did not set: it is left alone")
                marked = False
            if marked:
                self._clean(device, netns)
