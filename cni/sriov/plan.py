"""From request, configuration and the VF as found to the attachment: every policy rule of the plugin. Pure."""

from __future__ import annotations

from cni.errors import DeviceBusy
from cni.host.netlink import VfInfo
from cni.record import DEVICE, IPAM, Key, Record
from cni.sriov import model
from cni.vf import VfSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cni.vf import Vf

SETTINGS = ("vlan", "rate", "spoofchk", "trust", "link_state", "mac")
"""The order in which the PF is told: trust before the MAC, because some drivers take a MAC from trusted VFs only."""

RESTORED = ("mtu", "alias", "queue", "group")
"""Attributes of the network device that one message each puts back."""

VERIFIED = ("mac", "mtu", "up")
"""Attributes of the network device without which it is not clean. The name is not among them: another device may have
it. Nor is the permanent address: most drivers have a fixed one, and only igbvf's can be put back."""

_SWITCH = {"on": True, "off": False, None: None}


def plan(key: Key, conf: dict[str, Any], mac: str | None, vf: Vf) -> model.VfAttachment:
    """What ADD will do. Raises `DeviceBusy` when the host uses the VF itself."""
    if vf.link is None:
        raise DeviceBusy(
            f"VF {vf.device} has no network device on the host (driver: {vf.driver or 'none'})",
            hint="it is bound to no network driver, or is in a network namespace of something that Barewire did not attach",
        )
    if vf.link.master:
        raise DeviceBusy(
            f"the VF's network device {vf.link.name} is enslaved on the host",
            hint=f"take it out of its bridge, bond or VRF first: ip link set {vf.link.name} nomaster",
        )
    return model.VfAttachment(
        key=key,
        device=vf.device,
        index=vf.index,
        pf=vf.pf,
        driver=vf.driver,
        found=vf.settings,
        netdev=model.netdev(vf.link),
        settings=wanted_settings(conf, mac),
        mtu=conf.get("mtu"),
    )


def wanted_settings(conf: dict[str, Any], mac: str | None) -> VfSettings:
    """The PF-side settings that a valid configuration asks for."""
    vlan = conf.get("vlan")
    tagged = vlan is not None
    return VfSettings(
        vlan=vlan,
        qos=(conf.get("vlanQoS") or 0) if tagged else None,
        proto=(conf.get("vlanProto") or "802.1q") if tagged else None,
        mac=mac,
        spoofchk=_SWITCH[conf.get("spoofchk")],
        trust=_SWITCH[conf.get("trust")],
        min_tx_rate=conf.get("min_tx_rate"),
        max_tx_rate=conf.get("max_tx_rate"),
        link_state=conf.get("link_state"),
    )


def record(
    attachment: model.VfAttachment, *, netns: str, netns_identity: str, boot_id: str, ipam: dict[str, Any] | None
) -> Record:
    """The record of the attachment, with everything still to be undone."""
    return Record(
        key=attachment.key,
        plugin="sriov",
        device=attachment.device,
        netns=netns,
        netns_identity=netns_identity,
        boot_id=boot_id,
        left=(DEVICE, IPAM) if ipam else (DEVICE,),
        found=model.found_document(attachment),
        wanted=model.wanted_document(attachment),
        ipam=ipam,
    )


def changes(settings: VfSettings, present: VfInfo) -> list[str]:
    """Which settings are asked for and are not so already, in the order in which to send them."""
    return [name for name in SETTINGS if _differs(name, settings, present)]


def restoration(attachment: model.VfAttachment) -> VfSettings:
    """The settings as found, of those that the attachment changes; the MAC is restored apart (see `attach`)."""
    asked, found = attachment.settings, attachment.found
    rated = asked.min_tx_rate is not None or asked.max_tx_rate is not None
    tagged = asked.vlan is not None
    return VfSettings(
        vlan=found.vlan if tagged else None,
        qos=found.qos if tagged else None,
        proto=found.proto if tagged else None,
        spoofchk=None if asked.spoofchk is None else found.spoofchk,
        trust=None if asked.trust is None else found.trust,
        min_tx_rate=found.min_tx_rate if rated else None,
        max_tx_rate=found.max_tx_rate if rated else None,
        link_state=None if asked.link_state is None else found.link_state,
    )


def differences(settings: VfSettings, present: VfInfo) -> list[str]:
    """What CHECK and DEL report: each setting that is not as it should be, with both values."""
    found = []
    for name, wanted in settings.as_dict().items():
        value = getattr(present, name)
        if wanted is not None and wanted != value:
            found.append(f"{name} is {_shown(value)}, not {_shown(wanted)}")
    return found


def clean_settings() -> VfSettings:
    """What a VF gets whose state before its attachment is not known any more: the kernel's defaults."""
    return VfSettings(
        vlan=0, qos=0, proto="802.1q", spoofchk=True, trust=False, min_tx_rate=0, max_tx_rate=0, link_state="auto"
    )


_FIELDS = {"vlan": ("vlan", "qos", "proto"), "rate": ("min_tx_rate", "max_tx_rate")}


def _differs(name: str, settings: VfSettings, present: VfInfo) -> bool:
    fields = _FIELDS.get(name, (name,))
    asked = [field for field in fields if getattr(settings, field) is not None]
    return any(getattr(settings, field) != getattr(present, field) for field in asked)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not reported" if value is None else str(value)
