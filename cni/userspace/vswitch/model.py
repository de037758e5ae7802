"""A port of the vswitch: what is wanted of it, whose it is, and what the vswitch says about it. Values, no I/O."""

from __future__ import annotations

from cni.names import attachment_fault
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MARK = "barewire"
"""What `owner` in `external_ids` says of all that is ours."""

DEFAULT_BURST_KBIT = 8000
"""What OVS itself takes for a policing rate without a burst. Its egress policer refuses to have none."""


class Owner(Value):
    """The attachment that a port belongs to. `pod_uid` is told to people, and tells nothing apart."""

    container_id: str
    ifname: str
    network: str
    pod_uid: str = ""


NOBODY = Owner(container_id="", ifname="", network="")
"""The owner of what is not ours."""


class Rate(Value):
    """A limit in kilobits (1000 bits) per second, and a burst in kilobits."""

    kbit: int
    burst_kbit: int = DEFAULT_BURST_KBIT


class Port(Value):
    """A vhost-user port on whose socket the application listens.

    `path` is that socket, as the vswitch sees it, and `socket` as the host does: two attachments of one socket may come
    to it by different ways, and would disturb each other. `vlan_mode` is OVS's word, empty for its default; `mtu` is the
    largest that the pod may use. `from_pod` limits what the pod sends, `to_pod` what it receives: OVS, which looks
    from the other end, calls them ingress and egress, and CNI egress and ingress.
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
    """A port as the vswitch has it. `port` holds the settings, those of a port that is not ours included.

    `ofport` is None when the vswitch has given no number yet, and -1 when it could not make the port; `error` is what
    it says about that. `link_state` may be stale after a restart of the vswitch, and is no proof of anything. `mtu` is the
    one in force, which the vswitch takes over when somebody listens on the socket.
    """

    port: Port
    type: str
    ofport: int | None
    error: str
    link_state: str
    mtu: int | None = None

    @property
    def works(self) -> bool:
        """Whether the vswitch has made the port (not whether anybody listens on its socket)."""
        return self.ofport is not None and self.ofport > 0 and not self.error


SOCKET = "socket"
"""The entry of `external_ids` that tells the port's socket as the host sees it."""


def external_ids(owner: Owner, socket: str = "") -> dict[str, str]:
    """The mark of all that an attachment has in the vswitch's database."""
    notes = {"pod-uid": owner.pod_uid, SOCKET: socket}
    return {**key(owner), **{name: text for name, text in notes.items() if text}}


def key(owner: Owner) -> dict[str, str]:
    """That part of the mark that tells one attachment from another."""
    return {"owner": MARK, "container-id": owner.container_id, "ifname": owner.ifname, "network": owner.network}


def owner_of(ids: Mapping[str, str]) -> Owner:
    """The owner that a mark names; `NOBODY` when it is not ours, or names what cannot be the names of an attachment."""
    if ids.get("owner") != MARK:
        return NOBODY
    found = Owner(**{field: str(ids.get(field.replace("_", "-"), "")) for field in Owner._fields})
    return NOBODY if attachment_fault(found.network, found.container_id, found.ifname) else found


def differences(wanted: Port, seen: Port) -> list[str]:
    """Each setting that is not as wanted, in one line; the pod's UID is only a note."""
    ours, theirs = (port.replace(owner=port.owner.replace(pod_uid="")).as_dict() for port in (wanted, seen))
    return [
        f"{name} is {_shown(theirs[name])}, not {_shown(ours[name])}" for name in ours if ours[name] != theirs[name]
    ]


def _shown(setting: object) -> str:
    """A setting for people, who write no Python."""
    if setting is None or setting in ("", ()):
        return "none"
    if isinstance(setting, Rate):
        return f"{setting.kbit} kbit/s with a burst of {setting.burst_kbit} kbit"
    return ", ".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
