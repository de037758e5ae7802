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
from cni.userspace.vswitch.model import Owner, Port, PortStatus, Rate, differences

if TYPE_CHECKING:
    from cni.userspace.vswitch.engine import Vswitch

OWNER = Owner(container_id="c0ffee", ifname="net1", network="fast", pod_uid="f00d")
BOUND_SECONDS = 1.0
"""Time limit of the `hasty` vswitch's calls. MARGIN_SECONDS is added for the rollback and for a busy machine."""
MARGIN_SECONDS = 6.0


class Backend(Protocol):
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


def port(backend: Backend, owner: Owner = OWNER, name: str = "vhu1", **settings: Any) -> Port:
    settings = {"bridge": "br0", "path": str(backend.folder / f"{name}.sock"), **settings}
    return Port(name=name, owner=owner, **settings)


def names(ports: list[PortStatus]) -> list[str]:
    return sorted(seen.port.name for seen in ports)


@contextmanager
def unchanged(backend: Backend) -> Iterator[None]:
    before = backend.snapshot()
    yield
    assert backend.snapshot() == before


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def a_port_is_made_with_all_that_was_wanted_of_it(backend: Backend) -> None:
    wanted = port(
        backend,
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
    with unchanged(backend):
        made = backend.vswitch.plug(wanted)
        assert made.works
        assert made.type == "dpdkvhostuserclient"
        assert made.port == wanted
        assert backend.vswitch.show(name="vhu1") == [made]
        assert differences(wanted, made.port) == []
        backend.vswitch.unplug(OWNER)


def a_plain_port_has_none_of_the_settings(backend: Backend) -> None:
    with unchanged(backend):
        assert backend.vswitch.plug(port(backend)).port == port(backend)
        backend.vswitch.unplug(OWNER)


def what_is_not_there_is_unplugged_without_an_error(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.unplug(OWNER)
        backend.vswitch.unplug(OWNER, name="vhu1")
        backend.vswitch.plug(port(backend))
        backend.vswitch.unplug(OWNER)
        backend.vswitch.unplug(OWNER)


def an_owner_that_differs_in_one_word_keeps_its_port(backend: Backend) -> None:
    others = [
        OWNER.replace(ifname="net10"),
        OWNER.replace(ifname="net"),
        OWNER.replace(container_id="c0ffee0"),
        OWNER.replace(network="faster"),
    ]
    with unchanged(backend):
        for number, other in enumerate(others):
            backend.vswitch.plug(port(backend, other, f"other{number}"))
        backend.vswitch.plug(port(backend))
        backend.vswitch.unplug(OWNER)
        assert names(backend.vswitch.show()) == ["other0", "other1", "other2", "other3"]
        for other in others:
            backend.vswitch.unplug(other)


def a_pods_uid_is_a_note_and_not_the_owner(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.plug(port(backend))
        anonymous = OWNER.replace(pod_uid="")
        assert [seen.port.owner for seen in backend.vswitch.show(owner=anonymous)] == [OWNER]
        backend.vswitch.unplug(anonymous)


def a_port_of_another_owner_is_not_unplugged_by_its_name(backend: Backend) -> None:
    other = OWNER.replace(container_id="other")
    with unchanged(backend):
        backend.add_foreign_port("br0", "foreign", "/run/foreign.sock")
        backend.vswitch.plug(port(backend, other, "vhu2"))
        with unchanged(backend):
            for name in ("foreign", "vhu2", "br0"):
                backend.vswitch.unplug(OWNER, name=name)
        backend.vswitch.unplug(other, name="vhu2")
        backend.remove_foreign_port("foreign")


def ports_are_shown_by_owner_by_name_or_as_ours(backend: Backend) -> None:
    other = OWNER.replace(ifname="net2")
    with unchanged(backend):
        backend.add_foreign_port("br0", "foreign", "/run/foreign.sock")
        backend.vswitch.plug(port(backend))
        backend.vswitch.plug(port(backend, other, "vhu2"))
        assert names(backend.vswitch.show()) == ["vhu1", "vhu2"]
        assert names(backend.vswitch.show(owner=other)) == ["vhu2"]
        assert names(backend.vswitch.show(owner=other, name="vhu1")) == []
        assert backend.vswitch.show(name="nothing") == []
        (foreign,) = backend.vswitch.show(name="foreign")
        assert (foreign.port.path, foreign.port.owner.container_id) == ("/run/foreign.sock", "")
        backend.vswitch.unplug(OWNER)
        backend.vswitch.unplug(other)
        backend.remove_foreign_port("foreign")


def a_name_that_is_taken_is_refused(backend: Backend) -> None:
    with unchanged(backend):
        backend.add_foreign_port("br1", "vhu1", "/run/foreign.sock")
        with unchanged(backend), pytest.raises(PortTaken, match="vhu1"):
            backend.vswitch.plug(port(backend))
        backend.remove_foreign_port("vhu1")


def a_socket_path_that_is_taken_is_refused(backend: Backend) -> None:
    path = str(backend.folder / "shared.sock")
    with unchanged(backend):
        backend.add_foreign_port("br1", "foreign", path)
        with unchanged(backend), pytest.raises(PortTaken):
            backend.vswitch.plug(port(backend, path=path))
        backend.remove_foreign_port("foreign")


def a_socket_that_another_attachment_has_by_another_way_is_refused(backend: Backend) -> None:
    socket, other = "/var/lib/kubelet/pods/f00d/vhost.sock", OWNER.replace(ifname="net2")
    with unchanged(backend):
        assert backend.vswitch.plug(port(backend, socket=socket)).port.socket == socket
        with unchanged(backend), pytest.raises(PortTaken, match=socket):
            backend.vswitch.plug(port(backend, other, "vhu2", socket=socket))
        backend.vswitch.plug(port(backend, other, "vhu2", socket=f"{socket}2"))
        backend.vswitch.unplug(OWNER)
        backend.vswitch.unplug(other)


def a_second_port_of_an_owner_is_refused_and_the_first_stays(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.plug(port(backend))
        with unchanged(backend), pytest.raises(PortTaken):
            backend.vswitch.plug(port(backend, name="vhu2"))
        backend.vswitch.unplug(OWNER)


def a_bridge_that_is_not_there_is_not_created_unasked(backend: Backend) -> None:
    with unchanged(backend), pytest.raises(BridgeUnfit, match="br9"):
        backend.vswitch.plug(port(backend, bridge="br9"))


def a_bridge_of_the_kernels_datapath_is_refused(backend: Backend) -> None:
    with unchanged(backend):
        backend.add_bridge("br9", "system")
        for create in (False, True):
            with unchanged(backend), pytest.raises(BridgeUnfit, match="br9"):
                backend.vswitch.plug(port(backend, bridge="br9"), create_bridge=create)
        backend.remove_bridge("br9")


def a_bridge_that_we_created_goes_with_its_last_port(backend: Backend) -> None:
    other = OWNER.replace(ifname="net2")
    with unchanged(backend):
        for_two = backend.snapshot()
        assert backend.vswitch.plug(port(backend, bridge="br9"), create_bridge=True).port.bridge == "br9"
        backend.vswitch.plug(port(backend, other, "vhu2", bridge="br9"), create_bridge=True)
        backend.vswitch.unplug(OWNER)
        assert [seen.port.bridge for seen in backend.vswitch.show()] == ["br9"]
        backend.vswitch.unplug(other)
        assert backend.snapshot() == for_two


def a_bridge_that_we_created_stays_while_another_owner_uses_it(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.plug(port(backend, bridge="br9"), create_bridge=True)
        backend.add_foreign_port("br9", "foreign", "/run/foreign.sock")
        backend.vswitch.unplug(OWNER)
        assert backend.vswitch.show(name="foreign")[0].port.bridge == "br9"
        backend.remove_foreign_port("foreign")
        backend.vswitch.unplug(OWNER)


def a_bridge_of_another_owner_stays_when_it_is_empty(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.plug(port(backend), create_bridge=True)
        backend.vswitch.unplug(OWNER)


def without_its_daemon_a_port_is_not_made_and_nothing_is_left(backend: Backend) -> None:
    with unchanged(backend), backend.without_daemon():
        with within(BOUND_SECONDS + MARGIN_SECONDS), pytest.raises(TryAgainLater) as caught:
            backend.hasty.plug(port(backend, bridge="br9", to_pod=Rate(kbit=8)), create_bridge=True)
        assert caught.value.code == 11
        assert caught.value.details.count("incomplete") == 0
        with pytest.raises(LimitedConnectivity):
            backend.hasty.status()


def without_its_daemon_a_port_is_unplugged_and_shown(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.plug(port(backend, to_pod=Rate(kbit=8)))
        with backend.without_daemon(), within(MARGIN_SECONDS):
            assert names(backend.vswitch.show(owner=OWNER)) == ["vhu1"]
            backend.vswitch.unplug(OWNER)
            assert backend.vswitch.show(owner=OWNER) == []


def without_its_database_all_is_tried_again_later(backend: Backend) -> None:
    calls: list[Callable[[], object]] = [
        lambda: backend.hasty.plug(port(backend)),
        lambda: backend.hasty.unplug(OWNER),
        backend.hasty.show,
    ]
    with unchanged(backend), backend.without_database(), within(MARGIN_SECONDS):
        for call in calls:
            with pytest.raises(TryAgainLater):
                call()
        with pytest.raises(NotAvailable):
            backend.hasty.status()


def a_vswitch_that_works_says_so(backend: Backend) -> None:
    with unchanged(backend):
        backend.vswitch.status()
        backend.vswitch.status("br0")
        backend.vswitch.status("br9", create_bridge=True)


def a_bridge_on_which_no_port_can_be_made_is_reported_by_status(backend: Backend) -> None:
    with unchanged(backend):
        with pytest.raises(NotAvailable, match="br9"):
            backend.vswitch.status("br9")
        backend.add_bridge("br9", "system")
        with pytest.raises(NotAvailable, match="br9"):
            backend.vswitch.status("br9", create_bridge=True)
        backend.remove_bridge("br9")


def what_the_daemon_cannot_make_is_refused_and_taken_back(backend: Backend) -> None:
    with backend.incapable(), unchanged(backend):
        with pytest.raises(VswitchRefused, match="could not open network device"):
            backend.vswitch.plug(port(backend, bridge="br9", to_pod=Rate(kbit=8)), create_bridge=True)
        with pytest.raises(NotAvailable, match="dpdkvhostuserclient"):
            backend.vswitch.status()


CONTRACT: dict[str, Callable[[Backend], None]] = {
    function.__name__: function
    for function in (
        a_port_is_made_with_all_that_was_wanted_of_it,
        a_plain_port_has_none_of_the_settings,
        what_is_not_there_is_unplugged_without_an_error,
        an_owner_that_differs_in_one_word_keeps_its_port,
        a_pods_uid_is_a_note_and_not_the_owner,
        a_port_of_another_owner_is_not_unplugged_by_its_name,
        ports_are_shown_by_owner_by_name_or_as_ours,
        a_name_that_is_taken_is_refused,
        a_socket_path_that_is_taken_is_refused,
        a_socket_that_another_attachment_has_by_another_way_is_refused,
        a_second_port_of_an_owner_is_refused_and_the_first_stays,
        a_bridge_that_is_not_there_is_not_created_unasked,
        a_bridge_of_the_kernels_datapath_is_refused,
        a_bridge_that_we_created_goes_with_its_last_port,
        a_bridge_that_we_created_stays_while_another_owner_uses_it,
        a_bridge_of_another_owner_stays_when_it_is_empty,
        without_its_daemon_a_port_is_not_made_and_nothing_is_left,
        without_its_daemon_a_port_is_unplugged_and_shown,
        without_its_database_all_is_tried_again_later,
        a_vswitch_that_works_says_so,
        a_bridge_on_which_no_port_can_be_made_is_reported_by_status,
        what_the_daemon_cannot_make_is_refused_and_taken_back,
    )
}
