"""The `sriov` plugin: its ADD, and the parts of the other commands that are specific to devices."""

from __future__ import annotations

from cni.attachment import device_info
from cni.attachment.lifecycle import Lifecycle
from cni.attachment.record import Key
from cni.config import validation as configuration
from cni.errors import CheckFailed, InterfaceExists, LinksUnsettled
from cni.host.drivers import needs_iommu_group
from cni.pci import parse
from cni.protocol.result import Interface, Result
from cni.rollback import bound, on_failure
from cni.sriov import model, plan
from cni.sriov.allowed import require_pf
from cni.sriov.attach import NO_MAC, attach
from cni.sriov.conf_table import TABLE
from cni.sriov.request import device_info_file, ipam_call, parse_request
from cni.sriov.selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.delegate import IpamCall
    from cni.attachment.ipam import Ipam
    from cni.attachment.lifecycle import Steps
    from cni.attachment.record import Record
    from cni.attachment.records import Attachments
    from cni.host.device import Device
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.node.node import NodeConf
    from cni.protocol.request import Request
    from cni.sriov.conf_sections import SriovConfDict
    from cni.sriov.kernel import Kernel
    from cni.sriov.removal import DeviceRemoval
    from cni.sriov.sriov_cni import SriovCniState


class SriovPlugin(Lifecycle):
    """One call of the plugin, with the adapters that it uses."""

    _removal: DeviceRemoval

    def __init__(
        self,
        *,
        kernel: Kernel,
        attachments: Attachments,
        ipam: Ipam,
        log: Log,
        removal: DeviceRemoval,
        sriov_cni: SriovCniState,
        node: NodeConf,
    ) -> None:
        super().__init__(attachments=attachments, ipam=ipam, log=log, removal=removal, strict_status=node.strict_status)
        self._kernel = kernel
        self._sriov_cni = sriov_cni
        self._policy = node.devices

    def add(self, request: Request) -> Result:
        """Moves the device into the pod and configures it. A device for user space is not moved."""
        conf = parse_request(request, self._policy, self._log)
        self._require_allowed(conf)
        previous, key = request.prev_result() or Result(), Key.of(request)
        self._removal.drain(request.network)
        # An earlier attachment of the same container may have left something, on any device.
        self._removal.collect_dead(key)
        with self._kernel.netns(request.netns) as netns, self._selection(key).locked(conf) as address:
            self._require_absent(request.ifname, netns)
            device = self._kernel.device(address)
            attachment = self._planned(key, conf, device)
            record = self.new_record(
                request,
                netns,
                plugin=model.PLUGIN,
                device=attachment.device,
                found=model.found_document(attachment),
                wanted=model.wanted_document(attachment),
                device_info=device_info_file(conf),
            )
            self.preload_ipam(record)
            self._attachments.claim(
                record,
                backup=attachment.userspace or bool(attachment.wanted_driver),
                note=None if attachment.userspace else model.note(attachment),
            )
            with on_failure(self._removal.undo, record):
                link = attach(
                    self._kernel, attachment, device, netns, handing_over=bound(self._removal.hand_over, record)
                )
                leased = self._leased(record, link, netns)
                if record.device_info:
                    device_info.write(record.device_info, device_info.pci(attachment.device, attachment.pf))
                return previous.extended(_interface(request, attachment, device, link), leased)

    def ipam_call(self, request: Request) -> IpamCall | None:
        return ipam_call(request)

    def unrecorded(self, request: Request) -> Steps:
        key = Key.of(request)
        return [
            lambda: self._sriov_cni.delete(key, request.netns),
            lambda: self._removal.delete_marked(key, request.netns),
        ]

    def drift(self, request: Request, record: Record) -> list[str]:
        """The differences from the record, except those that a later plugin made in prevResult."""
        from cni.sriov.check import drift  # noqa: PLC0415 - ADD and DEL do not pay for it

        with self._kernel.netns(request.netns) as netns:
            return drift(self._kernel, request, record, netns)

    def check_unrecorded(self, request: Request) -> None:
        """See `Lifecycle`: an attachment that sriov-cni made is in its place; its own CHECK compares nothing."""
        problems = self._sriov_cni.drift(Key.of(request), request.netns)
        if problems is None:
            super().check_unrecorded(request)
        elif problems:
            raise CheckFailed("; ".join(problems))

    def orphans(self, request: Request, valid: set[tuple[str, str]]) -> Steps:
        return [
            lambda: self._removal.clean_orphans(request.network),
            *[bound(self._delete_marked_in, path, request.network, valid) for path in self._kernel.named_namespaces()],
        ]

    def _delete_marked_in(self, path: str, network: str, valid: set[tuple[str, str]]) -> None:
        try:
            self._removal.delete_marked_in(path, network, valid)
        except LinksUnsettled as error:
            # Otherwise a single pod could make every GC of the node fail.
            self._log.warning(f"what {path} holds without a record is left to the next GC: {error.msg}")

    def require_node(self, _request: Request) -> None:
        """See `Lifecycle`: the kernel responds, and the plugin has the rights to configure the network."""
        from cni.sriov.status import require_host  # noqa: PLC0415 - as in `drift`

        require_host(self._kernel)

    def require_network(self, request: Request) -> None:
        """See `Lifecycle`: the configured PF exists. Raises `LimitedConnectivity` if a PF with attached VFs is down."""
        from cni.sriov.status import require_pf, require_pfs_up  # noqa: PLC0415 - as in `drift`

        require_pf(self._kernel, configuration.canonical(TABLE, request.config))
        records = self._attachments.of_network(request.network)
        require_pfs_up(self._kernel, {model.pf_of(record) for record in records} - {""})

    # Steps of ADD.

    def _require_allowed(self, conf: SriovConfDict) -> None:
        """Checks the limits of the node, if it has any: this requires reading the PF."""
        if self._policy.pfs is not None:
            named = conf.get("deviceID")
            address = parse(named) if named else self._kernel.pf_of_name(conf["master"])
            require_pf(self._kernel.device(address), self._policy)

    def _selection(self, key: Key) -> Selection:
        return Selection(
            kernel=self._kernel,
            attachments=self._attachments,
            removal=self._removal,
            sriov_cni=self._sriov_cni,
            log=self._log,
            key=key,
        )

    def _planned(self, key: Key, conf: SriovConfDict, device: Device) -> model.DeviceAttachment:
        attachment = plan.plan(key, conf, device, self._surroundings(conf, device))
        if conf.get("mtu") and attachment.mtu is None:
            self._log.warning("mtu: ignored, the device is for user space; the program in the pod sets its own")
        return attachment

    def _surroundings(self, conf: SriovConfDict, device: Device) -> plan.Surroundings:
        kernel, address, link = self._kernel, device.address, device.link
        in_group = needs_iommu_group(plan.wanted_driver(conf, device))
        return plan.Surroundings(
            uses=tuple(kernel.host_uses(link)) if link else (),
            viability_problems=tuple(kernel.viability_problems(address)) if in_group else (),
            open_in_process=device.userspace and kernel.in_use(address),
            netdev_instance=kernel.netdev_instance(address) if link else "",
            tuning=kernel.tuning(link, quick=True) if link else {},
        )

    def _require_absent(self, ifname: str, netns: Netns) -> None:
        if self._kernel.link_by_name(ifname, netns) is not None:
            raise InterfaceExists(
                f"the pod already has an interface {ifname}", hint="it is left as it is; use another interface name"
            )

    def _leased(self, record: Record, link: Link | None, netns: Netns) -> Result:
        leased = self.lease(record)
        if link is not None and leased.ips:  # otherwise they are for the program that drives the device in user space
            self._kernel.configure(link, netns, leased.ips, leased.routes)
            self._kernel.announce(link, netns, leased.ips)
        return leased


def _interface(request: Request, attachment: model.DeviceAttachment, device: Device, link: Link | None) -> Interface:
    """The pod's interface for the result. The PF reports the address and the MTU of a device in user space."""
    address = str(attachment.device)
    if link is not None:
        return Interface(name=link.name, mac=link.mac, mtu=link.mtu, sandbox=request.netns, pci_id=address)
    mac = attachment.settings.mac or device.settings.mac or NO_MAC
    return Interface(
        name=request.ifname,
        mac="" if mac == NO_MAC else mac,
        mtu=device.pf_mtu,
        sandbox=request.netns,
        pci_id=address,
    )
