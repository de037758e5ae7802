"""CHECK: compares the recorded attachment with the state of the vswitch and of the host."""

from __future__ import annotations

from cni.attachment import device_info
from cni.userspace.attachment import from_record
from cni.userspace.vswitch.model import differences
from cni.userspace.vswitch.rows import INTERFACE_TYPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.attachment.record import Record
    from cni.log import Log
    from cni.userspace.attachment import PortAttachment
    from cni.userspace.sockets.sockets import Sockets
    from cni.userspace.vswitch.engine import Vswitch


def drift(vswitch: Vswitch, sockets: Sockets, record: Record, log: Log) -> list[str]:
    """Every difference, one line each."""
    attachment = from_record(record)
    problems = [*_port_drift(vswitch, attachment, log), *sockets.differences(attachment.directory)]
    if record.device_info:
        document = device_info.vhost_user(attachment.container_path)
        problems += device_info.difference(record.device_info, document)
    return problems


def _port_drift(vswitch: Vswitch, attachment: PortAttachment, log: Log) -> Iterator[str]:
    wanted = attachment.port
    found = vswitch.show(name=wanted.name)
    if not found:
        yield f"the vswitch has no port {wanted.name}"
        return
    seen = found[0]
    yield from differences(wanted, seen.port)
    if seen.type != INTERFACE_TYPE:
        yield f"port {wanted.name} is of type {seen.type or 'none'}, not {INTERFACE_TYPE}"
    if not seen.works:
        yield f"port {wanted.name} does not work: {seen.error or f'its ofport is {seen.ofport}'}"
    if seen.link_state == "up" and wanted.mtu is not None and seen.mtu != wanted.mtu:
        yield f"port {wanted.name} has MTU {seen.mtu}, not {wanted.mtu}"
    if seen.link_state != "up":
        # This is no difference: OVS reports a stale state after a restart, and the application may not listen yet.
        log.warning(f"no application listens on {wanted.path} according to the vswitch")
