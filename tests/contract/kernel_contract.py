"""The behaviour of every `Kernel` towards a VF, for the real one and FakeKernel: the traps that the plugin handles.

Each function gets a `Host` and leaves the VF as it found it, apart from a MAC address that the PF has seen.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cni.errors import DriverUnfit, KernelRefused
from cni.host.netlink import Link
from cni.host.netns import Netns
from cni.host.vf_settings import VfSettings
from cni.pci import PciAddress

if TYPE_CHECKING:
    from cni.sriov.kernel import Kernel

MAC, OTHER_MAC, NO_MAC = "02:00:00:00:77:01", "02:00:00:00:77:02", "00:00:00:00:00:00"


class Host(NamedTuple):
    """A kernel, a VF that is on the host, a pod, and the name of the PF's network device."""

    kernel: Kernel
    device: PciAddress
    pod: Netns
    pf_name: str

    def at(self, place: Netns | None) -> Link:
        link = self.kernel.link(self.device, place)
        assert link is not None
        return link

    def set(self, setting: str, **wanted: object) -> None:
        self.kernel.set_vf(self.kernel.device(self.device), setting, VfSettings(**wanted))  # type: ignore[arg-type]


@contextmanager
def refused(number: int | None = None) -> Iterator[None]:
    """A context in which the kernel must refuse, with that errno if one is given."""
    seen: list[int] = []
    try:
        yield
    except KernelRefused as error:
        seen.append(error.number)
    assert seen, "the kernel took it"
    assert number in (None, seen[0])


@contextmanager
def in_the_pod(host: Host, name: str = "net1") -> Iterator[None]:
    home = host.at(None).name
    host.kernel.move(host.at(None), None, host.pod, name=name, alias="a mark")
    try:
        yield
    finally:
        host.kernel.move(host.at(host.pod), host.pod, None, name=home, alias="")


def settings_are_read_back(host: Host) -> None:
    host.set("vlan", vlan=7, qos=3, proto="802.1q")
    host.set("spoofchk", spoofchk=False)
    host.set("trust", trust=True)
    host.set("rate", max_tx_rate=500)
    seen = host.kernel.device(host.device).settings
    assert (seen.vlan, seen.qos, seen.spoofchk, seen.trust, seen.max_tx_rate) == (7, 3, False, True, 500)
    host.set("vlan", vlan=0, qos=0, proto="802.1q")
    host.set("spoofchk", spoofchk=True)
    host.set("trust", trust=False)
    host.set("rate", max_tx_rate=0)


def what_igb_does_not_know_is_refused_and_changes_nothing(host: Host) -> None:
    before = host.kernel.device(host.device).settings
    with refused():
        host.set("vlan", vlan=5, qos=0, proto="802.1ad")
    with refused():
        host.set("link_state", link_state="enable")
    with refused():
        host.set("rate", min_tx_rate=10)
    assert host.kernel.device(host.device).settings == before


def a_move_renames_marks_and_sets_down(host: Host) -> None:
    host.kernel.change(host.at(None), None, up=True)
    with in_the_pod(host):
        assert host.kernel.link(host.device, None) is None
        link = host.at(host.pod)
        assert (link.name, link.alias, link.up) == ("net1", "a mark", False)
    assert host.at(None).alias == ""


def a_move_to_a_taken_name_is_refused_and_the_link_is_still_somewhere(host: Host) -> None:
    home = host.at(None).name
    with refused(errno.EEXIST):
        host.kernel.move(host.at(None), None, host.pod, name="lo")
    if host.kernel.link(host.device, None) is None:
        host.kernel.move(host.at(host.pod), host.pod, None, name=home)


def a_refused_mtu_leaves_the_link_moved(host: Host) -> None:
    home = host.at(None).name
    with refused(errno.EINVAL):
        host.kernel.move(host.at(None), None, host.pod, name="net1", mtu=60_000)
    assert host.kernel.link(host.device, None) is None
    host.kernel.move(host.at(host.pod), host.pod, None, name=home)


def a_name_that_the_host_has_as_altname_keeps_a_link_from_coming_home(host: Host) -> None:
    with in_the_pod(host):
        host.kernel.set_altnames(host.at(host.pod), host.pod, (host.pf_name,))
        with refused(errno.EEXIST):
            host.kernel.move(host.at(host.pod), host.pod, None, name="dev%d")
        host.kernel.set_altnames(host.at(host.pod), host.pod, ())


def a_link_is_found_by_its_altname(host: Host) -> None:
    host.kernel.set_altnames(host.at(None), None, ("another-name",))
    found = host.kernel.link_by_name("another-name", None)
    assert found is not None
    assert found.index == host.at(None).index
    host.kernel.set_altnames(host.at(None), None, ())
    assert host.kernel.link_by_name("another-name", None) is None


def a_mac_that_the_pf_set_bars_the_vfs_own_until_the_zero_one_frees_it(host: Host) -> None:
    before = host.at(None).mac
    host.set("mac", mac=MAC)
    with refused(errno.EADDRNOTAVAIL):
        host.kernel.change(host.at(None), None, mac=OTHER_MAC)
    host.set("mac", mac=NO_MAC)
    host.kernel.change(host.at(None), None, mac=OTHER_MAC)
    assert host.kernel.device(host.device).settings.mac == OTHER_MAC
    host.kernel.change(host.at(None), None, mac=before)


def a_vf_that_goes_down_adopts_the_pfs_mac(host: Host) -> None:
    before = host.at(None).mac
    host.set("mac", mac=MAC)
    assert host.at(None).mac == before
    host.kernel.change(host.at(None), None, up=True)
    host.kernel.change(host.at(None), None, up=False)
    assert (host.at(None).mac, host.at(None).permanent) == (MAC, MAC)
    host.set("mac", mac=NO_MAC)
    host.kernel.change(host.at(None), None, mac=before)


def flags_and_queue_length_are_changed_and_kept_over_a_move(host: Host) -> None:
    with in_the_pod(host):
        host.kernel.change(host.at(host.pod), host.pod, flags=(0x100, 0x100), txqlen=7)
    link = host.at(None)
    assert (link.kept_flags & 0x100, link.txqlen) == (0x100, 7)
    host.kernel.change(link, None, flags=(0, 0x100), txqlen=1000)
    assert not host.at(None).kept_flags & 0x100


def a_network_driver_is_bound_only_to_what_its_id_table_has(host: Host) -> None:
    """The PF's driver is loaded, and its table does not contain the VF. With driver_override it would probe the VF
    anyway.
    """
    before = host.at(None)
    for override in ("", "vfio-pci"):
        try:
            host.kernel.bind(host.device, host.kernel.device(host.device).pf_driver, override)
        except DriverUnfit:
            pass
        else:
            raise AssertionError("it was bound")
    assert host.at(None) == before
    host.kernel.bind(host.device, host.kernel.driver(host.device), "")
    assert host.kernel.device(host.device).driver_override == ""


def a_network_device_is_the_same_after_a_move_and_another_after_a_new_bind(host: Host) -> None:
    name, mac, instance = host.at(None).name, host.at(None).mac, host.kernel.netdev_instance(host.device)
    with in_the_pod(host):
        assert host.kernel.netdev_instance(host.device) == instance
    driver = host.kernel.driver(host.device)
    host.kernel.bind(host.device, "", "")
    assert host.kernel.netdev_instance(host.device) == ""
    host.kernel.bind(host.device, driver, "")
    assert host.kernel.netdev_instance(host.device) not in ("", instance)
    if host.at(None).name != name:
        host.kernel.change(host.at(None), None, name=name)
    host.kernel.change(host.at(None), None, mac=mac)


def the_tuning_is_read_back(host: Host) -> None:
    before = host.kernel.tuning(host.at(None))
    assert (before["xdp"], before["promiscuity"]) == ("0", "0")
    host.kernel.tune(host.at(None), {"gso_max_size": "4096"})
    assert host.kernel.tuning(host.at(None))["gso_max_size"] == "4096"
    host.kernel.tune(host.at(None), {"gso_max_size": before["gso_max_size"]})
    assert host.kernel.tuning(host.at(None))["gso_max_size"] == before["gso_max_size"]
    assert host.kernel.stacked(host.at(None)) == []


CONTRACT: dict[str, Callable[[Host], None]] = {
    function.__name__: function
    for function in (
        settings_are_read_back,
        what_igb_does_not_know_is_refused_and_changes_nothing,
        a_move_renames_marks_and_sets_down,
        a_move_to_a_taken_name_is_refused_and_the_link_is_still_somewhere,
        a_refused_mtu_leaves_the_link_moved,
        a_name_that_the_host_has_as_altname_keeps_a_link_from_coming_home,
        a_link_is_found_by_its_altname,
        a_mac_that_the_pf_set_bars_the_vfs_own_until_the_zero_one_frees_it,
        a_vf_that_goes_down_adopts_the_pfs_mac,
        flags_and_queue_length_are_changed_and_kept_over_a_move,
        a_network_driver_is_bound_only_to_what_its_id_table_has,
    )
}
