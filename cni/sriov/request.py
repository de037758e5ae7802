"""Parses a request: configuration, call of the IPAM plugin, device-info file. Reads nothing of the host."""

from __future__ import annotations

from cni.attachment import device_info
from cni.attachment.delegate import IpamCall
from cni.config import validation as configuration
from cni.errors import InvalidConfig
from cni.protocol.cni_args import cni_arguments, wanted_mac
from cni.protocol.result import LEGACY_VERSIONS, inexpressible
from cni.sriov import allowed
from cni.sriov.conf_table import REQUIRED, TABLE
from cni.sriov.deprecated_keys import translate
from cni.sriov.rules import cross_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.jsontext import JsonObject
    from cni.log import Log
    from cni.node.node import DevicePolicy
    from cni.protocol.request import Request
    from cni.sriov.conf_sections import SriovConfDict, UncheckedSriovConfDict


def parse_request(request: Request, policy: DevicePolicy, log: Log) -> SriovConfDict:
    """The configuration, also validated by the node's policy. `mac` is the address from the source with priority.

    Raises an error with all problems.
    """
    forbidden: list[tuple[str, str]] = []

    def rules(conf: SriovConfDict, refused: frozenset[str]) -> list[tuple[str, str]]:
        forbidden.extend(allowed.problems(conf, policy))
        return [*cross_check(conf, refused), *forbidden]

    try:
        parsed = configuration.parse(TABLE, REQUIRED, _with_device(request.config), rules)
    except InvalidConfig as error:
        error.hint = error.hint or (allowed.REMEDY if forbidden else "")
        raise
    conf, deprecations = translate(parsed.values)
    for warning in (*parsed.warnings, *deprecations):
        log.warning(warning)
    mac = wanted_mac(conf, cni_arguments(request.args))
    if mac is not None:
        conf["mac"] = mac
    if request.cni_version in LEGACY_VERSIONS and not conf.get("ipam"):
        raise inexpressible(request.cni_version)
    return conf


def _with_device(config: JsonObject) -> JsonObject:
    """The configuration with the device of runtimeConfig, if it does not name one itself."""
    named: UncheckedSriovConfDict = configuration.canonical(TABLE, config)
    runtime = named.get("runtimeConfig")
    if named.get("deviceID") or not isinstance(runtime, dict) or not runtime.get("deviceID"):
        return config
    return {**config, "deviceID": runtime["deviceID"]}


def ipam_call(request: Request) -> IpamCall | None:
    """The call of the configuration's IPAM plugin; None without one, or if its values are invalid."""
    named: UncheckedSriovConfDict = configuration.canonical(TABLE, request.config)
    return None if named.get("l2enable") is True else IpamCall.configured(request, named.get("ipam"))


def device_info_file(conf: SriovConfDict) -> str:
    """The path of the device-info file, or empty. Raises `InvalidConfig`."""
    path = (conf.get("runtimeConfig") or {}).get("CNIDeviceInfoFile")
    return device_info.checked(path) if path else ""
