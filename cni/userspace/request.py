"""Parses a request: configuration, address, pod, call of the IPAM plugin. Reads nothing of the host."""

from __future__ import annotations

from cni.attachment import device_info as deviceinfo
from cni.attachment.delegate import IpamCall
from cni.config import validation as configuration
from cni.errors import InvalidConfig
from cni.protocol.cni_args import cni_arguments, wanted_mac
from cni.protocol.result import LEGACY_VERSIONS, inexpressible
from cni.userspace import allowed
from cni.userspace.attachment import PodName
from cni.userspace.conf_table import REQUIRED, TABLE
from cni.userspace.rules import BRIDGE, cross_check
from cni.userspace.vswitch.remote import REMOTE, parse_remote
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.log import Log
    from cni.node.node import NodeConf
    from cni.protocol.request import Request
    from cni.userspace.conf_sections import ContainerDict, HostDict, UncheckedUserspaceConfDict, UserspaceConfDict


class ParsedRequest(Value):
    """A validated request: `conf` by the table's keys, the requested MAC address or None, the pod or None.

    Some runtimes pass `pod_uid` but not the pod. `kubelet_root` is the kubelet's directory, `vhost_directory` the
    parent of the short directories, according to the network or the node.
    """

    conf: UserspaceConfDict
    mac: str | None
    pod: PodName | None
    pod_uid: str
    device_info: str
    kubelet_root: str
    vhost_directory: str

    @property
    def ends(self) -> tuple[HostDict, ContainerDict]:
        """The sections about the two ends of the socket, which the pod's annotation repeats."""
        return self.conf["host"], self.conf.get("container") or {}


def parse_request(request: Request, node: NodeConf, log: Log) -> ParsedRequest:
    """The request, also validated by the node's limits. Raises an error with all problems."""

    def rules(conf: UserspaceConfDict, refused: frozenset[str]) -> list[tuple[str, str]]:
        found = cross_check(conf, refused)
        known = refused.union(path for path, _text in found)
        return found + [problem for problem in allowed.problems(conf, node) if problem[0] not in known]

    parsed = configuration.parse(TABLE, REQUIRED, request.config, rules)
    conf: UserspaceConfDict = parsed.values
    for warning in parsed.warnings:
        log.warning(warning)
    arguments = cni_arguments(request.args)
    if conf.get("annotations") and _pod(arguments) is None:
        raise InvalidConfig(
            "annotations: CNI_ARGS do not tell which pod to annotate",
            hint="without annotations, a file in the pod contains the information",
        )
    if request.cni_version in LEGACY_VERSIONS and not conf.get("ipam"):
        raise inexpressible(request.cni_version)
    path = (conf.get("runtimeConfig") or {}).get("CNIDeviceInfoFile")
    return ParsedRequest(
        conf=conf,
        mac=wanted_mac(conf, arguments),
        pod=_pod(arguments),
        pod_uid=arguments.get("K8S_POD_UID", ""),
        device_info=deviceinfo.checked(path) if path else "",
        kubelet_root=allowed.kubelet_root(conf.get("kubeletRoot"), node),
        vhost_directory=allowed.vhost_directory(conf.get("vhostDir"), node),
    )


def remote_of(request: Request, node: NodeConf) -> str:
    """The vswitch's database, even if the rest of the configuration is invalid: DEL may have nothing else.

    Raises `InvalidConfig` if it is invalid or not allowed; no ADD has succeeded with it either.
    """
    named = _unchecked(request).get("ovsdb")
    remote = named if isinstance(named, str) and named else REMOTE
    parse_remote(remote)
    for path, text in allowed.remote_problems(remote, node):
        raise InvalidConfig(f"{path}: {text}")
    return remote


def present_remote(request: Request, node: NodeConf) -> str:
    """The vswitch's database; empty if it is invalid or not allowed."""
    try:
        return remote_of(request, node)
    except InvalidConfig:
        return ""


def bridge_of(request: Request) -> tuple[str, bool]:
    """The bridge's name, empty if it is invalid, and whether it may be created. The rest may be invalid."""
    conf = _unchecked(request)
    host = conf.get("host")
    bridge = host.get("bridge") if isinstance(host, dict) else None
    name = (bridge.get("bridgeName") if isinstance(bridge, dict) else None) or BRIDGE
    return name if isinstance(name, str) else "", conf.get("createBridge") is True


def vhost_directory(request: Request, node: NodeConf) -> str:
    """The parent of the short directories; the default if the configuration names none that is allowed."""
    return allowed.vhost_directory(_unchecked(request).get("vhostDir"), node)


def ipam_call(request: Request) -> IpamCall | None:
    """The call of the configuration's IPAM plugin; None without one, or if its values are invalid."""
    return IpamCall.configured(request, _unchecked(request).get("ipam"))


def _unchecked(request: Request) -> UncheckedUserspaceConfDict:
    conf: UncheckedUserspaceConfDict = configuration.canonical(TABLE, request.config)
    return conf


def _pod(arguments: dict[str, str]) -> PodName | None:
    namespace, name = arguments.get("K8S_POD_NAMESPACE"), arguments.get("K8S_POD_NAME")
    if not namespace or not name:
        return None
    return PodName(namespace=namespace, name=name, uid=arguments.get("K8S_POD_UID", ""))
