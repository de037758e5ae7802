"""Keys of hustcat's, Intel's and xftony's SR-IOV plugins, translated to today's. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.sriov.conf_sections import SriovConfDict

_IGNORED = {
    "if0name": "the interface is named as the runtime says (CNI_IFNAME)",
    "cniDir": "records are in /var/lib/cni/barewire",
    "deviceinfo": "the result, and the device-info file, tell which device it is",
    "pci_addr": "the result, and the device-info file, tell which device it is",
}


def translate(named: SriovConfDict) -> tuple[SriovConfDict, list[str]]:
    """The validated configuration with old keys translated, and a deprecation warning for each of them."""
    conf = named.copy()
    warnings = [f"{key}: old key, ignored: {reason}" for key, reason in _IGNORED.items() if conf.get(key) is not None]
    if conf.get("deviceID") and conf.pop("vf", None) is not None:
        warnings.append("vf: ignored, deviceID names the device")
    old_name = conf.pop("if0", None)
    if old_name:
        warnings.append("if0: old key, say master")
        conf["master"] = conf.get("master") or old_name
    if conf.pop("l2enable", None) is True:
        warnings.append("l2enable: old key, leave out ipam instead")
        conf.pop("ipam", None)
    old_driver = (conf.get("dpdk") or {}).get("dpdk_driver")
    if old_driver:
        warnings.append("dpdk: old key, say driver")
        conf["driver"] = conf.get("driver") or old_driver
    return conf, warnings
