"""Names written by others, in a real etcd, a real ovsdb-server, host-local's directory, and the tests' API server.

Root processes them: they must be reported as damaged and left alone, and must not stop anything else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.attachment.record import Key
from cni.attachment.records import Attachments
from cni.host.netns import Namespaces
from cni.kube.pods import open_pods
from cni.log import Log
from cni.tool.gc import Ports
from cni.userspace.adapters import Adapters
from cni.userspace.attachment import PLUGIN, owner_of
from cni.userspace.plan import port_name
from cni.userspace.publish import Publisher
from cni.userspace.removal import PortRemoval
from cni.userspace.sockets.sockets import Sockets
from cni.userspace.vswitch.model import external_ids
from cni.userspace.vswitch.ovs import OvsDpdk
from ipam.kubernetes import whereabouts
from ipam.kubernetes.whereabouts import PoolLocation
from tests.contract.ipam_command import NETWORK, V4, Node
from tests.etcd.server import EtcdServer
from tests.fakes import FakeIpam
from tests.hostile import climbing
from tests.kube.apiserver import ApiServer
from tests.kube.resources import POOLS
from tests.kube.routes import RIGHTS
from tests.ovs.daemon import Daemon
from tests.tree import differences, tree
from tests.trusting import ACCESS


@pytest.fixture
def victims(tmp_path: Path) -> Path:
    """Files that no call may touch."""
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("shadow", "passwd"):
        (folder / name).write_text("secret")
    return folder


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[Daemon]:
    """A real ovsdb-server without a vswitch."""
    daemon = Daemon()
    try:
        daemon.start_database()
        daemon.vsctl("--no-wait", "init")
        yield daemon
    finally:
        daemon.end()


# etcd


def put_lease(etcd: EtcdServer, prefix: str, node: Node, number: int, **names: object) -> None:
    """Writes a lease of this node, with its index, as anyone with write access to etcd can do."""
    value = {
        "container": "a",
        "ifname": "net1",
        "node": node.name,
        "machine": "",
        "network": NETWORK,
        "pod": "",
        "uid": "",
    }
    text = json.dumps({**value, "machine": node.store()._journal.machine, **names})
    for key in (f"ip/4{number:08x}", f"node/{node.name}/a/net1/4{number:08x}"):
        etcd.ctl("put", f"{prefix}/{NETWORK}/{key}", text)


@pytest.fixture
def member(etcd, tmp_path) -> Node:
    return Node(tmp_path / "here", cluster_conf=etcd.cluster_conf(prefix=f"/judged/{tmp_path.name}"))


@pytest.fixture
def prefix(tmp_path) -> str:
    return f"/judged/{tmp_path.name}"


@pytest.mark.parametrize("call", ["gc", "fsck"])
def test_a_lease_in_etcd_whose_interface_is_a_path_deletes_nothing(call, member, etcd, prefix, victims, capsys):
    """With `"ifname": "/../../../../etc/shadow"`, the file was locked as a lock file, and removed with the lock."""
    hostile = [f"/../../../..{victims}/shadow", *climbing(victims / "shadow")]
    for number, name in enumerate(hostile):
        put_lease(etcd, prefix, member, 0x0A4D0010 + number, ifname=name)
        put_lease(etcd, prefix, member, 0x0A4D0040 + number, container=name)
    put_lease(etcd, prefix, member, 0x0A4D0003, container="leaked")
    living = member.add("living")
    before = tree(victims)
    if call == "gc":
        member.store().gc({("living", "net1")})
    else:
        assert member.fsck("--repair") == 1
        assert capsys.readouterr().out.count("damaged: ") == 2 * len(hostile)
        member.attach("living")
    assert differences(before, tree(victims)) == []
    assert member.leases() in (dict.fromkeys(living, "living"), {})
    assert f"{prefix}/{NETWORK}/ip/40a4d0003" not in etcd.all_keys()
    assert f"{prefix}/{NETWORK}/ip/40a4d0010" in etcd.all_keys()


@pytest.mark.parametrize(
    "value", ["", "{", "[]", "null", '"x"', '{"container": 5}', '{"network": [], "container": {}, "ifname": 1}']
)
def test_a_value_in_etcd_that_is_no_lease_is_reported_and_keeps_its_address(value, member, etcd, prefix, capsys):
    etcd.ctl("put", f"{prefix}/{NETWORK}/ip/40a4d0002", value)
    member.add("a")
    member.attach("a")
    assert member.fsck("--repair") == 1
    assert "damaged: " in capsys.readouterr().out
    assert "10.77.0.2" not in member.add("b")
    member.store().gc({("a", "net1")})
    assert f"{prefix}/{NETWORK}/ip/40a4d0002" in etcd.all_keys()


# whereabouts' pools


def test_an_allocation_of_a_pool_whose_owner_is_a_path_is_reported_and_left(victims, tmp_path, capsys):
    with ApiServer() as api:
        api.rights = RIGHTS
        place = PoolLocation(
            kubeconfig=str(api.kubeconfig(tmp_path / "kubeconfig")), subnets=whereabouts.subnets_of([(V4,)])
        )
        node = Node(tmp_path / "here", cluster_conf={**whereabouts.cluster_conf(place), "node": "here"})
        node.add("a")
        node.attach("a")
        patch = [
            {
                "op": "add",
                "path": f"/spec/allocations/{40 + number}",
                "value": {"id": name, "ifname": name, "podref": name},
            }
            for number, name in enumerate(climbing(victims / "shadow"))
        ]
        patch.append(
            {"op": "add", "path": "/spec/allocations/9999", "value": {"id": "b", "podref": "", "ifname": "net1"}}
        )
        api.resources.patch(POOLS, "kube-system", "10.77.0.0-24", patch)
        before = tree(victims)
        assert node.fsck("--repair") == 1
        said = capsys.readouterr().out
        for number in range(len(patch) - 1):
            assert f"damaged: {NETWORK}" in said
            assert node.run("release", f"10.77.0.{40 + number}", "--force", "--yes") == 1
        assert node.run("list") == 0
        node.store().gc(set())
        assert differences(before, tree(victims)) == []


# host-local's directory


def test_a_file_of_host_local_whose_owner_is_a_path_is_reported_and_left(victims, tmp_path, capsys):
    node = Node(tmp_path / "here")
    node.add("a")
    node.attach("a")
    folder = Path(node.folders.data, NETWORK)
    for number, name in enumerate(climbing(victims / "shadow")):
        (folder / f"10.77.0.{40 + number}").write_text(f"{name}\r\nnet1")
        (folder / f"10.77.0.{60 + number}").write_text(f"a\r\n{name}")
    before = tree(victims)
    assert node.fsck("--repair") == 1
    assert capsys.readouterr().out.count("damaged: ") == 2 * len(climbing(victims))
    node.store().gc(set())
    assert differences(before, tree(victims)) == []
    assert node.leases() == {}
    assert (folder / "10.77.0.40").exists()


# OVSDB


def orphaned(name: str, key: Key) -> tuple[dict[str, object], ...]:
    """The operations that create a port with the attachment's mark in the database."""
    mark = ["map", [list(pair) for pair in external_ids(owner_of(key)).items()]]
    return (
        {"op": "insert", "table": "Interface", "uuid-name": "interface", "row": {"name": name}},
        {
            "op": "insert", "table": "Port", "uuid-name": "port",
            "row": {"name": name, "interfaces": ["named-uuid", "interface"], "external_ids": mark},
        },
        {
            "op": "insert", "table": "Bridge", "uuid-name": "bridge",
            "row": {"name": f"br{abs(hash(name)) % 10**9}", "datapath_type": "netdev", "ports": ["named-uuid", "port"]},
        },
        {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["bridges", "insert", ["named-uuid", "bridge"]]]},
    )  # fmt: skip


@pytest.fixture
def attachments(tmp_path) -> Attachments:
    return Attachments(str(tmp_path / "state"), str(tmp_path / "run"), plugin=PLUGIN, lasting_locks=False)


@pytest.fixture
def removal(tmp_path, attachments, monkeypatch) -> PortRemoval:
    monkeypatch.setattr("cni.userspace.vswitch.ovs.APPLIED_SECONDS", 0.0)
    log = Log({}, level="error")
    sockets = Sockets(log)
    publisher = Publisher(sockets, lambda kubeconfig, seconds: open_pods(kubeconfig, ACCESS, seconds), log)
    adapters = Adapters(namespaces=Namespaces(), vswitch=OvsDpdk, sockets=sockets, publisher=publisher)
    return PortRemoval(adapters=adapters, attachments=attachments, ipam=FakeIpam(), log=log)


KEY = Key(network="net", container_id="0123456789abcdef", ifname="net1")


@pytest.mark.parametrize("call", ["DEL", "GC", "barewire gc"])
def test_a_port_in_the_database_whose_name_is_a_path_renames_nothing(
    call, database, removal, attachments, victims, tmp_path
):
    """`../../../../../etc/passwd` was used as a lock and then as a damaged record, so the file was renamed."""
    names = [f"../../../../..{victims}/passwd", *climbing(victims / "passwd")]
    (tmp_path / "state" / ".devices").mkdir(parents=True, mode=0o700)
    (tmp_path / "run" / "lock").mkdir(parents=True, mode=0o700)
    for name in names:
        database.transact(*orphaned(name, KEY))
    database.transact(*orphaned(port_name(KEY), KEY))
    before, vhost = tree(victims), str(tmp_path / "vhost")
    ports = Ports(removal._adapters, attachments, removal, remote=database.remote, vhost=vhost)
    try:
        if call == "DEL":
            removal.delete_unrecorded(KEY, database.remote, vhost)
        elif call == "GC":
            removal.clean_orphans("net", set(), database.remote, vhost)
        else:
            assert [one.device for one in ports.unrecorded()] == [port_name(KEY)]
            assert len(ports.damaged()) == len(names)
            assert ports.remove(ports.unrecorded()) == []
        assert differences(before, tree(victims)) == []
        assert list(ports.unrecorded()) == []
    finally:
        database.transact({"op": "update", "table": "Open_vSwitch", "where": [], "row": {"bridges": ["set", []]}})
    assert [one for one in os.listdir(tmp_path) if one not in ("etc", "state", "run")] == []
