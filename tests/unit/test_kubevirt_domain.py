"""The sidecar's change of a domain: our interfaces become vhost-user with shared memory.

Everything else stays the same, byte for byte.
"""

from __future__ import annotations

import difflib
import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cni.errors import InvalidConfig
from kubevirt import domain as domains, machine as machines
from kubevirt.facts import Fact, network_info
from kubevirt.port import Sight
from tests.kubevirt_hooks.domains import BINDING, DATAPLANE, MAC, NAMES, bound, domain, machine, network
from tests.kubevirt_hooks.schema import read_back

SOCKETS = "/var/run/kubevirt/sockets"


def change(text: bytes, vmi: dict[str, Any] | None = None, **sight: Any) -> bytes:
    parsed = machines.parse(json.dumps(vmi or machine()).encode())
    return domains.change(text, parsed, BINDING, Sight(**{"info": {}, "claims": {}, **sight}))


def changed(name: str, vmi: dict[str, Any] | None = None, **sight: Any) -> ET.Element:
    return ET.fromstring(change(domain(name), vmi, **sight))


def ours(root: ET.Element, name: str = "dataplane") -> ET.Element:
    (found,) = [
        each for each in root.findall("devices/interface") if each.find(f"alias[@name='ua-{name}']") is not None
    ]
    return found


def attributes(element: ET.Element) -> dict[str, dict[str, str]]:
    return {child.tag: child.attrib for child in element}


def added_and_removed(before: bytes, after: bytes) -> tuple[list[str], list[str]]:
    lines = list(difflib.ndiff(before.decode().splitlines(), after.decode().splitlines()))
    return [line[2:].strip() for line in lines if line[0] == "+"], [
        line[2:].strip() for line in lines if line[0] == "-"
    ]


INTERFACE = [
    '<interface type="vhostuser">',
    f'<mac address="{MAC}"/>',
    f'<source type="unix" path="{SOCKETS}/{DATAPLANE}" mode="server"/>',
    f'<target dev="{DATAPLANE}"/>',
    '<model type="virtio-non-transitional"/>',
    '<driver name="vhost" rx_queue_size="1024" tx_queue_size="1024"/>',
    '<alias name="ua-dataplane"/>',
    '<rom enabled="no"/>',
    "</interface>",
]
SOURCE, ACCESS = '<source type="memfd"/>', '<access mode="shared"/>'
MEMORY = {
    "plain": ["<memoryBacking>", SOURCE, ACCESS, "</memoryBacking>"],
    "alone": ["<memoryBacking>", SOURCE, ACCESS, "</memoryBacking>"],
    "hotplug": ["<memoryBacking>", SOURCE, ACCESS, "</memoryBacking>"],
    "hugepages": [ACCESS],
    "numa": [ACCESS],
    "virtiofs": [],
    "v1.5": ["<memoryBacking>", SOURCE, ACCESS, "</memoryBacking>"],
    "v1.6": ["<memoryBacking>", SOURCE, ACCESS, "</memoryBacking>"],
    "v1.7": ["<memoryBacking>", SOURCE, ACCESS, "</memoryBacking>"],
    "v1.8": [],
    "v1.9": [],
}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_our_interface_and_the_shared_memory_is_new(name):
    before = domain(name)
    added, removed = added_and_removed(before, change(before))
    cells = [line.strip() for line in before.decode().splitlines() if "<cell" in line]
    assert removed == cells
    shared = [cell.replace("></cell>", ' memAccess="shared"></cell>') for cell in cells]
    assert sorted(added) == sorted([*MEMORY[name], *INTERFACE, *shared])


@pytest.mark.parametrize("name", NAMES)
def test_a_second_change_changes_nothing(name):
    once = change(domain(name))
    assert change(once) == once


@pytest.mark.parametrize("name", NAMES)
def test_what_kubevirts_schema_has_dropped_is_there_again_and_the_guests_address_is_kept(name):
    first = change(domain(name))
    second = read_back(first)
    assert b"rx_queue_size" not in second
    assert f"{SOCKETS}/{DATAPLANE}".encode() not in second
    again = change(second)
    assert change(again) == again
    before, after = ours(ET.fromstring(first)), ours(ET.fromstring(again))
    address = ours(ET.fromstring(second)).find("address")
    assert address is not None
    assert attributes(after) == {**attributes(before), "address": address.attrib}
    assert len(ET.fromstring(again).findall("devices/interface")) == len(
        ET.fromstring(first).findall("devices/interface")
    )
    added, removed = added_and_removed(second, again)
    assert not [line for line in [*added, *removed] if "ua-default" in line or "memoryBacking" in line]


def test_a_machine_without_an_interface_of_ours_gets_its_domain_back_as_it_was():
    text = domain("plain")
    assert change(text, machine(bound(binding={"name": "passt"}))) == text


def test_an_interface_that_kubevirt_has_made_for_us_is_replaced_in_its_place():
    """A plugin that is registered with a `domainAttachmentType` gets such an element."""
    made = b'<interface type="ethernet">\n\t\t\t<address type="pci" bus="0x07"></address>\n\t\t\t<alias name="ua-dataplane"></alias>\n\t\t</interface>\n\t\t'
    text = domain("plain").replace(b'<interface type="ethernet">', made + b'<interface type="ethernet">', 1)
    root = ET.fromstring(change(text))
    assert [each.get("type") for each in root.findall("devices/interface")] == ["vhostuser", "ethernet"]
    assert attributes(ours(root))["address"] == {"type": "pci", "bus": "0x07"}


def test_interfaces_stand_in_the_order_of_the_machine():
    vmi = machine(bound("a", macAddress=""), bound("b", macAddress=""))
    interfaces = vmi["spec"]["domain"]["devices"]["interfaces"]
    interfaces.append(interfaces.pop(0))
    interfaces.append(bound("c", macAddress=""))
    vmi["spec"]["networks"].append(network("c"))
    aliases = changed("plain", vmi).findall("devices/interface/alias")
    assert [alias.get("name") for alias in aliases] == ["ua-a", "ua-b", "ua-default", "ua-c"]


def test_an_interface_finds_its_place_between_two_that_touch_each_other():
    vmi = machine(bound("a", macAddress=""), bound("b", macAddress=""))
    present = b"".join(b'<interface><alias name="ua-%s"/></interface>' % name for name in (b"default", b"b"))
    once = change(b"<domain><devices>" + present + b"</devices></domain>", vmi)
    aliases = ET.fromstring(once).findall("devices/interface/alias")
    assert [alias.get("name") for alias in aliases] == ["ua-default", "ua-a", "ua-b"]
    assert change(once, vmi) == once


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"<domain><devices/></domain>", b'mode="shared"/></memoryBacking><devices><interface type="vhostuser">'),
        (b"<domain>\n  <devices></devices>\n</domain>", b"</interface>\n  </devices>\n</domain>"),
        (b"<domain><memoryBacking /><devices/></domain>", b'<domain><memoryBacking ><source type="memfd"/><access'),
        (b"<domain><memory>1</memory><devices/></domain>", b"<memory>1</memory><memoryBacking>"),
        (
            b"<domain><cpu><numa><cell id='0'  /></numa></cpu><devices/></domain>",
            b"<cell id='0' memAccess=\"shared\"  />",
        ),
        (b"\xef\xbb\xbf<domain><devices><!-- > --></devices></domain>", b"</interface><!-- > --></devices></domain>"),
        (b"<domain a='>' b=\"/>\"><devices c='>'/></domain>", b"<devices c='>'><interface"),
    ],
)
def test_a_domain_may_be_written_in_any_way(text, wanted):
    once = change(text)
    assert wanted in once
    assert change(once) == once


@pytest.mark.parametrize(
    ("devices", "cpu", "queues"),
    [
        ({}, {"cores": 4}, None),
        ({"networkInterfaceMultiqueue": True}, {"cores": 4, "sockets": 2}, "8"),
        ({"networkInterfaceMultiqueue": True}, {}, "2"),
        ({"networkInterfaceMultiqueue": True}, {"cores": 1}, "1"),
        ({"networkInterfaceMultiqueue": True}, {"cores": 200}, "128"),
    ],
)
def test_there_are_as_many_queues_as_cpus_with_multiqueue(devices, cpu, queues):
    vmi = machine(devices=devices)
    vmi["spec"]["domain"]["cpu"] = cpu
    assert attributes(ours(changed("plain", vmi)))["driver"].get("queues") == queues


def test_what_the_machine_says_of_an_interface_is_in_the_domain():
    interface = bound(
        macAddress="02-00-00-00-10-0A",
        bootOrder=1,
        pciAddress="0000:81:01.3",
        acpiIndex=7,
        state="down",
        model="virtio",
    )
    found = attributes(ours(changed("plain", machine(interface, devices={"useVirtioTransitional": True}))))
    assert found["mac"] == {"address": "02:00:00:00:10:0a"}
    assert found["boot"] == {"order": "1"}
    assert found["link"] == {"state": "down"}
    assert found["acpi"] == {"index": "7"}
    assert found["address"] == {"type": "pci", "domain": "0x0000", "bus": "0x81", "slot": "0x01", "function": "0x3"}
    assert found["model"] == {"type": "virtio-transitional"}
    assert "rom" not in found


@pytest.mark.parametrize(("architecture", "model"), [("s390x", "virtio"), ("arm64", "virtio-non-transitional")])
def test_virtio_is_named_as_the_architecture_has_it(architecture, model):
    found = attributes(ours(changed("plain", machine(architecture=architecture))))
    assert found["model"] == {"type": model}
    assert "rom" not in found


QEMU = {"qemu": "http://libvirt.org/schemas/domain/qemu/1.0"}
MTU = {"dataplane": Fact(mtu=9000)}


def offered(text: bytes) -> dict[str, str]:
    """The MTUs by the cards' aliases."""
    devices = ET.fromstring(text).findall("qemu:override/qemu:device", QEMU)
    values = {
        device.get("alias", ""): device.find("qemu:frontend/qemu:property[@name='host_mtu']", QEMU)
        for device in devices
    }
    return {alias: value.get("value", "") for alias, value in values.items() if value is not None}


def test_the_guest_is_offered_the_mtu_where_it_is_known_by_a_way_that_libvirt_takes():
    """libvirt does not start a machine with `<mtu>` in an interface of type vhostuser."""
    assert offered(change(domain("plain"))) == {}
    text = change(domain("plain"), info=MTU)
    assert offered(text) == {"ua-dataplane": "9000"}
    assert ours(ET.fromstring(text)).find("mtu") is None
    assert change(text, info=MTU) == text
    assert offered(change(text, info={"dataplane": Fact(mtu=1400)})) == {"ua-dataplane": "1400"}
    assert offered(change(read_back(text), info=MTU)) == {"ua-dataplane": "9000"}


@pytest.mark.parametrize(
    "override", ["<qemu:override/>", '<qemu:override><qemu:device alias="ua-root"/></qemu:override>']
)
def test_what_other_hooks_override_stays(override):
    text = domain("plain").replace(b"</domain>", f"\t{override}\n</domain>".encode())
    once = change(text, info=MTU)
    assert offered(once) == {"ua-dataplane": "9000"}
    assert (b'alias="ua-root"/>' in once) == (b"ua-root" in override.encode())
    assert change(once, info=MTU) == once


def test_the_namespace_of_qemu_is_declared_where_it_is_missing():
    assert offered(change(b"<domain><devices/></domain>", info=MTU)) == {"ua-dataplane": "9000"}


PROPERTY = '<qemu:property name="host_mtu" type="unsigned" value="9000"/>'
OF_OTHERS = {
    "another property": '<qemu:frontend><qemu:property name="x"/></qemu:frontend>',
    "another property beside ours": f'<qemu:frontend>{PROPERTY}<qemu:property name="x"/></qemu:frontend>',
    "the property removed": '<qemu:frontend><qemu:property name="host_mtu" type="remove"/></qemu:frontend>',
    "another part beside ours": f"<qemu:frontend>{PROPERTY}</qemu:frontend><qemu:backend/>",
    "two parts": f"<qemu:frontend>{PROPERTY}</qemu:frontend><qemu:frontend/>",
    "an attribute": f'<qemu:frontend x="y">{PROPERTY}</qemu:frontend>',
    "nothing": "",
}


@pytest.mark.parametrize("case", OF_OTHERS)
def test_properties_of_our_card_that_another_hook_sets_are_not_lost_in_silence(case):
    device = f'<qemu:device alias="ua-dataplane">{OF_OTHERS[case]}</qemu:device>'
    text = domain("plain").replace(b"</domain>", f"<qemu:override>{device}</qemu:override></domain>".encode())
    with pytest.raises(InvalidConfig, match="another hook of the machine sets properties of ua-dataplane"):
        change(text, info=MTU)
    assert device.encode() in change(text)


def test_an_mtu_that_is_no_longer_known_is_removed():
    assert change(change(domain("plain"), info=MTU)) == change(domain("plain"))


def test_an_empty_override_of_another_hook_stays_without_an_mtu():
    text = domain("plain").replace(b"</domain>", b"<qemu:override/></domain>")
    assert b"<qemu:override/>" in change(text)


@pytest.mark.parametrize("other", ["ua-root", "ua-other"])
def test_only_our_mtu_is_removed(other):
    override = f'<qemu:override><qemu:device alias="{other}"/></qemu:override>'
    text = domain("plain").replace(b"</domain>", f"\t{override}\n</domain>".encode())
    assert f'<qemu:device alias="{other}"/>'.encode() in change(change(text, info=MTU))
    assert offered(change(change(text, info=MTU))) == {}


def test_without_an_address_of_the_machine_the_interface_has_a_lasting_one():
    vmi = machine(bound(macAddress=""))
    made = attributes(ours(changed("plain", vmi)))["mac"]["address"]
    assert attributes(ours(changed("numa", vmi)))["mac"]["address"] == made
    assert int(made[:2], 16) & 3 == 2, "of one interface, and administered locally"
    vmi["metadata"]["name"] = "other"
    assert attributes(ours(changed("plain", vmi)))["mac"]["address"] != made


def test_the_address_that_the_plugin_makes_for_each_pod_does_not_become_the_guests():
    vmi = machine(bound(macAddress=""))
    starts = [
        {"interfaces": [{"network": "dataplane", "mac": f"02:aa:00:00:00:0{pod}", "mtu": 1400}]} for pod in (1, 2)
    ]
    found = [
        attributes(ours(changed("plain", vmi, info=network_info(json.dumps(start).encode(), {"dataplane"}))))["mac"]
        for start in starts
    ]
    assert found == [attributes(ours(changed("plain", vmi)))["mac"]] * 2


def test_a_running_guest_keeps_its_address():
    vmi = machine(bound(macAddress=""))
    has = read_back(change(domain("plain"), machine(bound(macAddress="02:aa:00:00:00:01"))))
    assert attributes(ours(ET.fromstring(change(has, vmi))))["mac"] == {"address": "02:aa:00:00:00:01"}


def test_an_interface_on_its_way_out_is_kept_whole_and_not_put_back():
    leaving = machine(bound(state="absent"))
    present = change(domain("plain"))
    assert change(present, leaving) == present
    assert change(domain("plain"), leaving) == domain("plain")


def test_an_interface_that_has_gone_may_have_lost_its_network():
    leaving = machine(bound("gone", state="absent"), bound(), networks=[network()])
    assert change(domain("plain"), leaving) == change(domain("plain"))
    alone = machine(bound("gone", state="absent"), networks=[])
    assert change(domain("plain"), alone) == domain("plain")


def test_the_name_of_an_interface_of_another_binding_is_not_judged():
    vmi = machine(bound(), bound("net.of another/binding", binding={"name": "passt"}))
    assert change(domain("plain"), vmi) == change(domain("plain"))


def test_the_users_choice_against_memfd_is_kept_with_huge_pages():
    text = domain("hugepages").replace(b'\t\t<source type="memfd"></source>\n', b"")
    vmi = machine()
    assert ET.fromstring(change(text, vmi)).find("memoryBacking/source") is not None
    vmi["metadata"]["annotations"] = {"kubevirt.io/memfd": "false"}
    backing = ET.fromstring(change(text, vmi)).find("memoryBacking")
    assert backing is not None
    assert [child.tag for child in backing] == ["access", "hugepages"]


CELL = b'unit="KiB"></cell>'
REFUSED = {
    "private memory": ("virtiofs", b'mode="shared"', b'mode="private"', "keeps the vswitch from the guest's memory"),
    "a private cell": ("numa", CELL, b'memAccess="private"></cell>', "keeps the vswitch from the guest's memory"),
    "a private device": ("hotplug", b'"virtio-mem"', b'"dimm" access="private"', "keeps the vswitch from the guest's"),
    "anonymous memory": ("hugepages", b'"memfd"', b'"anonymous"', "cannot be shared"),
    "a confidential machine": ("plain", b"<iothreads>", b'<launchSecurity type="sev"/><iothreads>', "confidential"),
    "no devices": ("plain", b"devices>", b"devises>", "no domain with devices"),
    "no domain": ("plain", b"domain", b"network", "no domain with devices"),
    "no XML": ("plain", b"</devices>", b"", "not XML"),
    "nothing": ("plain", domain("plain"), b"", "not XML"),
    "entities": (
        "plain",
        b"<domain ",
        b'<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]><domain ',
        "document type",
    ),
    "depth": ("plain", b"<bios>", b"<bios>" * 100, "levels of elements"),
    "number": ("plain", b"<bios>", b"<bios>" + b"<a/>" * 20_001, "more than 20000 elements"),
    "size": ("plain", b"<bios>", b"<bios>" + b" " * (1 << 20), "are the most that is read"),
    "another encoding": ("plain", b"KubeVirt &amp; friends", b"K\xfcbeVirt", "not XML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_domain_that_cannot_work_is_refused_with_the_reason(case):
    name, old, new, reason = REFUSED[case]
    with pytest.raises(InvalidConfig, match=reason):
        change(domain(name).replace(old, new))


INTERFACES: dict[str, tuple[dict[str, Any], str]] = {
    "a card that is not virtio": ({"model": "e1000"}, "cannot be a card of model"),
    "a group's address": ({"macAddress": "03:00:00:00:00:01"}, "not the MAC address of one interface"),
    "no address at all": ({"macAddress": "router"}, "not the MAC address of one interface"),
    "a bus address that is none": ({"pciAddress": "81:1"}, "not a PCI address"),
    "a name with quotes": ({"name": 'a"b'}, "no interface's name"),
    "a wrong type": ({"bootOrder": "first"}, "bootOrder"),
}


@pytest.mark.parametrize("case", INTERFACES)
def test_an_interface_that_cannot_work_is_refused_with_the_reason(case):
    fields, reason = INTERFACES[case]
    with pytest.raises(InvalidConfig, match=reason):
        change(domain("plain"), machine(bound(**fields)))


def test_an_interface_without_a_network_is_refused():
    with pytest.raises(InvalidConfig, match="no network of that name"):
        change(domain("plain"), machine(networks=[]))


def test_a_socket_whose_path_is_too_long_is_refused():
    with pytest.raises(InvalidConfig, match="107 is the limit"):
        change(domain("plain"), sockets=f"/{'s' * 100}")


def test_two_interfaces_with_one_socket_are_refused():
    vmi = machine(
        bound("a"), bound("b"), networks=[network("a"), network("b", multus={"default": True, "networkName": "x"})]
    )
    vmi["status"]["interfaces"] = [{"name": "a", "podInterfaceName": "eth0"}]
    with pytest.raises(InvalidConfig, match="interfaces a and b have one socket"):
        change(domain("plain"), vmi)


def test_the_log_can_name_the_sockets_of_a_domain_that_was_changed():
    vmi = machine(bound("one"), bound("two", macAddress="02:00:00:00:10:02"), bound("gone", state="absent"))
    parsed = machines.parse(json.dumps(vmi).encode())
    after = change(domain("plain"), vmi, info=network_info(b'{"interfaces": []}', set()), sockets="/s")
    found = domains.sockets(after, parsed, BINDING)
    assert list(found) == ["one", "two"]
    assert all(path.startswith("/s/pod") for path in found.values())
    assert domains.sockets(domain("plain"), machines.parse(json.dumps(machine(bound())).encode()), BINDING) == {}
    assert domains.sockets(b"not a domain", parsed, "another") == {}
