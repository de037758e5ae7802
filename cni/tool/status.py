"""Problems that prevent ADDs in networks of this node, in addition to the errors of STATUS.

STATUS reports only the state of the node, since a runtime makes the whole node NotReady when it fails (docs/adr/0026).
This command reports the problems of single networks to operators.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cni.config import validation as configuration
from cni.errors import CniError, InvalidConfig, NotAvailable
from cni.rollback import bound
from cni.sriov import model as device
from cni.sriov.conf_table import TABLE as SRIOV_TABLE
from cni.sriov.status import require_host, require_pf, require_pfs_up
from cni.userspace import attachment as port
from cni.userspace.request import bridge_of, remote_of
from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cni.attachment.records import Attachments
    from cni.node.node import NodeConf
    from cni.protocol.request import Request
    from cni.sriov.conf_sections import UncheckedSriovConfDict
    from cni.sriov.kernel import Kernel
    from cni.userspace.adapters import OpenVswitch
    from ipam.command.listing import LocationDict

NODE = "this node"


class Lack(Value):
    """A problem of `subject`, a network or the node, and its remedy."""

    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" + (f"\n  what to do: {self.remedy}" if self.remedy else "")


class Look(Value):
    """A check: `look` raises the problem of the subject. Checks are equal independent of their subjects."""

    subject: str
    what: tuple[str, ...]
    look: Callable[[], object]


def found_by(looks: Iterable[Look]) -> list[Lack]:
    """The problems that the checks find.

    A check that several networks share runs once, and is reported for all of them.
    """
    shared: dict[tuple[str, ...], list[Look]] = {}
    for one in looks:
        shared.setdefault(one.what, []).append(one)
    lacks = []
    for same in shared.values():
        try:
            same[0].look()
        except CniError as error:
            subjects = ", ".join(sorted({one.subject for one in same}))
            lacks.append(Lack(subject=subjects, text=error.msg, remedy=error.hint))
    return lacks


def of_devices(kernel: Kernel, attachments: Attachments, requests: Iterable[Request]) -> Iterator[Look]:
    """The checks for `sriov`: the node, the PFs in configurations, and those whose VFs pods have."""
    yield Look(subject=NODE, what=("records",), look=attachments.writable)
    yield Look(subject=NODE, what=("kernel",), look=lambda: require_host(kernel))
    for request in _of_type(requests, device.PLUGIN):
        conf: UncheckedSriovConfDict = configuration.canonical(SRIOV_TABLE, request.config)
        what = ("VFs", str(conf.get("master") or conf.get("if0")), str(conf.get("pfOnly")))
        yield Look(subject=request.network, what=what, look=bound(require_pf, kernel, conf))
    for network in attachments.networks():
        for pf in {device.pf_of(record) for record in attachments.of_network(network)} - {""}:
            yield Look(subject=network, what=("PF", pf), look=bound(require_pfs_up, kernel, {pf}))


def of_ports(
    vswitch: OpenVswitch, attachments: Attachments, requests: Iterable[Request], node: NodeConf, seconds: float
) -> Iterator[Look]:
    """The checks for `userspace`: the bridges in configurations, and those on which pods have ports."""

    def look(subject: str, remote: str, bridge: str, *, creates: bool) -> Look:
        def ask() -> None:
            kind, _, place = remote.partition(":")
            if kind == "unix" and not os.path.isdir(os.path.dirname(place)):
                raise NotAvailable(f"{os.path.dirname(place)} does not exist", hint="install Open vSwitch with DPDK")
            vswitch(remote, seconds=seconds).status(bridge, create_bridge=creates)

        return Look(subject=subject, what=("bridge", remote, bridge, str(creates)), look=ask)

    for request in _of_type(requests, port.PLUGIN):
        try:
            remote = remote_of(request, node)
        except InvalidConfig as error:
            yield Look(subject=request.network, what=("configuration", error.msg), look=_raising(error))
            continue
        bridge, creates = bridge_of(request)
        yield look(request.network, remote, bridge, creates=creates)
    for network in attachments.networks():
        for record in attachments.of_network(network):
            if record.wanted.get("port") and not record.removing:
                attached = port.from_record(record)
                yield look(network, attached.remote, attached.port.bridge, creates=attached.create_bridge)


def of_addresses(places: Iterable[LocationDict]) -> list[Lack]:
    """Problems of leases, as reported by `barewire-ipam list`: full ranges and unreachable stores."""
    lacks = []
    for one in places:
        subject = ", ".join(one["names"])
        if one["failure"]:
            text = f"its addresses are not reached: {one['failure']}"
            lacks.append(Lack(subject=subject, text=text, remedy="see whether the server runs, and what hinders it"))
        full = [entry["range"] for entry in one["ranges"] if entry["configured"] and entry["used"] >= entry["size"]]
        if full and not one["failure"]:
            lacks.append(
                Lack(
                    subject=subject,
                    text=f"no address is free in {', '.join(full)}",
                    remedy="barewire-ipam fsck finds leaked ones; else the range is too small",
                )
            )
    return lacks


def _of_type(requests: Iterable[Request], plugin: str) -> Iterator[Request]:
    return (request for request in requests if request.config.get("type") == plugin)


def _raising(error: CniError) -> Callable[[], None]:
    def look() -> None:
        raise error

    return look
