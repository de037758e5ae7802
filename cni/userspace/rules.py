"""Rules about values and about several fields of a `userspace` configuration. Pure.

The pydantic model and the fast path's table share these functions, so each rule exists once.
"""

from __future__ import annotations

from cni.errors import InvalidConfig
from cni.paths import is_plain_path
from cni.userspace.sockets.directory import acl_entry, permissions, vhost_of
from cni.userspace.vswitch.remote import parse_remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cni.userspace.conf_sections import BandwidthDict, BridgeDict, UserspaceConfDict

    Problem = tuple[str, str]

ENGINE, INTERFACE_TYPE, NETWORK_TYPE = "ovs-dpdk", "vhostuser", "bridge"
SOCKET_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
BRIDGE = "br0"
"""The default bridge."""

BRIDGE_NAME_BYTES = 15
"""A bridge is also a network device of the host."""

_SOCKETS_OF_OVS = ("db.sock", ".ctl", ".mgmt", ".pid", ".snoop")
"""Endings of names in Open vSwitch's run directory, which userspace-cni shares with pods."""

_TAGGED_MODES = ("access", "native-tagged", "native-untagged")
_LISTENER_IS_APPLICATION, _LISTENER_IS_VSWITCH = "client", "server"
"""userspace-cni's values of `host.vhost.mode`. They describe the vswitch, and the other end listens."""


def cross_check(conf: UserspaceConfDict, refused: frozenset[str] = frozenset()) -> list[Problem]:
    """Problems, as (JSON path, text). Rules that read a `refused` field are skipped."""
    return [problem for fields, rule in _RULES if refused.isdisjoint(fields) for problem in rule(conf)]


def _engine(conf: UserspaceConfDict) -> list[Problem]:
    host = conf.get("host") or {}
    problems = [] if host.get("engine") else [("host.engine", f"missing: write {ENGINE}")]
    for key, value, supported, what in (
        ("engine", host.get("engine"), ENGINE, "engine"),
        ("iftype", host.get("iftype"), INTERFACE_TYPE, "type of interface"),
        ("netType", host.get("netType"), NETWORK_TYPE, "type of network"),
    ):
        if value and value != supported:
            problems.append((f"host.{key}", f"{what} {value!r} is not supported; supported: {supported}"))
    return problems


def _listener(conf: UserspaceConfDict) -> list[Problem]:
    """Only this function interprets userspace-cni's values: the application listens, and OVS connects."""
    problems = []
    mode = vhost_of(conf).get("mode")
    if mode == _LISTENER_IS_VSWITCH:
        problems.append(
            (
                "host.vhost.mode",
                "'server' is not supported: OVS has deprecated dpdkvhostuser ports, which break when it restarts; "
                "write 'client', and let the application listen (its mode is server)",
            )
        )
    elif mode is None and (conf.get("host") or {}).get("iftype"):
        # userspace-cni requires `iftype`, so a configuration without it was written for Barewire.
        problems.append(
            (
                "host.vhost.mode",
                "missing: userspace-cni lets Open vSwitch listen then, which is not supported; "
                'write "vhost": {"mode": "client"}, and let the application listen (its mode is server)',
            )
        )
    elif mode not in (None, _LISTENER_IS_APPLICATION):
        problems.append(("host.vhost.mode", f"{mode!r} is not 'client'"))
    theirs = ((conf.get("container") or {}).get("vhost") or {}).get("mode")
    if theirs not in (None, "server"):
        problems.append(("container.vhost.mode", f"{theirs!r} is not 'server': the vswitch is the client"))
    return problems


def _names(conf: UserspaceConfDict) -> list[Problem]:
    problems = []
    socket = vhost_of(conf).get("socketfile")
    if socket is not None and not is_socket_name(socket):
        problems.append(("host.vhost.socketfile", f"{socket!r} is not a name of letters, digits, and _ . -"))
    elif socket is not None and socket.endswith(_SOCKETS_OF_OVS):
        problems.append(("host.vhost.socketfile", f"{socket!r} is a name that Open vSwitch gives to its own sockets"))
    bridge = _bridge(conf).get("bridgeName")
    if bridge is not None and not is_bridge_name(bridge):
        problems.append(("host.bridge.bridgeName", f"{bridge!r} is not a name that a network device can have"))
    volume = conf.get("volume")
    if volume is not None and not is_volume_name(volume):
        problems.append(("volume", f"{volume!r} is not the name of a volume"))
    return problems


def _vlan(conf: UserspaceConfDict) -> list[Problem]:
    # In userspace-cni 0 means no VLAN.
    tag, old = conf.get("vlan"), _bridge(conf).get("vlanId") or None
    mode, trunks = conf.get("vlanMode"), conf.get("trunks")
    problems = []
    if tag is not None and old is not None and tag != old:
        problems.append(("host.bridge.vlanId", f"is the old place of vlan, and says {old}, not {tag}"))
    tagged = tag is not None or old is not None
    if mode in _TAGGED_MODES and not tagged:
        problems.append(("vlanMode", f"{mode} needs vlan"))
    if mode == "access" and trunks:
        problems.append(("trunks", "are not for vlanMode access"))
    if mode is None and trunks and tagged:
        problems.append(("vlanMode", "missing: vlan and trunks together need native-tagged or native-untagged"))
    return problems


def _bandwidth(conf: UserspaceConfDict) -> list[Problem]:
    runtime = (conf.get("runtimeConfig") or {}).get("bandwidth") or {}
    return [
        *_limits("bandwidth", conf.get("bandwidth") or {}),
        *_limits("runtimeConfig.bandwidth", runtime),
    ]


def _limits(path: str, section: BandwidthDict) -> list[Problem]:
    problems = []
    for side, rate, burst in (
        ("ingress", section.get("ingressRate"), section.get("ingressBurst")),
        ("egress", section.get("egressRate"), section.get("egressBurst")),
    ):
        if burst and not rate:
            problems.append((f"{path}.{side}Burst", f"needs {side}Rate"))
        if rate and rate < 1000:
            problems.append((f"{path}.{side}Rate", f"{rate} is less than OVS's unit, 1000 bits per second"))
        if burst and burst < 1000:
            problems.append((f"{path}.{side}Burst", f"{burst} is less than OVS's unit, 1000 bits"))
    return problems


def _places(conf: UserspaceConfDict) -> list[Problem]:
    problems = []
    for key, path in (
        ("sharedDir", conf.get("sharedDir")),
        ("containerDir", conf.get("containerDir")),
        ("kubeletRoot", conf.get("kubeletRoot")),
        ("kubeconfig", conf.get("kubeconfig")),
        ("vhostDir", conf.get("vhostDir")),
    ):
        if path is not None and not is_plain_path(path):
            problems.append((key, f"{path!r} is not an absolute path without . and .."))
    return problems


def _ownership(conf: UserspaceConfDict) -> list[Problem]:
    section = conf.get("socketDirectory") or {}
    problems = []
    checks: list[tuple[str, Callable[[str], object], str]] = [
        ("acl", acl_entry, text) for text in section.get("acl") or ()
    ]
    if mode := section.get("mode"):
        checks.append(("mode", permissions, mode))
    for key, check, text in checks:
        try:
            check(text)
        except ValueError as error:
            problems.append((f"socketDirectory.{key}", str(error)))
    if section.get("group") is not None and vhost_of(conf).get("group"):
        problems.append(("socketDirectory.group", "is what host.vhost.group says, give one of them"))
    return problems


def _remote(conf: UserspaceConfDict) -> list[Problem]:
    try:
        parse_remote(conf.get("ovsdb") or "unix:/")
    except InvalidConfig as error:
        return [("ovsdb", error.msg)]
    return []


def is_socket_name(text: str) -> bool:
    """Whether the file name is valid without quoting everywhere: in paths, OVS's database, XML and shells."""
    return bool(text) and len(text) <= 64 and text[0] not in ".-" and SOCKET_NAME_CHARACTERS.issuperset(text)


def is_bridge_name(text: str) -> bool:
    return is_socket_name(text) and len(text) <= BRIDGE_NAME_BYTES


def is_volume_name(text: str) -> bool:
    """Whether it is a DNS-1123 label, as Kubernetes requires."""
    inner = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
    return 0 < len(text) <= 63 and inner.issuperset(text) and text[0] != "-" and text[-1] != "-"


def _bridge(conf: UserspaceConfDict) -> BridgeDict:
    return (conf.get("host") or {}).get("bridge") or {}


_RULES = (
    (("host", "host.engine", "host.iftype", "host.netType"), _engine),
    (("host", "host.iftype", "host.vhost", "host.vhost.mode", "container.vhost.mode"), _listener),
    (("host.vhost.socketfile", "host.bridge.bridgeName", "volume"), _names),
    (("vlan", "host.bridge.vlanId", "vlanMode", "trunks"), _vlan),
    (("bandwidth", "runtimeConfig"), _bandwidth),
    (("sharedDir", "containerDir", "kubeletRoot", "kubeconfig", "vhostDir"), _places),
    (("socketDirectory", "socketDirectory.acl", "socketDirectory.mode"), _ownership),
    (("ovsdb",), _remote),
)
"""Each rule with the fields that it reads."""
