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


class World(NamedTuple):
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
def in_the_pod(world: World, name: str = "net1") -> Iterator[None]:
    home = world.at(None).name
    world.kernel.move(world.at(None), None, world.pod, name=name, alias="a mark")
    try:
        yield
    finally:
        world.kernel.move(world.at(world.pod), world.pod, None, name=home, alias="")


def settings_are_read_back(world: World) -> None:
    world.set("vlan", vlan=7, qos=3, proto="802.1q")
    world.set("spoofchk", spoofchk=False)
    world.set("trust", trust=True)
    world.set("rate", max_tx_rate=500)
    seen = world.kernel.device(world.device).settings
    assert (seen.vlan, seen.qos, seen.spoofchk, seen.trust, seen.max_tx_rate) == (7, 3, False, True, 500)
    world.set("vlan", vlan=0, qos=0, proto="802.1q")
    world.set("spoofchk", spoofchk=True)
    world.set("trust", trust=False)
    world.set("rate", max_tx_rate=0)


def what_igb_does_not_know_is_refused_and_changes_nothing(world: World) -> None:
    before = world.kernel.device(world.device).settings
    with refused():
        world.set("vlan", vlan=5, qos=0, proto="802.1ad")
    with refused():
        world.set("link_state", link_state="enable")
    with refused():
        world.set("rate", min_tx_rate=10)
    assert world.kernel.device(world.device).settings == before


def a_move_renames_marks_and_sets_down(world: World) -> None:
    world.kernel.change(world.at(None), None, up=True)
    with in_the_pod(world):
        assert world.kernel.link(world.device, None) is None
        link = world.at(world.pod)
        assert (link.name, link.alias, link.up) == ("net1", "a mark", False)
    assert world.at(None).alias == ""


def a_move_to_a_taken_name_is_refused_and_the_link_is_still_somewhere(world: World) -> None:
    home = world.at(None).name
    with refused(errno.EEXIST):
        world.kernel.move(world.at(None), None, world.pod, name="lo")
    if world.kernel.link(world.device, None) is None:
        world.kernel.move(world.at(world.pod), world.pod, None, name=home)


def a_refused_mtu_leaves_the_link_moved(world: World) -> None:
    home = world.at(None).name
    with refused(errno.EINVAL):
        world.kernel.move(world.at(None), None, world.pod, name="net1", mtu=60_000)
    assert world.kernel.link(world.device, None) is None
    world.kernel.move(world.at(world.pod), world.pod, None, name=home)


def a_name_that_the_host_has_as_altname_keeps_a_link_from_coming_home(world: World) -> None:
    with in_the_pod(world):
        world.kernel.set_altnames(world.at(world.pod), world.pod, (world.pf_name,))
        with refused(errno.EEXIST):
            world.kernel.move(world.at(world.pod), world.pod, None, name="dev%d")
        world.kernel.set_altnames(world.at(world.pod), world.pod, ())


def a_link_is_found_by_its_altname(world: World) -> None:
    world.kernel.set_altnames(world.at(None), None, ("another-name",))
    found = world.kernel.link_by_name("another-name", None)
    assert found is not None
    assert found.index == world.at(None).index
    world.kernel.set_altnames(world.at(None), None, ())
    assert world.kernel.link_by_name("another-name", None) is None


def a_mac_that_the_pf_set_bars_the_vfs_own_until_the_zero_one_frees_it(world: World) -> None:
    before = world.at(None).mac
    world.set("mac", mac=MAC)
    with refused(errno.EADDRNOTAVAIL):
        world.kernel.change(world.at(None), None, mac=OTHER_MAC)
    world.set("mac", mac=NO_MAC)
    world.kernel.change(world.at(None), None, mac=OTHER_MAC)
    assert world.kernel.device(world.device).settings.mac == OTHER_MAC
    world.kernel.change(world.at(None), None, mac=before)


def a_vf_that_goes_down_adopts_the_pfs_mac(world: World) -> None:
    before = world.at(None).mac
    world.set("mac", mac=MAC)
    assert world.at(None).mac == before
    world.kernel.change(world.at(None), None, up=True)
    world.kernel.change(world.at(None), None, up=False)
    assert (world.at(None).mac, world.at(None).permanent) == (MAC, MAC)
    world.set("mac", mac=NO_MAC)
    world.kernel.change(world.at(None), None, mac=before)


def flags_and_queue_length_are_changed_and_kept_over_a_move(world: World) -> None:
    with in_the_pod(world):
        world.kernel.change(world.at(world.pod), world.pod, flags=(0x100, 0x100), txqlen=7)
    link = world.at(None)
    assert (link.kept_flags & 0x100, link.txqlen) == (0x100, 7)
    world.kernel.change(link, None, flags=(0, 0x100), txqlen=1000)
    assert not world.at(None).kept_flags & 0x100


def a_network_driver_is_bound_only_to_what_its_id_table_has(world: World) -> None:
    """The PF's driver is loaded, and its table does not contain the VF. With driver_override it would probe the VF
    anyway.
    """
    before = world.at(None)
    for override in ("", "vfio-pci"):
        try:
            world.kernel.bind(world.device, world.kernel.device(world.device).pf_driver, override)
        except DriverUnfit:
            pass
        else:
            raise AssertionError("it was bound")
    assert world.at(None) == before
    world.kernel.bind(world.device, world.kernel.driver(world.device), "")
    assert world.kernel.device(world.device).driver_override == ""


def a_network_device_is_the_same_after_a_move_and_another_after_a_new_bind(world: World) -> None:
    name, mac, instance = world.at(None).name, world.at(None).mac, world.kernel.netdev_instance(world.device)
    with in_the_pod(world):
        assert world.kernel.netdev_instance(world.device) == instance
    driver = world.kernel.driver(world.device)
    world.kernel.bind(world.device, "", "")
    assert world.kernel.netdev_instance(world.device) == ""
    world.kernel.bind(world.device, driver, "")
    assert world.kernel.netdev_instance(world.device) not in ("", instance)
    if world.at(None).name != name:
        world.kernel.change(world.at(None), None, name=name)
    world.kernel.change(world.at(None), None, mac=mac)


def the_tuning_is_read_back(world: World) -> None:
    before = world.kernel.tuning(world.at(None))
    assert (before["xdp"], before["promiscuity"]) == ("0", "0")
    world.kernel.tune(world.at(None), {"gso_max_size": "4096"})
    assert world.kernel.tuning(world.at(None))["gso_max_size"] == "4096"
    world.kernel.tune(world.at(None), {"gso_max_size": before["gso_max_size"]})
    assert world.kernel.tuning(world.at(None))["gso_max_size"] == before["gso_max_size"]
    assert world.kernel.stacked(world.at(None)) == []


CONTRACT: dict[str, Callable[[World], None]] = {
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
