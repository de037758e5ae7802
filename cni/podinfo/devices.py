"""Devices that a device plugin gave to the container: environment variables PCIDEVICE_<resource> and ..._INFO."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .reading import document, section, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cni.jsontext import JsonObject

DEVICE_INFO_VERSION = "1.1.0"
"""The version of the Network Plumbing Working Group's device information specification."""

_PREFIX = "PCIDEVICE_"
_ADDRESS = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def pci_address(name: str) -> str:
    """The PCI address in the kernel's format; empty if it is not a PCI address."""
    lowered = name.strip().lower()
    if not _ADDRESS.fullmatch(lowered):
        return ""
    return lowered if lowered.count(":") == 2 else f"0000:{lowered}"


def pci_devices(environment: Mapping[str, str]) -> dict[str, JsonObject]:
    """The device information of each PCI device in the environment, by address, in the order of the variables' names.

    Devices that are not PCI functions, such as sub-functions, have another kind of name and are skipped.
    Raises `PodInfoError` for an ..._INFO that is not JSON.
    """
    found: dict[str, JsonObject] = {}
    for variable in sorted(environment):
        if variable.startswith(_PREFIX):
            for address, information in _told(variable, environment[variable]):
                found.setdefault(address, {"pci-address": address}).update(information)
    return {address: {"type": "pci", "version": DEVICE_INFO_VERSION, "pci": pci} for address, pci in found.items()}


def _told(variable: str, value: str) -> Iterator[tuple[str, JsonObject]]:
    # The name is not sufficient: a resource may be called `..._info`, and its variable then lists addresses.
    if value.lstrip().startswith("{"):
        told = document(value, variable)
        pairs = [(name, _more(section(told, name))) for name in told]
    else:
        pairs = [(name, {}) for name in value.split(",")]
    return ((address, more) for name, more in pairs if (address := pci_address(name)))


def _more(told: JsonObject) -> JsonObject:
    """The parts that the device information specification defines."""
    more = {
        "vhost-net": text(section(told, "vhost"), "net-mount"),
        "rdma-device": text(section(told, "rdma"), "rdma_dev"),
    }
    return {key: value for key, value in more.items() if value}
