"""The `sriov` plugin: what each CNI command does. ADD and DEL share one way back, `remove`."""

from __future__ import annotations

import time

from cni import conf as configuration, pci
from cni.attachments import DEVICE, IPAM, Key, Record, Replay
from cni.cniargs import cni_arguments
from cni.delegate import IpamCall
from cni.errors import CheckFailed, CniError, DelegateFailed, DeviceBusy, InterfaceExists, InvalidConfig, InvalidNetns, KernelRefused
from cni.host.rtnetlink import NetlinkError
from cni.result import LEGACY_VERSIONS, Interface, Result, inexpressible
from cni.rollback import on_failure, run_all
from cni.sriov import model, plan, repair
from cni.sriov.attach import attach, detach
from cni.sriov.conf_table import REQUIRED, TABLE
from cni.sriov.rules import cross_check, wanted_mac

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.attachments import Attachments
    from cni.host.netlink import Link
    from cni.host.netns import Netns
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.ports import Ipam, Kernel
    from cni.request import Request

DRAIN_SECONDS = 5.0
"""Bound for finishing what earlier calls had to leave pending; it is work on the side of an ADD or DEL."""


DRAIN_RECORDS = 4
"""Bound for their number in one call: what fails each time must not slow down every pod of the node."""


class SriovPlugin:
    """One call of the plugin, with the world that it works on."""

    def __init__(self, *, kernel: Kernel, attachments: Attachments, ipam: Ipam, log: Log) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._ipam = ipam
        self._log = log

    def add(self, request: Request) -> Result:
        """Moves the VF into the pod and configures it."""
        conf, mac = read_configuration(request, self._log)
        device = pci.parse(conf["deviceID"])
        self._drain()
        with self._kernel.netns(request.netns) as netns, self._attachments.locked(device):
            self._make_free(device, _key(request))
            self._require_absent(request.ifname, netns)
            vf = self._kernel.vf(device)
            attachment = plan.plan(_key(request), conf, mac, vf)
            record = plan.record(
                attachment,
                netns=request.netns,
                netns_identity=netns.identity,
                boot_id=self._attachments.boot_id,
                ipam=_document(_ipam_call(request)),
            )
            self._attachments.claim(record)
            with on_failure(self.remove, record):
                with _netlink_refusals():
                    link = attach(self._kernel, attachment, vf, netns)
                    leased = self._lease(record, link, netns)
        return _result(request, attachment, link, leased)

    def delete(self, request: Request) -> None:
        """Undoes what the record tells of; without a record, what the device's own mark tells of."""
        self._drain()
        with Replay(self._attachments, _key(request)) as record:
            if record is None:
                self._delete_unrecorded(request)
            else:
                self._remove_or_keep(record)

    def check(self, request: Request) -> None:
        """Compares everything that ADD did with the kernel. Raises `CheckFailed` with every difference."""
        record = self._attachments.find(_key(request))
        if record is None:
            raise CheckFailed(f"there is no record of {_key(request)}", hint="the container was not attached by this plugin")
        attachment = model.from_record(record)
        with self._kernel.netns(request.netns) as netns:
            problems = self._drift(request, attachment, netns)
        if problems:
            raise CheckFailed("; ".join(problems))
        call = _ipam_call(request)
        if call is not None:
            self._ipam.check(call)

    def gc(self, request: Request) -> None:
        """Removes this network's attachments that the runtime does not know any more."""
        valid = set(request.valid_attachments)
        records = [record for record in self._attachments.of_network(request.network) if record.plugin == "sriov"]
        stale = [record.key for record in records if (record.key.container_id, record.key.ifname) not in valid]
        steps = [self._collector(key) for key in stale]
        call = _ipam_call(request)
        if call is not None:
            steps.append(lambda: self._ipam.gc(call))
        run_all(*steps)

    def status(self, request: Request) -> None:
        """Whether an ADD can be served: records can be written, netlink answers, and so does IPAM."""
        self._attachments.writable()
        self._kernel.named("lo", None)
        call = _ipam_call(request)
        if call is not None:
            self._ipam.status(call)

    def remove(self, record: Record, seconds: float | None = None) -> None:
        """The way back of ADD and DEL: undoes what is left, and keeps the record of what cannot be undone yet.

        `seconds` bounds the IPAM plugin's DEL (None: the delegate's own bound). Called with the device's lock held. Raises what hindered it; the record says what is left.
        """
        left: set[str] = set(record.left)

        def step(name: str, action: Any) -> None:
            if name in left:
                action(record)
                left.discard(name)

        with on_failure(lambda: self._attachments.keep_pending(record.replace(left=tuple(sorted(left))))):
            run_all(lambda: step(DEVICE, self._bring_home), lambda: step(IPAM, lambda record: self._release(record, seconds)))
        self._attachments.forget(record)

    # Steps of ADD.

    def _make_free(self, device: PciAddress, key: Key) -> None:
        """Refuses a device in use; brings home one whose owner is gone, whatever happened to its DEL or its record."""
        owner = self._attachments.of_device(device)
        if owner is None:
            if repair.orphaned(self._kernel, device):
                repair.clean(self._kernel, device, None, self._log)
            return
        if owner.key != key and self._alive(owner):
            raise DeviceBusy(
                f"VF {device} belongs to container {owner.key.container_id} (interface {owner.key.ifname}, network "
                f"{owner.key.network})",
                hint=f"it is freed by that container's DEL, or when its network namespace {owner.netns} is gone",
            )
        if owner.key == key and self._alive(owner):
            raise DeviceBusy(f"VF {device} is attached to this very container already, as {key.ifname}", hint="DEL it first")
        self._log.warning(f"VF {device} was left by container {owner.key.container_id}, which is gone: cleaning up")
        self._remove_or_keep(owner)

    def _alive(self, record: Record) -> bool:
        if record.boot_id != self._attachments.boot_id:
            return False
        try:
            with self._kernel.netns(record.netns) as netns:
                return netns.identity == record.netns_identity
        except InvalidNetns:
            return False

    def _require_absent(self, ifname: str, netns: Netns) -> None:
        if self._kernel.named(ifname, netns) is not None:
            raise InterfaceExists(
                f"the pod already has an interface {ifname}", hint="it is left as it is; use another interface name"
            )

    def _lease(self, record: Record, link: Link, netns: Netns) -> Result:
        if record.ipam is None:
            return Result()
        leased = self._ipam.lease(IpamCall.from_document(record.ipam))
        if not leased.ips:
            raise InvalidConfig("ipam: the IPAM plugin returned no addresses", hint="for an attachment without addresses omit ipam")
        self._kernel.configure(link, netns, leased.ips, leased.routes)
        self._kernel.announce(link, netns, leased.ips)
        return leased

    # Steps of removal.

    def _remove_or_keep(self, record: Record) -> None:
        try:
            self.remove(record)
        except CniError as error:
            present = self._attachments.find(record.key)
            if present is None or DEVICE in present.left:
                raise
            # The VF is home; an address that cannot be released now is no reason to keep the pod from going.
            self._log.warning(f"{error}; its addresses stay reserved, and every later ADD and DEL tries again")

    def _bring_home(self, record: Record) -> None:
        attachment = model.from_record(record)
        if record.boot_id != self._attachments.boot_id or not self._kernel.exists(attachment.device):
            return  # The VF that the record tells of ended with its boot, or with its PF's VFs.
        with _optional(self._kernel.find_netns(record.netns, record.netns_identity)) as netns, _netlink_refusals():
            detach(self._kernel, attachment, self._kernel.vf(attachment.device), netns, self._log)

    def _release(self, record: Record, seconds: float | None) -> None:
        if record.ipam is not None:
            self._ipam.release(IpamCall.from_document(record.ipam), seconds=seconds)

    def _delete_unrecorded(self, request: Request) -> None:
        key = _key(request)
        steps = [lambda: self._delete_marked(key, request.netns)]
        call = _ipam_call(request)
        if call is not None:
            steps.append(lambda: self._release_unrecorded(call))
        run_all(*steps)

    def _release_unrecorded(self, call: IpamCall) -> None:
        try:
            self._ipam.release(call)
        except DelegateFailed as error:
            # Nothing says that an address was ever leased: an ADD that failed over this very configuration, mostly.
            self._log.warning(f"IPAM DEL without a record: {error}")

    def _delete_marked(self, key: Key, path: str) -> None:
        with _optional(self._kernel.find_netns(path)) as netns, _netlink_refusals():
            for place in (None, netns) if netns is not None else (None,):
                for device in repair.marked_devices(self._kernel, key, place):
                    with self._attachments.locked(device):
                        if self._attachments.of_device(device) is None:
                            repair.clean(self._kernel, device, place, self._log)

    def _collector(self, key: Key) -> Any:
        def collect() -> None:
            with Replay(self._attachments, key) as record:
                if record is not None:
                    self._remove_or_keep(record)

        return collect

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        for pending in self._attachments.pending()[:DRAIN_RECORDS]:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            try:
                with Replay(self._attachments, pending.key, 0.0) as record:
                    if record is not None:
                        self.remove(record, remaining)
            except CniError as error:
                self._log.info(f"still pending: {pending.key}: {error}")

    # CHECK.

    def _drift(self, request: Request, attachment: model.VfAttachment, netns: Netns) -> list[str]:
        vf = self._kernel.vf(attachment.device)
        problems = plan.differences(attachment.settings, vf.settings)
        link = self._kernel.link(attachment.device, netns)
        if link is None:
            return [*problems, f"VF {attachment.device} is not in the pod"]
        if link.name != request.ifname:
            problems.append(f"the interface is named {link.name}, not {request.ifname}")
        if not link.up:
            problems.append(f"{link.name} is down")
        previous = request.previous_interface()
        expected_mac = (previous.mac if previous else "") or attachment.settings.mac
        if expected_mac and link.mac != expected_mac.lower():
            problems.append(f"mac is {link.mac}, not {expected_mac}")
        expected_mtu = (previous.mtu if previous else 0) or attachment.mtu
        if expected_mtu and link.mtu != expected_mtu:
            problems.append(f"mtu is {link.mtu}, not {expected_mtu}")
        return problems


def read_configuration(request: Request, log: Log) -> tuple[dict[str, Any], str | None]:
    """The validated configuration, and the MAC address that is asked for. Raises with every problem at once."""
    parsed = configuration.parse(TABLE, REQUIRED, request.config, cross_check)
    for warning in parsed.warnings:
        log.warning(warning)
    mac = wanted_mac(parsed.values, cni_arguments(request.args))
    if request.cni_version in LEGACY_VERSIONS and not parsed.values.get("ipam"):
        raise inexpressible(request.cni_version)
    return parsed.values, mac


def _key(request: Request) -> Key:
    return Key(network=request.network, container_id=request.container_id, ifname=request.ifname)


def _ipam_call(request: Request) -> IpamCall | None:
    section = configuration.canonical(TABLE, request.config).get("ipam")
    return IpamCall.of(request) if section and isinstance(section, dict) and section.get("type") else None


def _document(call: IpamCall | None) -> dict[str, Any] | None:
    return None if call is None else call.as_document()


def _result(request: Request, attachment: model.VfAttachment, link: Link, leased: Result) -> Result:
    interface = Interface(name=link.name, mac=link.mac, mtu=link.mtu, sandbox=request.netns, pci_id=str(attachment.device))
    previous = request.prev_result() or Result()
    index = len(previous.interfaces)
    return leased.replace(
        interfaces=(*previous.interfaces, interface),
        ips=(*previous.ips, *(ip.replace(interface=index) for ip in leased.ips)),
        routes=(*previous.routes, *leased.routes),
    )


class _optional:  # noqa: N801 - reads as a statement: `with _optional(netns) as netns:`
    """The context of a namespace that may be None."""

    def __init__(self, netns: Netns | None) -> None:
        self._netns = netns

    def __enter__(self) -> Netns | None:
        return self._netns

    def __exit__(self, *_exc: object) -> None:
        if self._netns is not None:
            self._netns.close()


class _netlink_refusals:  # noqa: N801 - reads as a statement
    """Turns a refusal of the kernel that no step has named into our error, so that nobody above sees `OSError`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, NetlinkError):
            raise KernelRefused(f"the kernel refused: {error.reason}") from error
