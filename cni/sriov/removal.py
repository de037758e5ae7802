"""The way back: what ADD's rollback, DEL, GC, repair and `barewire gc` all take."""

from __future__ import annotations

import time

from cni import deviceinfo
from cni.attachments import Replay
from cni.delegate import IpamCall
from cni.errors import CniError
from cni.host.netns import Optional
from cni.record import DEVICE, IPAM
from cni.rollback import on_failure, run_all
from cni.sriov import model, repair
from cni.sriov.attach import DeviceNotClean, detach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.attachments import Attachments
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.ports import Ipam, Kernel
    from cni.record import Key, Record

DRAIN_SECONDS = 5.0
"""Bound for finishing what earlier calls had to leave pending; it is work on the side of an ADD or DEL."""

HOME_SECONDS = 3.0
"""Bound for a device on its way home from a namespace that is gone: the kernel takes up to about a second."""

DRAIN_RECORDS = 4
"""Bound for their number in one call: what fails each time must not slow down every pod of the node."""


class Removal:
    """Undoes attachments, with their record, or without one by the mark on the device."""

    def __init__(self, *, kernel: Kernel, attachments: Attachments, ipam: Ipam, log: Log) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._ipam = ipam
        self._log = log

    def remove(self, record: Record, seconds: float | None = None) -> None:
        """The way back of ADD and DEL: undoes what is left, and keeps the record of what cannot be undone yet.

        `seconds` bounds the waits for the device and for the IPAM plugin (None: their own bounds). Called with the device's lock held.
        Raises what hindered it; the record says what is left.
        """
        left: set[str] = set(record.left)

        def step(name: str, action: Callable[[], None]) -> None:
            if name in left:
                action()
                left.discard(name)

        with on_failure(lambda: self._attachments.keep_pending(record.replace(left=tuple(sorted(left))))):
            run_all(
                lambda: step(DEVICE, lambda: self._take_back(record, seconds)),
                lambda: step(IPAM, lambda: self._release(record, seconds)),
            )
        self._attachments.forget(record)

    def is_alive(self, record: Record) -> bool:
        """Whether the attachment is still somebody's: of this boot, not being removed, its namespace inhabited."""
        if record.removing or record.boot_id != self._attachments.boot_id:
            return False
        return self._kernel.is_inhabited(record.netns, record.netns_identity)

    def remove_or_keep(self, record: Record) -> None:
        """Removes; what only time can mend does not keep a pod from going: a VF that is home already, an address."""
        try:
            self.remove_device(record)
        except DeviceNotClean as error:
            self._log.error(f"{error}; it is not given to another pod before it is clean")

    def remove_device(self, record: Record) -> None:
        """Removes; succeeds when the device is home and clean, also while addresses are still to be released."""
        try:
            self.remove(record)
        except CniError as error:
            kept = self._attachments.find(record.key)
            if kept is None or DEVICE in kept.left:
                raise
            self._log.warning(f"{error}; its addresses stay reserved, and every later ADD and DEL tries again")

    def _take_back(self, record: Record, seconds: float | None) -> None:
        run_all(lambda: deviceinfo.remove(record.device_info), lambda: self._bring_home(record, seconds))

    def _bring_home(self, record: Record, seconds: float | None) -> None:
        attachment = model.from_record(record)
        if record.boot_id != self._attachments.boot_id or not self._kernel.exists(attachment.device):
            return  # The VF that the record tells of ended with its boot, or with its PF's VFs.
        owner = self._attachments.of_device(attachment.device)
        if owner is not None and owner.key != record.key:
            self._log.warning(f"{attachment.device} belongs to {owner.key} now: it is left alone")
            return
        with Optional(self._place(record, attachment, seconds)) as netns:
            detach(self._kernel, attachment, netns, self._log)

    def _place(self, record: Record, attachment: model.DeviceAttachment, seconds: float | None) -> Netns | None:
        """The namespace that the device is to be fetched from; None when it is at home, or on its way there."""
        if attachment.userspace or self._kernel.link(attachment.device, None) is not None:
            return None
        netns = self._kernel.find_netns(record.netns, record.netns_identity)
        if netns is None and self._kernel.device(attachment.device).driver == attachment.expected_driver:
            self._kernel.await_home(attachment.device, HOME_SECONDS if seconds is None else min(seconds, HOME_SECONDS))
        return netns

    def _release(self, record: Record, seconds: float | None) -> None:
        if record.ipam is not None:
            self._ipam.release(IpamCall.from_document(record.ipam), seconds=seconds)

    def collect(self, key: Key) -> None:
        """Removes the attachment, if its record is still there."""
        with Replay(self._attachments, key) as record:
            if record is not None:
                self.remove_or_keep(record)

    def collect_dead(self, key: Key) -> None:
        """The same, unless it is somebody's: looked at under the lock, since a pod may just have been made anew."""
        with Replay(self._attachments, key) as record:
            if record is not None and not self.is_alive(record):
                self._log.warning(f"{key} has {record.device or 'no device'} and is gone: cleaning up")
                self.remove_or_keep(record)

    def clean_orphans(self, network: str) -> None:
        """Cleans every device that is home with a mark of that network, and that no record has."""
        run_all(*[_bound(self.clean_if_orphaned, device) for device in repair.orphans(self._kernel, network)])

    def clean_if_orphaned(self, device: PciAddress) -> None:
        """Cleans a device that is home with a mark, if no record has it."""
        with self._attachments.locked(device):
            if self._attachments.of_device(device) is None:
                self.clean_orphan(device)

    def clean_orphan(self, device: PciAddress) -> None:
        """The same, with the device's lock held and the knowledge that no record has it."""
        if repair.orphaned(self._kernel, device):
            repair.clean(self._kernel, device, None, self._log)

    def delete_marked(self, key: Key, path: str) -> None:
        """Brings home, from the namespace at the path or on the host, what carries the mark of this attachment."""
        with Optional(self._kernel.find_netns(path)) as netns:
            for place in (None, netns) if netns is not None else (None,):
                for device in repair.marked_devices(self._kernel, key, place):
                    self._clean_marked(key, device, place)

    def delete_marked_in(self, path: str, network: str, valid: set[tuple[str, str]]) -> None:
        """Brings home what a namespace holds of the network without a record and without a right to."""
        with Optional(self._kernel.find_netns(path)) as netns:
            if netns is None:
                return
            keys = [repair.marked_key(link) for link in repair.marked_links(self._kernel, netns)]
            for key in keys:
                if key.network == network and (key.container_id, key.ifname) not in valid:
                    for device in repair.marked_devices(self._kernel, key, netns):
                        self._clean_marked(key, device, netns)

    def _clean_marked(self, key: Key, device: PciAddress, place: Netns | None) -> None:
        with self._attachments.locked(device):
            # Looked at again under the lock: the device may have changed hands since.
            marked = device in repair.marked_devices(self._kernel, key, place)
            if marked and self._attachments.of_device(device) is None:
                repair.clean(self._kernel, device, place, self._log)

    def drain(self, network: str) -> None:
        """Finishes removals that earlier calls had to leave. It is work on the side: nothing of it fails this call."""
        deadline = time.monotonic() + DRAIN_SECONDS
        try:
            self._attachments.recover()
            self._attachments.sweep(network)
        except CniError as error:
            self._log.warning(f"litter of earlier calls stays: {error}")
        for pending in self._attachments.pending()[:DRAIN_RECORDS]:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            try:
                with Replay(self._attachments, pending.key, 0.0) as record:
                    # Under the lock it may be another life of the same attachment, which nobody wants removed.
                    if record is not None and record.removing:
                        self.remove(record, remaining)
            except Exception as error:  # noqa: BLE001 - a record that makes trouble must not stop every pod of the node
                self._log.warning(f"still pending: {pending.key}: {error}")


def _bound(action: Callable[[PciAddress], None], device: PciAddress) -> Callable[[], None]:
    return lambda: action(device)
