"""The way of a device from the result of a CNI plugin to virt-launcher: what Multus and KubeVirt make of it.

Multus writes an entry of the pod's annotation k8s.v1.cni.cncf.io/network-status. From it, virt-controller makes the
annotation kubevirt.io/network-info, which virt-launcher and the sidecars read as /etc/podinfo/network-info. Written
from the facts of pkg/network/deviceinfo and pkg/network/namescheme in KubeVirt, and of Multus' types.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any


class NotMapped(Exception):
    """KubeVirt finds no device for an interface, and the machine does not start."""


def network_status(network: str, ifname: str, result: dict[str, Any], device_info: Any = None) -> dict[str, Any]:
    """Multus' entry for a network (NAMESPACE/NAME): of the interface in the pod, and with the device-info file."""
    inside = [one for one in result.get("interfaces", []) if one.get("sandbox")]
    # Without an interface in a sandbox, Multus has nothing to write.
    (interface,) = inside
    status: dict[str, Any] = {"name": network, "interface": ifname, "mac": interface.get("mac", ""), "dns": {}}
    if result.get("ips"):
        status["ips"] = [ip["address"].partition("/")[0] for ip in result["ips"]]
    if device_info:
        status["device-info"] = device_info
    return status


def network_info(vmi: dict[str, Any], statuses: list[dict[str, Any]]) -> dict[str, Any]:
    """virt-controller's annotation. Raises NotMapped for an SR-IOV interface without the PCI address of its device."""
    by_name = {status["interface"]: status for status in statuses}
    names = _names(vmi, by_name)
    found = []
    for interface in vmi["spec"]["domain"]["devices"]["interfaces"]:
        status = by_name.get(names[interface["name"]])
        if status is None:
            continue  # not plugged in yet
        device = status.get("device-info")
        if "sriov" in interface and not ((device or {}).get("pci") or {}).get("pci-address"):
            raise NotMapped(f"no device-info with a PCI address for {interface['name']}")
        if device is not None:
            found.append({"network": interface["name"], "deviceInfo": device})
    return {"interfaces": sorted(found, key=lambda each: each["network"])}


def host_device(vmi: dict[str, Any], info: dict[str, Any], name: str) -> str:
    """The PCI address of the device that virt-launcher puts into the domain for an interface with `sriov`."""
    address: str = next(each for each in info["interfaces"] if each["network"] == name)["deviceInfo"]["pci"][
        "pci-address"
    ]
    # virt-launcher's parser takes the whole address only.
    if not re.fullmatch(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]", address):
        raise NotMapped(f"{address!r} is no PCI address")
    assert any(each["name"] == name and "sriov" in each for each in vmi["spec"]["domain"]["devices"]["interfaces"])
    return address


def _names(vmi: dict[str, Any], present: dict[str, Any]) -> dict[str, str]:
    """The names of the interfaces in the pod, by the names of the networks."""
    networks = [each for each in vmi["spec"]["networks"] if "multus" in each]
    ordinal = any(re.fullmatch("net[0-9]+", name) for name in present)
    names = {each["name"]: "eth0" for each in vmi["spec"]["networks"]}
    for number, each in enumerate(networks, 1):
        digest = hashlib.sha256(each["name"].encode()).hexdigest()[:11]
        names[each["name"]] = f"net{number}" if ordinal else f"pod{digest}"
    return names
