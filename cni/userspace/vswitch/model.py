"""A port of the vswitch: its requested settings, its owner, and its state in the vswitch. Values, no I/O."""

from __future__ import annotations

from cni.names import attachment_fault
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MARK = "barewire"
"""The value of `owner` in `external_ids` of everything that is ours."""

DEFAULT_BURST_KBIT = 8000
"""OVS's default burst of a policing rate. Its egress policer requires a burst."""


class Owner(Value):
    """The attachment that a port belongs to. `pod_uid` is for operators, and does not identify the owner."""

    container_id: str
    ifname: str
    network: str
    pod_uid: str = ""


NOBODY = Owner(container_id="", ifname="", network="")
"""The owner of foreign ports."""


class Rate(Value):
    """A limit in kilobits (1000 bits) per second, and a burst in kilobits."""

    kbit: int
    burst_kbit: int = DEFAULT_BURST_KBIT


class Port(Value):
    """A vhost-user port on whose socket the application listens.

    `path` is that socket's path in the vswitch, and `socket` its path on the host: two attachments of one socket may
    reach it by different paths, and would disturb each other. `vlan_mode` is OVS's value, empty for its default; `mtu`
    is the largest that the pod may use. `from_pod` limits the traffic that the pod sends, `to_pod` the traffic that it
    receives. OVS, from its end, calls them ingress and egress; CNI calls them egress and ingress.
    """

    name: str
    bridge: str
    path: str
    owner: Owner = NOBODY
    socket: str = ""
    vlan_mode: str = ""
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    mtu: int | None = None
    from_pod: Rate | None = None
    to_pod: Rate | None = None
    tx_retries: int | None = None
    tx_steering: str = ""


class PortStatus(Value):
    """A port with its state in the vswitch. `port` contains the settings, also of a foreign port.

    `ofport` is None if the vswitch has not assigned a number yet, and -1 if it could not create the port; `error` is
    its reason. `link_state` may be stale after a restart of the vswitch, and proves nothing. `mtu` is the effective
    one, which the vswitch applies when an application listens on the socket.
    """

    port: Port
    type: str
    ofport: int | None
    error: str
    link_state: str
    mtu: int | None = None

    @property
    def works(self) -> bool:
        """Whether the vswitch has created the port (not whether an application listens on its socket)."""
        return self.ofport is not None and self.ofport > 0 and not self.error


SOCKET = "socket"
"""The entry of `external_ids` with the socket's path on the host."""


def external_ids(owner: Owner, socket: str = "") -> dict[str, str]:
    """The mark of everything that an attachment has in the vswitch's database."""
    notes = {"pod-uid": owner.pod_uid, SOCKET: socket}
    return {**key(owner), **{name: text for name, text in notes.items() if text}}


def key(owner: Owner) -> dict[str, str]:
    """The part of the mark that identifies the attachment."""
    return {"owner": MARK, "container-id": owner.container_id, "ifname": owner.ifname, "network": owner.network}


def owner_of(ids: Mapping[str, str]) -> Owner:
    """The owner in a mark; `NOBODY` if the mark is not ours, or contains names that no attachment can have."""
    if ids.get("owner") != MARK:
        return NOBODY
    found = Owner(**{field: str(ids.get(field.replace("_", "-"), "")) for field in Owner._fields})
    return NOBODY if attachment_fault(found.network, found.container_id, found.ifname) else found


def differences(wanted: Port, seen: Port) -> list[str]:
    """Each setting that differs from the requested one, on one line. The pod's UID is only a note."""
    ours, theirs = (port.replace(owner=port.owner.replace(pod_uid="")).as_dict() for port in (wanted, seen))
    return [
        f"{name} is {_shown(theirs[name])}, not {_shown(ours[name])}" for name in ours if ours[name] != theirs[name]
    ]


def _shown(setting: object) -> str:
    """A setting for messages, not in Python's notation."""
    if setting is None or setting in ("", ()):
        return "none"
    if isinstance(setting, Rate):
        return f"{setting.kbit} kbit/s with a burst of {setting.burst_kbit} kbit"
    return ", ".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
