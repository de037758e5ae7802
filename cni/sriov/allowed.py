"""The limits that the node's administrator sets on requests of networks to `sriov`. Pure."""

from __future__ import annotations

from cni.errors import InvalidConfig
from cni.node.node import PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.device import Device
    from cni.node.node import DevicePolicy
    from cni.sriov.conf_sections import SriovConfDict

    Problem = tuple[str, str]

REMEDY = f"the node's administrator sets the limits in {PATH}, key devices"
_NOT = "the node configuration does not allow"


def problems(conf: SriovConfDict, policy: DevicePolicy) -> list[Problem]:
    """The requests of the configuration that exceed the limits, as (JSON path, text)."""
    return [*_drivers(conf, policy), *_devices(conf, policy), *_promiscuity(conf, policy)]


def require_pf(device: Device, policy: DevicePolicy) -> None:
    """Raises `InvalidConfig` if networks may not have devices of that PF. A device without a PF is its own PF."""
    if policy.pfs is None:
        return
    name = device.pf_name or (device.link.name if device.link else "")
    address = device.pf or device.address
    if not {name, str(address)} & set(policy.pfs):
        raise InvalidConfig(
            f"{_NOT} {device.kind} {device.address} (PF {name or 'without name'}, {address})", hint=REMEDY
        )


def _drivers(conf: SriovConfDict, policy: DevicePolicy) -> list[Problem]:
    section = conf.get("dpdk") or {}
    named = (
        ("driver", conf.get("driver")),
        ("dpdk.dpdk_driver", section.get("dpdk_driver")),
        ("dpdk.kernel_driver", section.get("kernel_driver")),
    )
    if policy.drivers is None:
        return []
    allowed = ", ".join(policy.drivers) or "none"
    return [
        (path, f'{_NOT} "{driver}"; allowed: {allowed}')
        for path, driver in named
        if driver and driver not in policy.drivers
    ]


def _devices(conf: SriovConfDict, policy: DevicePolicy) -> list[Problem]:
    found = [("pfOnly", f"{_NOT} to attach a whole PF")] if conf.get("pfOnly") and not policy.pf_only else []
    if not policy.by_pf and not conf.get("deviceID"):
        found += [(key, f"{_NOT} to choose a VF by its PF") for key in ("master", "if0") if conf.get(key)]
    return found


def _promiscuity(conf: SriovConfDict, policy: DevicePolicy) -> list[Problem]:
    requested = [key for key in ("promisc", "allmulticast") if conf.get(key) == "on"]
    return [] if policy.promisc else [(key, f"{_NOT} it") for key in requested]
