"""A record contains each field of the attachment of a device, in types that the plugin declares."""

from __future__ import annotations

from cni.attachment.record import DEVICE, Key, Record, decode
from cni.host.vf_settings import VfInfo, VfSettings
from cni.pci import parse
from cni.sriov import model

KEY = Key(network="net", container_id="a", ifname="net1")
NETDEV = model.Netdev(
    name="ens1v0", mac="02:00:00:00:00:01", permanent="02:00:00:00:00:02", mtu=9000, txqlen=500, group=3, flags=0x100,
    up=True, alias="a note", altnames=("enp1v0", "other"),
)  # fmt: skip
ATTACHMENT = model.DeviceAttachment(
    key=KEY,
    device=parse("0000:01:10.2"),
    index=2,
    pf=parse("0000:01:00.0"),
    driver="igbvf",
    found=VfInfo(index=2, mac="02:00:00:00:00:03", vlan=7, trust=True),
    netdev=NETDEV,
    settings=VfSettings(vlan=5, spoofchk=False),
    instance=41,
    mac="02:00:00:00:00:04",
    mtu=1400,
    driver_override="vfio-pci",
    wanted_driver="vfio-pci",
    userspace=True,
    flags=0x200,
    netdev_instance="7",
    looked="8",
    tuning={"xdp": "0"},
)


def record(attachment):
    found = model.found_document(attachment)
    if attachment.looked:
        found["looked"] = attachment.looked  # as a removal does
    return Record(
        key=KEY, plugin=model.PLUGIN, device=attachment.device, netns="/n", netns_identity="1:2", boot_id="b",
        left=(DEVICE,), found=found, wanted=model.wanted_document(attachment),
    )  # fmt: skip


def defaults(value):
    """The fields that have their default value, with which a field that is not recorded would not be noticed."""
    kind = type(value)
    return [name for name in kind.kinds() if hasattr(kind, name) and getattr(value, name) == getattr(kind, name)]


def test_each_field_of_an_attachment_survives_its_record():
    assert defaults(ATTACHMENT) + defaults(NETDEV) == []
    assert model.from_record(decode(record(ATTACHMENT).encoded(), "the record")) == ATTACHMENT


def test_an_attachment_without_a_network_device_survives_its_record():
    attachment = ATTACHMENT.replace(netdev=None, looked="")
    assert model.from_record(decode(record(attachment).encoded(), "the record")) == attachment


def test_a_record_of_the_first_schema_describes_a_vf_with_its_driver():
    """Its documents have no other keys than these."""
    netdev = {"name": "v", "mac": "m", "permanent": "", "mtu": 1500, "queue": 9, "group": 0, "flags": 0, "altnames": []}
    older = record(ATTACHMENT).replace(
        found={"index": 1, "pf": "0000:01:00.0", "driver": "igbvf", "settings": {"index": 1}, "netdev": netdev},
        wanted={"settings": {"mac": "02:00:00:00:00:09"}, "mtu": None},
    )
    attachment = model.from_record(older)
    assert (attachment.mac, attachment.userspace, attachment.instance) == ("02:00:00:00:00:09", False, 0)
    assert attachment.netdev == model.Netdev(
        name="v", mac="m", permanent="", mtu=1500, txqlen=9, group=0, flags=0, up=False, alias="", altnames=()
    )
