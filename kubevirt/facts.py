"""KubeVirt's network-info and the metadata of DRA devices, as values. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cni.errors import InvalidConfig
from cni.names import shown
from cni.value import Value

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

SMALLEST_MTU, LARGEST_MTU = 68, 9702
"""The minimum of IPv4, and the maximum of Open vSwitch with DPDK."""

PATH_ATTRIBUTE, MTU_ATTRIBUTE = "vhost-user-path", "mtu"
"""Attributes from the DRA driver for Open vSwitch with DPDK; the path is valid in the container."""
_METADATA_GROUP = "metadata.resource.k8s.io/"


class Fact(Value):
    """The socket and the MTU of an interface; empty and None if unknown."""

    path: str = ""
    mtu: int | None = None


def network_info(text: bytes, networks: Collection[str]) -> dict[str, Fact] | None:
    """The facts by the name of the network, for these networks; None if the file is still empty.

    Raises `InvalidConfig`. The `mac` of an entry is not read: it is the user's, which the machine contains as well, or
    the CNI plugin's, which is different for each pod.
    """
    if not text.strip():
        return None
    where = "network-info"
    found: dict[str, Fact] = {}
    for entry in _items(_loaded(text, where), "interfaces", where):
        name = entry.get("network")
        # An entry of another binding may have values that are valid only there, such as the MTU of InfiniBand.
        if not isinstance(name, str) or name not in networks:
            continue
        device = _object(entry.get("deviceInfo"), f"{where}: deviceInfo")
        socket = _object(device.get("vhost-user"), f"{where}: vhost-user") if device.get("type") == "vhost-user" else {}
        found[name] = Fact(
            path=_text(socket.get("path"), f"{where}: path"),
            mtu=_mtu(entry.get("mtu") or None, where),
        )
    return found


def device_metadata(text: bytes, where: str) -> Fact | None:
    """The facts of the first device that has a socket; None if the file is still empty. Raises `InvalidConfig`.

    The file is a stream of objects with the same content in several versions of the format. The first known one counts.
    """
    if not text.strip():
        return None
    document = next((each for each in _stream(text, where) if _is_metadata(each)), None)
    if document is None:
        raise InvalidConfig(
            f"{where} has no object of {_METADATA_GROUP}v1alpha1", hint="look at the DRA driver's version"
        )
    for request in _items(document, "requests", where):
        for device in _items(request, "devices", where):
            attributes = _object(device.get("attributes"), f"{where}: attributes")
            path = _object(attributes.get(PATH_ATTRIBUTE), f"{where}: {PATH_ATTRIBUTE}").get("string")
            mtu = _object(attributes.get(MTU_ATTRIBUTE), f"{where}: {MTU_ATTRIBUTE}").get("int")
            if path:
                return Fact(path=_text(path, f"{where}: {PATH_ATTRIBUTE}"), mtu=_mtu(mtu, where))
    raise InvalidConfig(
        f"{where} has no device with the attribute {PATH_ATTRIBUTE}",
        hint="the claim has to be one of the DRA driver for Open vSwitch with DPDK",
    )


def _is_metadata(document: Any) -> bool:
    return isinstance(document, dict) and str(document.get("apiVersion")).startswith(_METADATA_GROUP)


def _stream(text: bytes, where: str) -> Iterator[Any]:
    try:
        rest = text.decode().strip()
        while rest:
            document, end = json.JSONDecoder().raw_decode(rest)
            yield document
            rest = rest[end:].lstrip()
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{where} is not JSON: {error}") from error


def _loaded(text: bytes, where: str) -> dict[str, Any]:
    try:
        return _object(json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{where} is not JSON: {error}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidConfig(f"{where} is not an object")
    return value


def _items(parent: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise InvalidConfig(f"{where}: {key} is not a list")
    return [_object(each, f"{where}: {key}") for each in found]


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidConfig(f"{where} is not a text")
    return value


def _mtu(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not SMALLEST_MTU <= value <= LARGEST_MTU:
        raise InvalidConfig(f"{where}: mtu {shown(value)} is not a number from {SMALLEST_MTU} to {LARGEST_MTU}")
    return value
