"""CNI_ARGS: `KEY=value` pairs separated by semicolons, by the rules of the Go library, and the requests in them."""

from __future__ import annotations

from cni.config.validation import canonical_mac
from cni.errors import InvalidConfig, InvalidEnvironment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

KNOWN = frozenset(
    ("MAC", "IP", "GATEWAY", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID")
)
_IGNORE = "IgnoreUnknown"
_BOOLEANS = {"1": True, "TRUE": True, "0": False, "FALSE": False}


def cni_arguments(text: str) -> dict[str, str]:
    """The pairs.

    Raises `InvalidEnvironment` on a malformed pair, and on unknown keys unless IgnoreUnknown allows them.
    """
    pairs = dict(_pair(part) for part in text.split(";") if part)
    ignore = pairs.pop(_IGNORE, "0").upper()
    if ignore not in _BOOLEANS:
        raise InvalidEnvironment(f"CNI_ARGS: {_IGNORE} is neither true nor false", hint=text)
    unknown = sorted(set(pairs) - KNOWN)
    if unknown and not _BOOLEANS[ignore]:
        raise InvalidEnvironment(f"CNI_ARGS: unknown args {unknown}", hint=f"set {_IGNORE}=1 to ignore them")
    return pairs


def _pair(part: str) -> tuple[str, str]:
    pieces = part.split("=")
    if len(pieces) != 2:
        raise InvalidEnvironment(
            f'CNI_ARGS: invalid pair "{part}"', hint="pairs are KEY=value, separated by semicolons"
        )
    return pieces[0], pieces[1]


def wanted_mac(conf: Mapping[str, Any], arguments: Mapping[str, str]) -> str | None:
    """The requested MAC address: from runtimeConfig, args.cni, CNI_ARGS or the configuration, in this order.

    `arguments` are the parsed CNI_ARGS. Raises `InvalidConfig`.
    """
    for source in (conf.get("runtimeConfig"), (conf.get("args") or {}).get("cni")):
        if source and source.get("mac"):
            return str(source["mac"])
    if arguments.get("MAC"):
        try:
            return canonical_mac(arguments["MAC"])
        except ValueError as error:
            raise InvalidConfig(f"CNI_ARGS MAC: {error}") from error
    return conf.get("mac")
