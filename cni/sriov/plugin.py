"""The `sriov` plugin: what each CNI command does. ADD and DEL share one way back, `remove`."""

from __future__ import annotations

import os
import time

from cni import conf as configuration, deviceinfo
from cni.attachments import Replay
from cni.cniargs import cni_arguments
from cni.delegate import IpamCall
from cni.drivers import needs_iommu_group
from cni.errors import (
    CheckFailed,
    CniError,
    DelegateFailed,
    DeviceBusy,
    DeviceNotFound,
    InterfaceExists,
    InvalidConfig,
    IoFailure,
    KernelRefused,
    LimitedConnectivity,
    NotAvailable,
)
from cni.record import DEVICE, IPAM, Key, Record
from cni.result import LEGACY_VERSIONS, Interface, Result, inexpressible
from cni.rollback import on_failure, run_all
from cni.sriov import model, plan, predecessor, repair
from cni.sriov.attach import NO_MAC, DeviceNotClean, attach, detach
from cni.sriov.check import drift
from cni.sriov.conf_table import REQUIRED, TABLE
from cni.sriov.legacy import modern
from cni.sriov.rules import cross_check, wanted_mac
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
    from cni.sriov.predecessor import Former, Predecessor

PLUGIN = "sriov"

DRAIN_SECONDS = 5.0
"""Bound for finishing what earlier calls had to leave pending; it is work on the side of an ADD or DEL."""


DRAIN_RECORDS = 4
"""Bound for their number in one call: what fails each time must not slow down every pod of the node."""


class SriovPlugin:
    """One call of the plugin, with the world that it works on."""

    def __init__(
        self, *, kernel: Kernel, attachments: Attachments, ipam: Ipam, log: Log, predecessor: Predecessor
    ) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._ipam = ipam
        self._log = log
        self._predecessor = predecessor

    def add(self, request: Request) -> Result:
        """Moves the device into the pod and configures it; a device for user space stays where it is."""
        conf, mac = read_configuration(request, self._log)
        previous, key = request.prev_result() or Result(), _key(request)
        self._drain(request.network)
        self._forget_former_self(key)
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
                ipam=_document(_ipam_call(request)),
                device_info=_device_info_file(conf),
            )
            self._attachments.claim(record)
            with on_failure(self.remove, record):
                link = attach(self._kernel, attachment, device, netns)
                leased = self._lease(record, link, netns)
                if record.device_info:
                    deviceinfo.write(record.device_info, deviceinfo.pci(attachment.device, attachment.pf))
                return _result(_interface(request, attachment, device, link), leased, previous)

    def delete(self, request: Request) -> None:
        """Undoes what the record tells of; without a record, what the device's own mark tells of."""
        self._drain(request.network)
        with Replay(self._attachments, _key(request)) as record:
            if record is not None:
                self._remove_or_keep(record)
                return
        former = self._predecessor.find(_key(request))
        if former is not None:
            self._delete_former(former, request)
        self._delete_unrecorded(request)

    def check(self, request: Request) -> None:
        """Compares with the kernel all that ADD did, except what a later plugin changed in prevResult.

        Raises `CheckFailed` with every difference.
        """
        key = _key(request)
        record = self._attachments.find(key)
        if record is None:
            raise CheckFailed(f"there is no record of {key}", hint="the container was not attached by this plugin")
        with self._kernel.netns(request.netns) as netns:
            problems = drift(self._kernel, request, record, netns)
        if problems:
            raise CheckFailed("; ".join(problems))
        call = _ipam_call(request)
        if call is not None:
            self._ipam.check(call)

    def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not know any more, and repairs VFs without record."""
        valid = set(request.valid_attachments)
        self._drain(request.network)
        records = [record for record in self._attachments.of_network(request.network) if record.plugin == PLUGIN]
        stale = [record.key for record in records if (record.key.container_id, record.key.ifname) not in valid]
        steps: list[Callable[[], None]] = [_bound(self._collect, key) for key in stale]
        steps += [_bound(self._clean_if_orphaned, device) for device in repair.orphans(self._kernel, request.network)]
        steps += [_bound(self._delete_marked_in, path, request.network, valid) for path in self._namespaces()]
        call = _ipam_call(request)
        if call is not None:
            steps.append(lambda: self._ipam.gc(call))
        run_all(*steps)

    def status(self, request: Request) -> None:
        """Whether an ADD can be served: records can be written, the kernel lets us and answers, and so does IPAM.

        Raises `NotAvailable`, and `LimitedConnectivity` when a PF of attached VFs is down.
        """
        try:
            self._attachments.writable()
            self._kernel.named("lo", None)
        except (IoFailure, KernelRefused) as error:
            raise NotAvailable(error.msg, hint=error.hint) from error
        if not self._kernel.may_administrate():
            raise NotAvailable(
                "the plugin may not administrate the network here", hint="it needs CAP_NET_ADMIN and CAP_SYS_ADMIN"
            )
        self._require_a_pf(configuration.canonical(TABLE, request.config))
        self._require_pfs_up(request.network)
        call = _ipam_call(request)
        if call is not None:
            self._ipam.status(call)

    def remove(self, record: Record, seconds: float | None = None) -> None:
        """The way back of ADD and DEL: undoes what is left, and keeps the record of what cannot be undone yet.

        `seconds` bounds the IPAM plugin's DEL (None: the delegate's own bound). Called with the device's lock held.
        Raises what hindered it; the record says what is left.
        """
        left: set[str] = set(record.left)

        def step(name: str, action: Callable[[], None]) -> None:
            if name in left:
                action()
                left.discard(name)

        with on_failure(lambda: self._attachments.keep_pending(record.replace(left=tuple(sorted(left))))):
            run_all(
                lambda: step(DEVICE, lambda: self._take_back(record)),
                lambda: step(IPAM, lambda: self._release(record, seconds)),
            )
        self._attachments.forget(record)

    # Steps of STATUS.

    def _require_a_pf(self, conf: dict[str, Any]) -> None:
        name = conf.get("master") or conf.get("if0")
        if not isinstance(name, str) or not name or conf.get("deviceID"):
            return
        try:
            found = self._kernel.vfs(self._kernel.pf_of_name(name))
        except DeviceNotFound as error:
            raise NotAvailable(error.msg, hint=error.hint) from error
        if not found and not conf.get("pfOnly"):
            raise NotAvailable(f"PF {name} has no VFs", hint="create them through its sriov_numvfs")

    def _require_pfs_up(self, network: str) -> None:
        pfs = {record.found.get("pf") for record in self._attachments.of_network(network) if record.plugin == PLUGIN}
        for pf in sorted(filter(None, pfs)):
            link = self._kernel.link(pf, None)
            if link is None or not link.up:
                raise LimitedConnectivity(
                    f"PF {link.name if link else pf} is {'down' if link else 'gone'}, and pods have VFs of it",
                    hint="set it up again" if link else "see dmesg",
                )

    # Steps of ADD.

    def _planned(self, key: Key, conf: dict[str, Any], mac: str | None, device: Device) -> model.DeviceAttachment:
        uses = self._kernel.uses(device.link) if device.link is not None and not device.pf else []
        grouped = needs_iommu_group(plan.wanted_driver(conf, device))
        hindrances = self._kernel.hindrances(device.address) if grouped else []
        return plan.plan(key, conf, mac, device, uses, hindrances)

    def _forget_former_self(self, key: Key) -> None:
        """Removes what an earlier life of the same container left, on whatever device: its namespace is gone."""
        former = self._attachments.find(key)
        if former is None or self._alive(former):
            return
        with Replay(self._attachments, key) as record:
            if record is not None and not self._alive(record):
                self._log.warning(f"{key} was attached before, to {record.device}, and is gone: cleaning up")
                self._remove_or_keep(record)

    def _make_free(self, device: PciAddress, key: Key) -> None:
        """Refuses a device in use; brings home one whose owner is gone, whatever happened to its DEL or its record."""
        owner = self._attachments.of_device(device)
        if owner is None:
            self._make_free_of_former(device, key)
            self._clean_orphan(device)
            return
        if self._alive(owner):
            raise _in_use(device, owner, key)
        self._log.warning(f"{device} was left by container {owner.key.container_id}, which is gone: cleaning up")
        self._remove_device(owner)

    def _make_free_of_former(self, device: PciAddress, key: Key) -> None:
        """The same for what sriov-cni attached before this plugin took its place."""
        path = self._predecessor.owner(device)
        if not path:
            return
        with _Optional(self._kernel.find_netns(path)) as netns:
            if netns is not None:
                raise DeviceBusy(
                    f"sriov-cni attached {device} to {path}",
                    hint="it is freed by that pod's DEL, or when the pod is gone",
                )
        former = self._predecessor.of_device(device)
        if former is not None:
            self._bring_former_home(former, key, "")
        self._predecessor.release(device)

    def _alive(self, record: Record) -> bool:
        if record.removing or record.boot_id != self._attachments.boot_id:
            return False
        return self._kernel.is_inhabited(record.netns, record.netns_identity)

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

    # Steps of removal.

    def _remove_or_keep(self, record: Record) -> None:
        """Removes; what only time can mend does not keep a pod from going: a VF that is home already, an address."""
        try:
            self._remove_device(record)
        except DeviceNotClean as error:
            self._log.error(f"{error}; it is not given to another pod before it is clean")

    def _remove_device(self, record: Record) -> None:
        """Removes; succeeds when the device is home and clean, also while addresses are still to be released."""
        try:
            self.remove(record)
        except CniError as error:
            kept = self._attachments.find(record.key)
            if kept is None or DEVICE in kept.left:
                raise
            self._log.warning(f"{error}; its addresses stay reserved, and every later ADD and DEL tries again")

    def _take_back(self, record: Record) -> None:
        run_all(lambda: deviceinfo.remove(record.device_info), lambda: self._bring_home(record))

    def _bring_home(self, record: Record) -> None:
        attachment = model.from_record(record)
        if record.boot_id != self._attachments.boot_id or not self._kernel.exists(attachment.device):
            return  # The VF that the record tells of ended with its boot, or with its PF's VFs.
        owner = self._attachments.of_device(attachment.device)
        if owner is not None and owner.key != record.key:
            self._log.warning(f"{attachment.device} belongs to {owner.key} now: it is left alone")
            return
        at_home = attachment.userspace or self._kernel.link(attachment.device, None) is not None
        away = None if at_home else self._kernel.find_netns(record.netns, record.netns_identity)
        with _Optional(away) as netns:
            detach(self._kernel, attachment, netns, self._log)

    def _release(self, record: Record, seconds: float | None) -> None:
        if record.ipam is not None:
            self._ipam.release(IpamCall.from_document(record.ipam), seconds=seconds)

    def _delete_former(self, former: Former, request: Request) -> None:
        """Undoes what sriov-cni did before this plugin took its place, unless the VF is another's by now."""
        with self._attachments.locked(former.device):
            if self._attachments.of_device(former.device) is not None:
                self._predecessor.drop(former)
                return
            owner = self._predecessor.owner(former.device)
            if owner and request.netns and os.path.realpath(owner) != os.path.realpath(request.netns):
                self._log.warning(f"{former.device} belongs to {owner} now: it is left alone")
                self._predecessor.drop(former)
                return
            self._bring_former_home(former, _key(request), request.netns)

    def _bring_former_home(self, former: Former, key: Key, path: str) -> None:
        if self._kernel.exists(former.device):
            attachment = predecessor.attachment(former, key, self._kernel.device(former.device))
            with _Optional(self._kernel.find_netns(path) if path else None) as netns:
                detach(self._kernel, attachment, netns, self._log)
        self._predecessor.forget(former)

    def _delete_unrecorded(self, request: Request) -> None:
        key, call = _key(request), _ipam_call(request)
        run_all(lambda: self._delete_marked(key, request.netns), lambda: self._release_unrecorded(call))

    def _release_unrecorded(self, call: IpamCall | None) -> None:
        try:
            if call is not None:
                self._ipam.release(call)
        except (DelegateFailed, InvalidConfig) as error:
            # Nothing says that an address was ever leased: an ADD that failed over this very configuration, mostly.
            self._log.warning(f"IPAM DEL without a record: {error}")

    def _delete_marked(self, key: Key, path: str) -> None:
        with _Optional(self._kernel.find_netns(path)) as netns:
            for place in (None, netns) if netns is not None else (None,):
                for device in repair.marked_devices(self._kernel, key, place):
                    self._clean_marked(key, device, place)

    def _clean_marked(self, key: Key, device: PciAddress, place: Netns | None) -> None:
        with self._attachments.locked(device):
            # Looked at again under the lock: the device may have changed hands since.
            marked = device in repair.marked_devices(self._kernel, key, place)
            if marked and self._attachments.of_device(device) is None:
                repair.clean(self._kernel, device, place, self._log)

    def _namespaces(self) -> list[str]:
        return self._kernel.named_namespaces()

    def _delete_marked_in(self, path: str, network: str, valid: set[tuple[str, str]]) -> None:
        """Brings home what a namespace holds of the network without a record and without a right to."""
        with _Optional(self._kernel.find_netns(path)) as netns:
            if netns is None:
                return
            keys = [repair.marked_key(link) for link in repair.marked_links(self._kernel, netns)]
            for key in keys:
                if key.network == network and (key.container_id, key.ifname) not in valid:
                    for device in repair.marked_devices(self._kernel, key, netns):
                        self._clean_marked(key, device, netns)

    def _collect(self, key: Key) -> None:
        with Replay(self._attachments, key) as record:
            if record is not None:
                self._remove_or_keep(record)

    def _clean_if_orphaned(self, device: PciAddress) -> None:
        with self._attachments.locked(device):
            if self._attachments.of_device(device) is None:
                self._clean_orphan(device)

    def _clean_orphan(self, device: PciAddress) -> None:
        if repair.orphaned(self._kernel, device):
            repair.clean(self._kernel, device, None, self._log)

    def _drain(self, network: str) -> None:
        """Finishes removals that earlier calls had to leave. It is work on the side: nothing of it fails this call."""
        deadline = time.monotonic() + DRAIN_SECONDS
        try:
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


def read_configuration(request: Request, log: Log) -> tuple[dict[str, Any], str | None]:
    """The validated configuration, and the MAC address that is asked for. Raises with every problem at once."""
    parsed = configuration.parse(TABLE, REQUIRED, _with_device(request.config), cross_check)
    conf, deprecations = modern(parsed.values)
    for warning in (*parsed.warnings, *deprecations):
        log.warning(warning)
    mac = wanted_mac(conf, cni_arguments(request.args))
    if request.cni_version in LEGACY_VERSIONS and not conf.get("ipam"):
        raise inexpressible(request.cni_version)
    return conf, mac


def _with_device(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the device of runtimeConfig, where it names none itself."""
    named = configuration.canonical(TABLE, config)
    runtime = named.get("runtimeConfig")
    if named.get("deviceID") or not isinstance(runtime, dict) or not runtime.get("deviceID"):
        return config
    return {**config, "deviceID": runtime["deviceID"]}


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


def _key(request: Request) -> Key:
    return Key(network=request.network, container_id=request.container_id, ifname=request.ifname)


def _ipam_call(request: Request) -> IpamCall | None:
    """The call of the configuration's IPAM plugin; None without one, or where it could never have been called."""
    try:
        named = configuration.canonical(TABLE, request.config)
        section = {} if named.get("l2enable") is True else configuration.ipam_section(named.get("ipam") or {})
    except (ValueError, configuration.ProblemBelow):
        return None
    return IpamCall.of(request) if section else None


def _document(call: IpamCall | None) -> dict[str, Any] | None:
    return None if call is None else call.as_document()


def _device_info_file(conf: dict[str, Any]) -> str:
    path = (conf.get("runtimeConfig") or {}).get("CNIDeviceInfoFile")
    return deviceinfo.checked(path) if path else ""


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


def _result(interface: Interface, leased: Result, previous: Result) -> Result:
    index = len(previous.interfaces)
    return leased.replace(
        interfaces=(*previous.interfaces, interface),
        ips=(*previous.ips, *(ip.replace(interface=index) for ip in leased.ips)),
        routes=(*previous.routes, *leased.routes),
    )


def _bound(action: Callable[..., None], *arguments: object) -> Callable[[], None]:
    return lambda: action(*arguments)


class _Optional:
    """The context of a namespace that may be None."""

    def __init__(self, netns: Netns | None) -> None:
        self._netns = netns

    def __enter__(self) -> Netns | None:
        return self._netns

    def __exit__(self, *_exc: object) -> None:
        if self._netns is not None:
            self._netns.close()
