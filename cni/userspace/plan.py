"""Plans an ADD: a pure function of the request and of the socket's directory."""

from __future__ import annotations

import zlib

from cni.config.validation import is_hex
from cni.errors import SocketDirUnfit
from cni.names import is_ifname
from cni.userspace.attachment import PortAttachment, owner_of
from cni.userspace.rules import BRIDGE
from cni.userspace.sockets.directory import kubelet_folder, vhost_of
from cni.userspace.vswitch.model import DEFAULT_BURST_KBIT, Port, Rate
from cni.userspace.vswitch.remote import LONGEST_SOCKET_PATH, REMOTE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.record import Key
    from cni.userspace.conf_sections import UserspaceConfDict
    from cni.userspace.request import ParsedRequest
    from cni.userspace.sockets.directory import SocketDirectory

_SHORT = 12
"""Number of characters of a container ID that container runtimes print."""

_BITS_PER_KBIT = 1000


def port_name(key: Key) -> str:
    """The name of the attachment's port, lock and short directory: userspace-cni's if the container ID is a hash."""
    return f"{container_name(key.container_id)}-{key.ifname}"


def is_port_name(name: str) -> bool:
    """Whether `port_name` can have made the name."""
    container, dash, ifname = name[:_SHORT], name[_SHORT : _SHORT + 1], name[_SHORT + 1 :]
    return len(container) == _SHORT and is_hex(container) and dash == "-" and is_ifname(ifname)


def container_name(container_id: str) -> str:
    """Twelve characters for the container. IDs that are not hashes may be equal in their first twelve characters."""
    short = container_id[:_SHORT]
    if len(short) == _SHORT and is_hex(short):
        return short
    return f"{zlib.crc32(container_id.encode()):08x}{len(container_id) & 0xFFFF:04x}"


def socket_name(key: Key, conf: UserspaceConfDict, naming: str) -> str:
    """The name of the socket in its directory. `naming` is the `socketNaming` of configurations that contain none."""
    named = vhost_of(conf).get("socketfile")
    if named:
        return str(named)
    return key.ifname if (conf.get("socketNaming") or naming) == "interface" else port_name(key)


def config_file_name(port: str) -> str:
    """userspace-cni's name of the file that describes the interface to the application."""
    return f"configData-{port}.json"


def plan(
    key: Key, request: ParsedRequest, directory: SocketDirectory, socket: str, container_dir: str
) -> PortAttachment:
    """The attachment. The vswitch finds the socket in the short directory, if there is one."""
    conf = request.conf
    path = f"{directory.mount or directory.path}/{socket}"
    if len(path.encode()) > LONGEST_SOCKET_PATH:
        # OVS accepts a longer path without an error, and never connects.
        raise SocketDirUnfit(
            f"the socket's path has {len(path.encode())} bytes, more than {LONGEST_SOCKET_PATH}: {path}",
            hint="shorten vhostDir or host.vhost.socketfile; without allowUnsafeSocketDir the path is a short one",
        )
    annotates = request.pod is not None and conf.get("annotations", bool(conf.get("kubeconfig")))
    return PortAttachment(
        remote=conf.get("ovsdb") or REMOTE,
        port=_port(key, request, path).replace(socket=f"{directory.path}/{socket}"),
        directory=directory,
        socket=socket,
        container_dir=container_dir,
        mac=request.mac or made_mac(key),
        create_bridge=conf.get("createBridge") is True,
        config_file="" if annotates else config_file_name(port_name(key)),
        pod=request.pod if annotates else None,
        kubeconfig=conf.get("kubeconfig") or "",
        pod_folder=kubelet_folder(request.kubelet_root, request.pod_uid) if request.pod_uid else "",
    )


def _port(key: Key, request: ParsedRequest, path: str) -> Port:
    conf = request.conf
    bridge = conf["host"].get("bridge") or {}
    limits = (conf.get("runtimeConfig") or {}).get("bandwidth") or conf.get("bandwidth") or {}
    return Port(
        name=port_name(key),
        bridge=bridge.get("bridgeName") or BRIDGE,
        path=path,
        owner=owner_of(key, request.pod_uid),
        vlan_mode=conf.get("vlanMode") or "",
        tag=conf.get("vlan", bridge.get("vlanId") or None),
        trunks=tuple(sorted(set(conf.get("trunks") or ()))),
        mtu=conf.get("mtu"),
        # CNI's directions are the pod's: ingress is the traffic that it receives.
        to_pod=_rate(limits.get("ingressRate"), limits.get("ingressBurst")),
        from_pod=_rate(limits.get("egressRate"), limits.get("egressBurst")),
        tx_retries=conf.get("txRetries"),
        tx_steering=conf.get("txSteering") or "",
    )


def _rate(bits: int | None, burst: int | None) -> Rate | None:
    if not bits:
        return None
    return Rate(kbit=bits // _BITS_PER_KBIT, burst_kbit=burst // _BITS_PER_KBIT if burst else DEFAULT_BURST_KBIT)


def made_mac(key: Key) -> str:
    """A locally administered address that is specific to the attachment, and the same when its ADD is repeated."""
    text = str(key).encode()
    tail = zlib.crc32(text).to_bytes(4, "big") + (zlib.adler32(text) & 0xFF).to_bytes(1, "big")
    return (b"\x02" + tail).hex(":")
