"""The result of a scan of the host, and changes found by a later scan."""

from __future__ import annotations

from cni.host.sysfs import Sysfs
from deviceplugin.inventory import Scanner
from tests.kubelet.pcihost import GPU, PF, SOUND, VFS, PciHost, card, graphics


def test_a_look_finds_functions_with_their_relations(tmp_path):
    host = PciHost(tmp_path)
    card(host)
    graphics(host)
    found = Scanner(Sysfs(str(host.sys))).scan()
    pf, vf, gpu = (found.functions[address] for address in (PF, VFS[1], GPU))
    assert (pf.vfs, pf.most_vfs, pf.uplink, pf.carrier) == (tuple(VFS), 8, "eth0", True)
    assert (vf.pf, vf.pf_name, vf.vf_index, vf.netdevs, vf.link_type) == (PF, "eth0", 1, ("eth0v1",), "ether")
    assert (vf.driver, vf.override, vf.group, vf.numa, vf.root) == ("iavf", "", "11", 0, "pci0000:00")
    assert (gpu.pci_class, gpu.vendor, gpu.device, gpu.numa) == ("030200", "10de", "1bb3", 1)
    assert [member.address for member in found.group_of(gpu)] == [GPU, SOUND]


def test_a_later_look_finds_another_driver_link_state_and_function_under_a_known_address(tmp_path):
    host = PciHost(tmp_path)
    card(host, vfs=2)
    scanner = Scanner(Sysfs(str(host.sys)))
    scanner.scan()
    host.bind(VFS[0], "vfio-pci")
    host.remove(VFS[1])
    (tmp_path / "keeps the number of the removed folder busy").mkdir()
    host.add_vf(PF, 1, "0000:05:00.0", driver="iavf", vendor="0x15b3")
    (host.sys / "class/net/eth0/carrier").write_text("0\n")
    found = scanner.scan()
    assert VFS[1] not in found.functions
    assert found.functions[VFS[0]].driver == "vfio-pci"
    assert found.functions[VFS[0]].carrier is False
    assert found.functions["0000:05:00.0"].vendor == "15b3"
