"""Keys of hustcat's, Intel's and xftony's SR-IOV plugins, translated to today's. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IGNORED = {
    "if0name": "the interface is named as the runtime says (CNI_IFNAME)",
    "cniDir": "records are in /var/lib/cni/barewire",
    "deviceinfo": "the result, and the device-info file, tell which device it is",
    "pci_addr": "the result, and the device-info file, tell which device it is",
}


def translate(named: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The configuration (under its canonical keys) without old keys, and a deprecation warning for each of them."""
    conf, warnings = dict(named), []
    for key, reason in _IGNORED.items():
        if conf.pop(key, None) is not None:
            warnings.append(f"{key}: old key, ignored: {reason}")
    if conf.get("deviceID") and conf.pop("vf", None) is not None:
        warnings.append("vf: ignored, deviceID names the device")
    old_name = conf.pop("if0", None)
    if old_name:
        warnings.append("if0: old key, say master")
        conf["master"] = conf.get("master") or old_name
    if conf.pop("l2enable", None) is True:
        warnings.append("l2enable: old key, leave out ipam instead")
        conf.pop("ipam", None)
    section = conf.get("dpdk")
    if isinstance(section, dict) and section.get("dpdk_driver"):
        warnings.append("dpdk: old key, say driver")
        conf["driver"] = conf.get("driver") or section["dpdk_driver"]
    return conf, warnings
