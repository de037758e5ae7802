"""Rules about several fields of a `sriov` configuration. Pure.

The pydantic model and the fast path's table share these functions, so each rule exists once.
"""

from __future__ import annotations

from cni.host.drivers import is_bindable
from cni.host.vf_settings import SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.sriov.conf_sections import SriovConfDict

    Problem = tuple[str, str]


def cross_check(conf: SriovConfDict, refused: frozenset[str] = frozenset()) -> list[Problem]:
    """Problems that involve several fields, as (JSON path, text). Rules that read a `refused` field are skipped."""
    return [problem for fields, rule in _RULES if refused.isdisjoint(fields) for problem in rule(conf)]


def _vlan(conf: SriovConfDict) -> list[Problem]:
    problems = []
    vlan, qos, proto = conf.get("vlan"), conf.get("vlanQoS"), conf.get("vlanProto")
    for key, value in (("vlanQoS", qos), ("vlanProto", proto)):
        if value is not None and vlan is None:
            problems.append((key, "needs vlan"))
    if vlan == 0 and qos:
        problems.append(("vlanQoS", f"{qos} needs a vlan other than 0"))
    if vlan == 0 and proto == "802.1ad":
        problems.append(("vlanProto", "802.1ad needs a vlan other than 0"))
    return problems


def _rates(conf: SriovConfDict) -> list[Problem]:
    low, high = conf.get("min_tx_rate"), conf.get("max_tx_rate")
    if low and high and low > high:
        return [("min_tx_rate", f"{low} is more than max_tx_rate {high}")]
    return []


def _device(conf: SriovConfDict) -> list[Problem]:
    pf = conf.get("master") or conf.get("if0")
    problems = [] if conf.get("deviceID") or pf else [("deviceID", "missing: name a VF, or its PF as master")]
    if conf.get("vf") is not None and not pf and not conf.get("deviceID"):
        problems.append(("vf", "needs master"))
    return problems


def _pf_only(conf: SriovConfDict) -> list[Problem]:
    if not conf.get("pfOnly"):
        return []
    settings = [field.key for row in SETTINGS.values() if not row.of_netdev for field in row.fields]
    return [
        (key, "is for VFs, and with pfOnly there is none") for key in (*settings, "vf") if conf.get(key) is not None
    ]


def _driver(conf: SriovConfDict) -> list[Problem]:
    legacy = conf.get("dpdk") or {}
    problems = []
    if legacy.get("dpdk_tool"):
        problems.append(("dpdk.dpdk_tool", "no programs are run from a configuration, the driver is bound without one"))
    if conf.get("driver") and legacy.get("dpdk_driver"):
        problems.append(("dpdk.dpdk_driver", "is the old name of driver, give one of them"))
    named = {
        "driver": conf.get("driver"),
        "dpdk.dpdk_driver": legacy.get("dpdk_driver"),
        "dpdk.kernel_driver": legacy.get("kernel_driver"),
    }
    for path, driver in named.items():
        if driver and not is_bindable(driver):
            problems.append((path, f'"{driver}" is no network driver of VFs, nor one that gives devices to user space'))
    return problems


def _promiscuity(conf: SriovConfDict) -> list[Problem]:
    requested = [key for key in ("promisc", "allmulticast") if conf.get(key) == "on"]
    return [(key, "needs trust: on") for key in requested] if conf.get("trust") == "off" else []


_RULES = (
    (("deviceID", "master", "if0", "vf"), _device),
    (("pfOnly",), _pf_only),
    (("driver", "dpdk"), _driver),
    (("promisc", "allmulticast", "trust"), _promiscuity),
    (("vlan", "vlanQoS", "vlanProto"), _vlan),
    (("min_tx_rate", "max_tx_rate"), _rates),
)
"""Each rule with the fields that it reads."""
