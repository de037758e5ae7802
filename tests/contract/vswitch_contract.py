"""The behaviour of every `Vswitch`, for OvsDpdk on real daemons and for FakeVswitch.

Each function gets a `Backend` with the userspace bridges br0 and br1, and leaves it as it found it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from cni.errors import BridgeUnfit, LimitedConnectivity, NotAvailable, PortTaken, TryAgainLater, VswitchRefused
from cni.userspace.vswitch.model import Owner, Port, Rate, Seen, differences

if TYPE_CHECKING:
    from cni.userspace.vswitch.engine import Vswitch

OWNER = Owner(container_id="c0ffee", ifname="net1", network="fast", pod_uid="f00d")
BOUND_SECONDS = 1.0
"""Time limit of the `hasty` vswitch's calls. MARGIN_SECONDS is added for the rollback and for a busy machine."""
MARGIN_SECONDS = 6.0


class World(Protocol):
    """A vswitch, and access to its parts. `hasty` is the same vswitch with BOUND_SECONDS."""

    @property
    def vswitch(self) -> Vswitch: ...

    @property
    def hasty(self) -> Vswitch: ...

    @property
    def folder(self) -> Path: ...

    def snapshot(self) -> Any: ...

    def add_bridge(self, name: str, datapath: str) -> None: ...

    def remove_bridge(self, name: str) -> None: ...

    def add_foreign_port(self, bridge: str, name: str, path: str) -> None: ...

    def remove_foreign_port(self, name: str) -> None: ...

    def without_daemon(self) -> Any: ...

    def without_database(self) -> Any: ...

    def incapable(self) -> Any: ...


def port(world: World, owner: Owner = OWNER, name: str = "vhu1", **settings: Any) -> Port:
    settings = {"bridge": "br0", "path": str(world.folder / f"{name}.sock"), **settings}
    return Port(name=name, owner=owner, **settings)


def names(ports: list[Seen]) -> list[str]:
    return sorted(seen.port.name for seen in ports)


@contextmanager
def unchanged(world: World) -> Iterator[None]:
    before = world.snapshot()
    yield
    assert world.snapshot() == before


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def a_port_is_made_with_all_that_was_wanted_of_it(world: World) -> None:
    wanted = port(
        world,
        bridge="br1",
        vlan_mode="native-untagged",
        socket="/var/lib/kubelet/pods/f00d/vhu1.sock",
        tag=7,
        trunks=(8, 4094),
        mtu=9000,
        from_pod=Rate(kbit=1000, burst_kbit=100),
        to_pod=Rate(kbit=2000, burst_kbit=200),
        tx_retries=3,
        tx_steering="hash",
    )
    with unchanged(world):
        made = world.vswitch.plug(wanted)
        assert made.works
        assert made.type == "dpdkvhostuserclient"
        assert made.port == wanted
        assert world.vswitch.show(name="vhu1") == [made]
        assert differences(wanted, made.port) == []
        world.vswitch.unplug(OWNER)


def a_plain_port_has_none_of_the_settings(world: World) -> None:
    with unchanged(world):
        assert world.vswitch.plug(port(world)).port == port(world)
        world.vswitch.unplug(OWNER)


def what_is_not_there_is_unplugged_without_an_error(world: World) -> None:
    with unchanged(world):
        world.vswitch.unplug(OWNER)
        world.vswitch.unplug(OWNER, name="vhu1")
        world.vswitch.plug(port(world))
        world.vswitch.unplug(OWNER)
        world.vswitch.unplug(OWNER)


def an_owner_that_differs_in_one_word_keeps_its_port(world: World) -> None:
    others = [
        OWNER.replace(ifname="net10"),
        OWNER.replace(ifname="net"),
        OWNER.replace(container_id="c0ffee0"),
        OWNER.replace(network="faster"),
    ]
    with unchanged(world):
        for number, other in enumerate(others):
            world.vswitch.plug(port(world, other, f"other{number}"))
        world.vswitch.plug(port(world))
        world.vswitch.unplug(OWNER)
        assert names(world.vswitch.show()) == ["other0", "other1", "other2", "other3"]
        for other in others:
            world.vswitch.unplug(other)


def a_pods_uid_is_a_note_and_not_the_owner(world: World) -> None:
    with unchanged(world):
        world.vswitch.plug(port(world))
        anonymous = OWNER.replace(pod_uid="")
        assert [seen.port.owner for seen in world.vswitch.show(owner=anonymous)] == [OWNER]
        world.vswitch.unplug(anonymous)


def a_port_of_somebody_else_is_not_unplugged_by_its_name(world: World) -> None:
    other = OWNER.replace(container_id="other")
    with unchanged(world):
        world.add_foreign_port("br0", "foreign", "/run/foreign.sock")
        world.vswitch.plug(port(world, other, "vhu2"))
        with unchanged(world):
            for name in ("foreign", "vhu2", "br0"):
                world.vswitch.unplug(OWNER, name=name)
        world.vswitch.unplug(other, name="vhu2")
        world.remove_foreign_port("foreign")


def ports_are_shown_by_owner_by_name_or_as_ours(world: World) -> None:
    other = OWNER.replace(ifname="net2")
    with unchanged(world):
        world.add_foreign_port("br0", "foreign", "/run/foreign.sock")
        world.vswitch.plug(port(world))
        world.vswitch.plug(port(world, other, "vhu2"))
        assert names(world.vswitch.show()) == ["vhu1", "vhu2"]
        assert names(world.vswitch.show(owner=other)) == ["vhu2"]
        assert names(world.vswitch.show(owner=other, name="vhu1")) == []
        assert world.vswitch.show(name="nothing") == []
        (foreign,) = world.vswitch.show(name="foreign")
        assert (foreign.port.path, foreign.port.owner.container_id) == ("/run/foreign.sock", "")
        world.vswitch.unplug(OWNER)
        world.vswitch.unplug(other)
        world.remove_foreign_port("foreign")


def a_name_that_is_taken_is_refused(world: World) -> None:
    with unchanged(world):
        world.add_foreign_port("br1", "vhu1", "/run/foreign.sock")
        with unchanged(world), pytest.raises(PortTaken, match="vhu1"):
            world.vswitch.plug(port(world))
        world.remove_foreign_port("vhu1")


def a_socket_path_that_is_taken_is_refused(world: World) -> None:
    path = str(world.folder / "shared.sock")
    with unchanged(world):
        world.add_foreign_port("br1", "foreign", path)
        with unchanged(world), pytest.raises(PortTaken):
            world.vswitch.plug(port(world, path=path))
        world.remove_foreign_port("foreign")


def a_socket_that_another_attachment_has_by_another_way_is_refused(world: World) -> None:
    socket, other = "/var/lib/kubelet/pods/f00d/vhost.sock", OWNER.replace(ifname="net2")
    with unchanged(world):
        assert world.vswitch.plug(port(world, socket=socket)).port.socket == socket
        with unchanged(world), pytest.raises(PortTaken, match=socket):
            world.vswitch.plug(port(world, other, "vhu2", socket=socket))
        world.vswitch.plug(port(world, other, "vhu2", socket=f"{socket}2"))
        world.vswitch.unplug(OWNER)
        world.vswitch.unplug(other)


def a_second_port_of_an_owner_is_refused_and_the_first_stays(world: World) -> None:
    with unchanged(world):
        world.vswitch.plug(port(world))
        with unchanged(world), pytest.raises(PortTaken):
            world.vswitch.plug(port(world, name="vhu2"))
        world.vswitch.unplug(OWNER)


def a_bridge_that_is_not_there_is_not_created_unasked(world: World) -> None:
    with unchanged(world), pytest.raises(BridgeUnfit, match="br9"):
        world.vswitch.plug(port(world, bridge="br9"))


def a_bridge_of_the_kernels_datapath_is_refused(world: World) -> None:
    with unchanged(world):
        world.add_bridge("br9", "system")
        for create in (False, True):
            with unchanged(world), pytest.raises(BridgeUnfit, match="br9"):
                world.vswitch.plug(port(world, bridge="br9"), create_bridge=create)
        world.remove_bridge("br9")


def a_bridge_that_we_created_goes_with_its_last_port(world: World) -> None:
    other = OWNER.replace(ifname="net2")
    with unchanged(world):
        for_two = world.snapshot()
        assert world.vswitch.plug(port(world, bridge="br9"), create_bridge=True).port.bridge == "br9"
        world.vswitch.plug(port(world, other, "vhu2", bridge="br9"), create_bridge=True)
        world.vswitch.unplug(OWNER)
        assert [seen.port.bridge for seen in world.vswitch.show()] == ["br9"]
        world.vswitch.unplug(other)
        assert world.snapshot() == for_two


def a_bridge_that_we_created_stays_while_somebody_else_uses_it(world: World) -> None:
    with unchanged(world):
        world.vswitch.plug(port(world, bridge="br9"), create_bridge=True)
        world.add_foreign_port("br9", "foreign", "/run/foreign.sock")
        world.vswitch.unplug(OWNER)
        assert world.vswitch.show(name="foreign")[0].port.bridge == "br9"
        world.remove_foreign_port("foreign")
        world.vswitch.unplug(OWNER)


def a_bridge_of_somebody_else_stays_when_it_is_empty(world: World) -> None:
    with unchanged(world):
        world.vswitch.plug(port(world), create_bridge=True)
        world.vswitch.unplug(OWNER)


def without_its_daemon_a_port_is_not_made_and_nothing_is_left(world: World) -> None:
    with unchanged(world), world.without_daemon():
        with within(BOUND_SECONDS + MARGIN_SECONDS), pytest.raises(TryAgainLater) as caught:
            world.hasty.plug(port(world, bridge="br9", to_pod=Rate(kbit=8)), create_bridge=True)
        assert caught.value.code == 11
        assert caught.value.details.count("incomplete") == 0
        with pytest.raises(LimitedConnectivity):
            world.hasty.status()


def without_its_daemon_a_port_is_unplugged_and_shown(world: World) -> None:
    with unchanged(world):
        world.vswitch.plug(port(world, to_pod=Rate(kbit=8)))
        with world.without_daemon(), within(MARGIN_SECONDS):
            assert names(world.vswitch.show(owner=OWNER)) == ["vhu1"]
            world.vswitch.unplug(OWNER)
            assert world.vswitch.show(owner=OWNER) == []


def without_its_database_all_is_tried_again_later(world: World) -> None:
    calls: list[Callable[[], object]] = [
        lambda: world.hasty.plug(port(world)),
        lambda: world.hasty.unplug(OWNER),
        world.hasty.show,
    ]
    with unchanged(world), world.without_database(), within(MARGIN_SECONDS):
        for call in calls:
            with pytest.raises(TryAgainLater):
                call()
        with pytest.raises(NotAvailable):
            world.hasty.status()


def a_vswitch_that_works_says_so(world: World) -> None:
    with unchanged(world):
        world.vswitch.status()
        world.vswitch.status("br0")
        world.vswitch.status("br9", create_bridge=True)


def a_bridge_on_which_no_port_can_be_made_is_told_by_status(world: World) -> None:
    with unchanged(world):
        with pytest.raises(NotAvailable, match="br9"):
            world.vswitch.status("br9")
        world.add_bridge("br9", "system")
        with pytest.raises(NotAvailable, match="br9"):
            world.vswitch.status("br9", create_bridge=True)
        world.remove_bridge("br9")


def what_the_daemon_cannot_make_is_refused_and_taken_back(world: World) -> None:
    with world.incapable(), unchanged(world):
        with pytest.raises(VswitchRefused, match="could not open network device"):
            world.vswitch.plug(port(world, bridge="br9", to_pod=Rate(kbit=8)), create_bridge=True)
        with pytest.raises(NotAvailable, match="dpdkvhostuserclient"):
            world.vswitch.status()


CONTRACT: dict[str, Callable[[World], None]] = {
    function.__name__: function
    for function in (
        a_port_is_made_with_all_that_was_wanted_of_it,
        a_plain_port_has_none_of_the_settings,
        what_is_not_there_is_unplugged_without_an_error,
        an_owner_that_differs_in_one_word_keeps_its_port,
        a_pods_uid_is_a_note_and_not_the_owner,
        a_port_of_somebody_else_is_not_unplugged_by_its_name,
        ports_are_shown_by_owner_by_name_or_as_ours,
        a_name_that_is_taken_is_refused,
        a_socket_path_that_is_taken_is_refused,
        a_socket_that_another_attachment_has_by_another_way_is_refused,
        a_second_port_of_an_owner_is_refused_and_the_first_stays,
        a_bridge_that_is_not_there_is_not_created_unasked,
        a_bridge_of_the_kernels_datapath_is_refused,
        a_bridge_that_we_created_goes_with_its_last_port,
        a_bridge_that_we_created_stays_while_somebody_else_uses_it,
        a_bridge_of_somebody_else_stays_when_it_is_empty,
        without_its_daemon_a_port_is_not_made_and_nothing_is_left,
        without_its_daemon_a_port_is_unplugged_and_shown,
        without_its_database_all_is_tried_again_later,
        a_vswitch_that_works_says_so,
        a_bridge_on_which_no_port_can_be_made_is_told_by_status,
        what_the_daemon_cannot_make_is_refused_and_taken_back,
    )
}
