"""The `sriov` plugin: what each CNI command does. ADD and DEL share one way back, `remove`."""

from __future__ import annotations

from cni import conf as configuration, deviceinfo
from cni.attachments import Replay
from cni.delegate import IpamCall
from cni.drivers import needs_iommu_group
from cni.errors import (
    CheckFailed,
    DelegateFailed,
    DeviceBusy,
    InterfaceExists,
    InvalidConfig,
)
from cni.record import Key, Record
from cni.result import Interface, Result
from cni.rollback import on_failure, run_all
from cni.sriov import model, plan
from cni.sriov.asked import configuration_of, device_info_file, ipam_call
from cni.sriov.attach import NO_MAC, attach
from cni.sriov.conf_table import TABLE
from cni.sriov.selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.attachments import Attachments
    from cni.device import Device
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.ports import Ipam, Kernel
    from cni.request import Request
    from cni.sriov.predecessor import Predecessor
    from cni.sriov.removal import Removal


class SriovPlugin:
    """One call of the plugin, with the world that it works on."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        attachments: Attachments,
        ipam: Ipam,
        log: Log,
        removal: Removal,
        predecessor: Predecessor,
    ) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._ipam = ipam
        self._log = log
        self._removal = removal
        self._predecessor = predecessor

    def add(self, request: Request) -> Result:
        """Moves the device into the pod and configures it; a device for user space stays where it is."""
        conf, mac = configuration_of(request, self._log)
        previous, key = request.prev_result() or Result(), Key.of(request)
        self._removal.drain(request.network)
        # An earlier life of the same container may have left something, on whatever device.
        self._removal.collect_dead(key)
        selection = Selection(self._kernel, self._attachments, lambda device: self._make_free(device, key))
        with self._kernel.netns(request.netns) as netns, selection.hold(conf) as address:
            self._require_absent(request.ifname, netns)
            device = self._kernel.device(address)
            attachment = self._planned(key, conf, mac, device)
            record = plan.record(
                attachment,
                netns=request.netns,
                netns_identity=netns.identity,
                boot_id=self._attachments.boot_id,
                ipam=_document(ipam_call(request)),
                device_info=device_info_file(conf),
            )
            self._attachments.claim(record, spare=attachment.userspace or bool(attachment.wanted_driver))
            with on_failure(self._removal.remove, record):
                link = attach(self._kernel, attachment, device, netns)
                leased = self._lease(record, link, netns)
                if record.device_info:
                    deviceinfo.write(record.device_info, deviceinfo.pci(attachment.device, attachment.pf))
                return previous.extended(_interface(request, attachment, device, link), leased)

    def delete(self, request: Request) -> None:
        """Undoes what the record tells of; without a record, what the device's own mark tells of."""
        self._removal.drain(request.network)
        with Replay(self._attachments, Key.of(request)) as record:
            if record is not None:
                self._removal.remove_or_keep(record)
                return
        run_all(
            lambda: self._predecessor.delete(Key.of(request), request.netns),
            lambda: self._delete_unrecorded(request),
        )

    def check(self, request: Request) -> None:
        """Compares with the kernel all that ADD did, except what a later plugin changed in prevResult.

        Raises `CheckFailed` with every difference.
        """
        from cni.sriov.check import drift  # noqa: PLC0415 - ADD and DEL do not pay for it

        key = Key.of(request)
        record = self._attachments.find(key)
        if record is None:
            raise CheckFailed(f"there is no record of {key}", hint="the container was not attached by this plugin")
        with self._kernel.netns(request.netns) as netns:
            problems = drift(self._kernel, request, record, netns)
        if problems:
            raise CheckFailed("; ".join(problems))
        call = ipam_call(request)
        if call is not None:
            self._ipam.check(call)

    def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not know any more, and repairs VFs without record."""
        valid = set(request.valid_attachments)
        self._removal.drain(request.network)
        records = self._attachments.of_network(request.network)
        stale = [record.key for record in records if (record.key.container_id, record.key.ifname) not in valid]
        steps: list[Callable[[], None]] = [_bound(self._removal.collect, key) for key in stale]
        steps.append(lambda: self._removal.clean_orphans(request.network))
        steps += [
            _bound(self._removal.delete_marked_in, path, request.network, valid)
            for path in self._kernel.named_namespaces()
        ]
        call = ipam_call(request)
        if call is not None:
            steps.append(lambda: self._ipam.gc(call))
        run_all(*steps)

    def status(self, request: Request) -> None:
        """Whether an ADD can be served: records can be written, the kernel lets us and answers, and so does IPAM.

        Raises `NotAvailable`, and `LimitedConnectivity` when a PF of attached VFs is down.
        """
        from cni.sriov.status import require_host, require_pf, require_pfs_up  # noqa: PLC0415 - as in `check`

        require_host(self._kernel, self._attachments)
        require_pf(self._kernel, configuration.canonical(TABLE, request.config))
        records = self._attachments.of_network(request.network)
        require_pfs_up(self._kernel, {record.found["pf"] for record in records} - {""})
        call = ipam_call(request)
        if call is not None:
            self._ipam.status(call)

    # Steps of ADD.

    def _planned(self, key: Key, conf: dict[str, Any], mac: str | None, device: Device) -> model.DeviceAttachment:
        uses = self._kernel.uses(device.link) if device.link is not None and not device.pf else []
        grouped = needs_iommu_group(plan.wanted_driver(conf, device))
        hindrances = self._kernel.hindrances(device.address) if grouped else []
        in_use = device.userspace and self._kernel.in_use(device.address)
        return plan.plan(key, conf, mac, device, uses, hindrances, in_use=in_use)

    def _make_free(self, device: PciAddress, key: Key) -> None:
        """Refuses a device in use; brings home one whose owner is gone, whatever happened to its DEL or its record."""
        owner = self._attachments.of_device(device)
        if owner is None:
            self._predecessor.make_free(device, key)
            self._removal.clean_orphan(device)
            return
        if self._removal.is_alive(owner):
            raise _in_use(device, owner, key)
        self._log.warning(f"{device} was left by container {owner.key.container_id}, which is gone: cleaning up")
        self._removal.remove_device(owner)

    def _require_absent(self, ifname: str, netns: Netns) -> None:
        if self._kernel.named(ifname, netns) is not None:
            raise InterfaceExists(
                f"the pod already has an interface {ifname}", hint="it is left as it is; use another interface name"
            )

    def _lease(self, record: Record, link: Link | None, netns: Netns) -> Result:
        if record.ipam is None:
            return Result()
        leased = self._ipam.lease(IpamCall.from_document(record.ipam))
        if not leased.ips:
            raise InvalidConfig(
                "ipam: the IPAM plugin returned no addresses", hint="for an attachment without addresses omit ipam"
            )
        if link is not None:  # else they are the program's that drives the device in user space
            self._kernel.configure(link, netns, leased.ips, leased.routes)
            self._kernel.announce(link, netns, leased.ips)
        return leased

    # Steps of DEL.

    def _delete_unrecorded(self, request: Request) -> None:
        key, call = Key.of(request), ipam_call(request)
        run_all(lambda: self._removal.delete_marked(key, request.netns), lambda: self._release_unrecorded(call))

    def _release_unrecorded(self, call: IpamCall | None) -> None:
        try:
            if call is not None:
                self._ipam.release(call)
        except (DelegateFailed, InvalidConfig) as error:
            # Nothing says that an address was ever leased: an ADD that failed over this very configuration, mostly.
            self._log.warning(f"IPAM DEL without a record: {error}")


def _in_use(device: PciAddress, owner: Record, key: Key) -> DeviceBusy:
    if owner.key == key:
        return DeviceBusy(
            f"VF {device} is attached to this very container already, as {key.ifname}", hint="DEL it first"
        )
    return DeviceBusy(
        f"VF {device} belongs to container {owner.key.container_id} (interface {owner.key.ifname}, network "
        f"{owner.key.network})",
        hint=f"it is freed by that container's DEL, or when its network namespace {owner.netns} is gone",
    )


def _document(call: IpamCall | None) -> dict[str, Any] | None:
    return None if call is None else call.as_document()


def _interface(request: Request, attachment: model.DeviceAttachment, device: Device, link: Link | None) -> Interface:
    """The pod's interface as the result tells it; of a device in user space the PF tells address and MTU."""
    address = str(attachment.device)
    if link is not None:
        return Interface(name=link.name, mac=link.mac, mtu=link.mtu, sandbox=request.netns, pci_id=address)
    mac = attachment.settings.mac or device.settings.mac
    return Interface(
        name=request.ifname,
        mac="" if mac == NO_MAC else mac,
        mtu=device.pf_mtu,
        sandbox=request.netns,
        pci_id=address,
    )


def _bound(action: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: action(*arguments)
