"""Names as CNI allows them, through every command and backend: long and unusual ones, and names of our files."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from cni.names import ifname_fault
from cni.pci import parse as parse_pci
from cni.protocol.request import parse, parse_environment
from ipam.config.location import PLUGIN, lease_location
from ipam.kubernetes import whereabouts
from ipam.local.store import Local
from ipam.store import Owner
from tests.alone import alone
from tests.contract.hostile_host import CONTAINER, VF, Host
from tests.contract.ipam_cluster_contract import V4, V6
from tests.fake_cluster import Shared
from tests.fake_vswitch import FakeVswitch
from tests.journalled import Node
from tests.kube.apiserver import ApiServer
from tests.kube.routes import RIGHTS
from tests.trusting import opened_etcd, opened_kubernetes

if TYPE_CHECKING:
    from ipam.store import ClusterConf

WHOLE = bool(os.environ.get("BAREWIRE_MATRIX"))
EXAMPLES, EXAMPLES_OF_A_SERVER = (300, 100) if WHOLE else (15, 3)
LONG = 253
"""The longest name of a network in Kubernetes, in characters."""

SETS = ((V4,), (V6,))
_LETTERS = string.ascii_letters + string.digits
_OURS = ("a.tmp", "a.1.tmp", "a.damaged", "a.json", "a.json.damaged", "a.json.1.tmp")


def identifiers(longest: int) -> st.SearchStrategy[str]:
    return st.builds(
        str.__add__, st.sampled_from(_LETTERS), st.text(f"{_LETTERS}_.-", max_size=longest - 1)
    ) | st.sampled_from(_OURS)


NETWORKS = identifiers(LONG) | st.sampled_from(["n" * size for size in (165, 181, LONG, 255, 256, 400)])
CONTAINERS = identifiers(64) | st.sampled_from([CONTAINER, "c" * 240, "c" * 255, "c" * 300])
IFNAMES = (
    st.text(st.characters(blacklist_characters="/:%"), min_size=1, max_size=15).filter(
        lambda one: not ifname_fault(one)
    )
    | st.sampled_from(_OURS)
    | st.sampled_from(["...", "-rf", "_x", ".hidden", '"\\{}*', "é" * 7, "\N{UNICORN FACE}" * 3, "x" * 15])
)


def with_names(test: Callable[..., None], examples: int = EXAMPLES) -> Callable[..., None]:
    """Runs the test for many names. The worst that Kubernetes and containerd can produce are always among them."""
    many = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    worst = example(network="n" * LONG, container=CONTAINER, ifname="x" * 15)
    longer = example(network="n" * 400, container="c" * 300, ifname="x.json.damaged")
    return many(worst(longer(given(network=NETWORKS, container=CONTAINERS, ifname=IFNAMES)(test))))


# The plugins.

USERSPACE: dict[str, Any] = {"type": "userspace", "host": {"engine": "ovs-dpdk", "vhost": {"mode": "client"}}}
SRIOV: dict[str, Any] = {"type": "sriov", "deviceID": VF, "vlan": 7}
IPAM = {"type": "barewire-ipam", "subnet": "10.9.0.0/24"}


class Calls:
    """The calls for one attachment. Each must succeed."""

    def __init__(self, host: Host, conf: dict[str, Any], network: str, container: str, ifname: str) -> None:
        self._host = host
        self._conf = {"cniVersion": "1.1.0", "name": network, "ipam": IPAM, **conf}
        self._env = {"CNI_CONTAINERID": container, "CNI_IFNAME": ifname}
        self._valid = {"containerID": container, "ifname": ifname}

    def __call__(self, command: str, *, fails: bool = False, **more: Any) -> dict[str, Any]:
        answer = self._host.call(self._conf["type"], command, {**self._conf, **more}, **self._env)
        assert ("code" in answer) == fails, (command, answer)
        return answer

    def add(self) -> None:
        """ADD and CHECK, also after a GC with the attachment in its list."""
        result = self("ADD")
        self("CHECK", prevResult=result)
        self.gc(self._valid)
        self("CHECK", prevResult=result)

    def gc(self, *valid: dict[str, str]) -> None:
        more: dict[str, Any] = {"cni.dev/valid-attachments": list(valid)}
        self("GC", **more)


def left() -> list[str]:
    """Remains of attachments: records, links to them, leases; not files that serve all attachments, nor permanent
    locks.
    """
    tops = ("/var/lib/cni/barewire", "/var/lib/cni/networks", "/run/barewire/spare", "/run/barewire/marks")
    files = [os.path.join(top, name) for root in tops for top, _, names in os.walk(root) for name in names]
    return [path for path in files if os.path.basename(path) not in ("lock", "last_reserved_ip.0")]


@pytest.fixture
def vswitch(monkeypatch: pytest.MonkeyPatch) -> FakeVswitch:
    fake = FakeVswitch()
    fake.add_bridge("br0", "netdev")
    monkeypatch.setattr("cni.userspace.vswitch.ovs.OvsDpdk", lambda _remote, **_how: fake)
    monkeypatch.setattr("cni.userspace.sockets.visibility.require_visible", lambda _folder, _remote: None)
    monkeypatch.setattr("cni.pauses.GRACE_SECONDS", 3600.0)
    return fake


@alone
def test_a_port_comes_and_goes(vswitch):
    host = Host()

    @with_names
    def check(network: str, container: str, ifname: str) -> None:
        host.clear()
        calls = Calls(host, USERSPACE, network, container, ifname)
        calls.add()
        calls("DEL")
        assert left() == []
        calls.add()
        vswitch.database = False
        calls("DEL")
        vswitch.database = True
        assert vswitch.ports
        calls("DEL")
        assert left() == []
        calls.add()
        calls.gc()
        assert left() == []
        assert vswitch.ports == {}

    check()


@alone
def test_a_device_comes_and_goes():
    host = Host()

    @with_names
    def check(network: str, container: str, ifname: str) -> None:
        host.clear()
        calls, before = Calls(host, SRIOV, network, container, ifname), host.kernel.snapshot()
        link = host.kernel.link(parse_pci(VF), None)
        assert link is not None
        calls.add()
        host.kernel.refuse_from(1)
        calls("DEL", fails=True)
        host.kernel.refuse_nothing()
        calls("DEL")
        assert left() == []
        assert host.kernel.snapshot() == before
        for end in (lambda: calls("DEL"), calls.gc):
            calls.add()
            for path in left():
                if path.endswith(".json"):
                    Path(path).write_bytes(b"{")
            end()
            assert [path for path in left() if not path.endswith(".damaged") and "networks" not in path] == []
            home = host.kernel.link(parse_pci(VF), None)
            assert home is not None
            assert (home.name, host.kernel.device(parse_pci(VF)).settings.vlan) == (link.name, 0)
            host.clear()

    check()


# The backends.


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.rights = RIGHTS
        yield server


def come_and_go(open_store: Callable[[str], Any], network: str, container: str, ifname: str) -> None:
    owner = Owner(network=network, container_id=container, ifname=ifname, pod="default/p")
    other = owner.replace(container_id="other", ifname="net1")
    first = open_store(network).allocate(owner, SETS, (None, None))
    assert set(open_store(network).addresses(owner)) == {claim.address for claim in first}
    open_store(network).allocate(other, SETS, (None, None))
    open_store(network).gc({(container, ifname), ("other", "net1")})
    assert set(open_store(network).addresses(owner)) == {claim.address for claim in first}
    open_store(network).release(owner)
    assert open_store(network).addresses(owner) == ()
    open_store(network).gc(set())
    assert open_store(network).addresses(other) == ()


def test_an_address_of_the_nodes_own_backend_comes_and_goes(tmp_path):
    @with_names
    def check(network: str, container: str, ifname: str) -> None:
        def opened(name: str) -> Local:
            return Local(str(tmp_path / directory(name)), str(tmp_path / "run"), lock_seconds=20.0)

        come_and_go(opened, network, container, ifname)
        assert list(opened(network).leases()) == []

    check()


def directory(network: str) -> str:
    """The name of the network's directory."""
    conf = json.dumps({"cniVersion": "1.1.0", "name": network, "type": PLUGIN, "ipam": IPAM}).encode()
    request = parse(parse_environment({"CNI_COMMAND": "GC", "CNI_PATH": "/"}), conf)
    return os.path.basename(lease_location(request).directory)


@pytest.mark.parametrize("backend", ["fake", "etcd", "kubernetes"])
def test_an_address_of_a_cluster_comes_and_goes(backend, etcd, api, tmp_path):
    node = Node(tmp_path, "n1", {"fake": Shared()})
    subnets = whereabouts.subnets_of(SETS)
    documents: dict[str, ClusterConf] = {
        "fake": {"kind": "fake"},
        "etcd": {"kind": "etcd", "endpoints": [etcd.endpoint]},
        "kubernetes": whereabouts.cluster_conf(
            whereabouts.PoolLocation(kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=subnets)
        ),
    }
    real: dict[str, Any] = {"etcd": opened_etcd, "kubernetes": opened_kubernetes}
    if backend in real:
        node.open = real[backend]  # type: ignore[method-assign]

    def check(network: str, container: str, ifname: str) -> None:
        come_and_go(lambda name: node.store(name, documents[backend]), network, container, ifname)
        assert [name for name in node.files() if name.endswith(".json") or ".tombstones" in name] == []

    with_names(check, EXAMPLES_OF_A_SERVER if backend in real else EXAMPLES)()


def test_an_address_whose_cluster_is_away_is_freed_when_it_is_back(tmp_path):
    shared = Shared()
    node = Node(tmp_path, "n1", {"fake": shared})

    @with_names
    def check(network: str, container: str, ifname: str) -> None:
        node.add(container, ifname, network=network)
        shared.away = True
        node.store(network).release(Owner(network=network, container_id=container, ifname=ifname))
        shared.away = False
        assert shared.leases
        assert [one.container_id for one in node.journal().tombstones()] == [container]
        node.store("another").gc(set())
        node.store(network).release(Owner(network=network, container_id="never", ifname="net1"))
        assert shared.leases == {}
        assert node.journal().tombstones() == []

    check()
