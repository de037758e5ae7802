"""The values that networks of `userspace` may name, on a node without a node configuration and on one with it."""

from __future__ import annotations

import pytest

from cni.attachment.record import Key
from cni.errors import InvalidConfig
from cni.log import Log
from cni.node.node import NodeConf, SocketPolicy
from cni.protocol.request import Request
from cni.userspace import allowed
from cni.userspace.allowed import (
    default_vhost_directory,
    is_remote,
    kubelet_root,
    socket_root,
    vhost_directory,
)
from cni.userspace.location import locate
from cni.userspace.request import parse_request, remote_of

HOST = {"engine": "ovs-dpdk"}
BARE = NodeConf()
WIDE = NodeConf(
    kubelet_root="/data/kubelet/",
    sockets=SocketPolicy(
        ovsdb=("tcp:127.0.0.1:6640", "unix:/srv/ovs/db.sock"),
        roots=("/srv/sockets/", "/run"),
        kubelet_roots=("/var/lib/k0s/kubelet",),
        vhost_dir="/run/short",
    ),
)


def request(**config):
    return Request(
        command="ADD", container_id="c", netns="/n", ifname="net1", args="", path=(), env={}, cni_version="1.1.0",
        network="net", config={"name": "net", "host": HOST, **config}, stdin=b"",
    )  # fmt: skip


def problems(named, node):
    return allowed.problems(named, node)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/run/vhostuser", "/run/vhostuser"),
        ("/run/vhostuser/app/", "/run/vhostuser"),
        ("/var/run/vhostuser/app", "/var/run/vhostuser"),
        ("/var/lib/cni/usrspcni/data", "/var/lib/cni/usrspcni"),
        ("/var/lib/cni/vhostuser/", "/var/lib/cni/vhostuser"),
        ("/var/lib/vhost_sockets/x", "/var/lib/vhost_sockets"),
        ("/usr/local/var/run/openvswitch/4ed69c30/", "/usr/local/var/run/openvswitch"),
    ],
)
def test_the_places_of_custom_and_of_userspace_cni_are_places_for_sockets(path, root):
    assert socket_root(path, BARE) == root


OTHERS = (
    "/ /etc /run /run/ /var/run /var/lib/cni /var/lib/cni/barewire /var/lib/cni/networks /var/lib/cni/usrspcni-x"
    " /usr/local/var/run /usr/local/var/run/dbus /var/lib/kubelet/pods //run/vhostuser run/vhostuser"
    " /run/vhostuser/../containerd /run/vhostusers"
).split() + [
    f"{run}/{name}"
    for run in ("/run", "/var/run")
    for name in (
        "containerd crio docker docker.sock openvswitch dbus systemd netns user/1000 udev lock libvirt/qemu vpp barewire"
        " barewire/lock barewire/sockets barewire/vhost k8s.cni.cncf.io secrets multus"
    ).split()
]


@pytest.mark.parametrize("path", OTHERS)
def test_a_directory_of_another_program_is_no_place_for_sockets(path):
    assert socket_root(path, BARE) == ""
    if path.startswith("/") and ".." not in path:
        assert problems({"sharedDir": path}, BARE)[0][0] == "sharedDir"


@pytest.mark.parametrize("path", ["/run/barewire/lock", "/var/run/barewire", "/var/lib/cni/barewire/net"])
def test_our_own_state_is_no_place_for_sockets_whatever_the_node_allows(path):
    everything = NodeConf(sockets=SocketPolicy(roots=("/run", "/var/run", "/var/lib")))
    assert socket_root(path, everything) == ""
    assert socket_root("/run/containerd", everything) == "/run"


def test_the_node_adds_places():
    assert socket_root("/srv/sockets/app", WIDE) == "/srv/sockets"
    assert problems({"sharedDir": "/srv/sockets"}, WIDE) == []
    ((path, text),) = problems({"sharedDir": "/srv/sockets"}, BARE)
    assert path == "sharedDir"
    assert "/run/vhostuser" in text
    assert "sockets.roots in /etc/barewire/node.json" in text


@pytest.mark.parametrize(
    "remote",
    [
        "unix:/var/run/openvswitch/db.sock",
        "unix:/run/openvswitch/db.sock",
        "unix:/run/openvswitch/second/db.sock",
        "unix:/usr/local/var/run/openvswitch/db.sock",
    ],
)
def test_the_usual_databases_may_be_named(remote):
    assert is_remote(remote, BARE)


@pytest.mark.parametrize(
    "remote",
    [
        "tcp:127.0.0.1:6640",
        "tcp:[::1]:6640",
        "unix:/tmp/db.sock",
        "unix:/run/vhostuser/db.sock",
        "unix:/run/openvswitch",
        "unix:/run/openvswitch/",
        "unix:/run/openvswitch/../vhostuser/db.sock",
        "unix:/run/openvswitch2/db.sock",
        "unix:/usr/local/var/run/openvswitch/pod/db.sock",
        "unix:/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v/db.sock",
        "/run/openvswitch/db.sock",
    ],
)
def test_another_database_is_refused_at_add_and_not_looked_for_by_del(remote):
    assert not is_remote(remote, BARE)
    assert [path for path, _text in problems({"ovsdb": remote}, BARE)] == ["ovsdb"]
    with pytest.raises(InvalidConfig, match=r"ovsdb|OVSDB"):
        remote_of(request(ovsdb=remote), BARE)


def test_the_node_adds_databases():
    assert remote_of(request(ovsdb="tcp:127.0.0.1:6640"), WIDE) == "tcp:127.0.0.1:6640"
    assert not is_remote("tcp:127.0.0.1:6641", WIDE)
    assert not is_remote("unix:/srv/ovs/other.sock", WIDE)


def test_the_kubelets_directory_is_the_nodes():
    assert problems({"kubeletRoot": "/var/lib/kubelet/"}, BARE) == []
    assert problems({"kubeletRoot": "/var/lib/k0s/kubelet"}, WIDE) == []
    for node, named in ((BARE, "/data/kubelet"), (BARE, "/var/lib/kubelet/pods/u"), (WIDE, "/var/lib/kubelet")):
        ((path, text),) = problems({"kubeletRoot": named}, node)
        assert path == "kubeletRoot"
        assert "sockets.kubeletRoots" in text
    assert kubelet_root(None, WIDE) == "/data/kubelet"
    assert kubelet_root("/var/lib/k0s/kubelet/", WIDE) == "/var/lib/k0s/kubelet"


def test_the_short_folders_are_in_our_place_or_in_the_nodes_and_never_where_a_pod_may_place_links():
    assert default_vhost_directory(BARE) == "/run/barewire/vhost"
    assert default_vhost_directory(WIDE) == "/run/short"
    for named in ("/run/barewire/vhost", "/run/barewire/vhost/deeper/"):
        assert vhost_directory(named, BARE) == named.rstrip("/")
        assert problems({"vhostDir": named}, BARE) == []
    for odd in (
        "/run",
        "/run/netns",
        "/run/vhostuser/short",
        "/usr/local/var/run/openvswitch",
        "/run/barewire",
        "/run/barewire/lock",
        "/var/lib/x",
        "run/vhost",
        5,
        None,
    ):
        assert vhost_directory(odd, BARE) == "/run/barewire/vhost"
    assert [path for path, _text in problems({"vhostDir": "/run/netns"}, BARE)] == ["vhostDir"]


def test_add_names_all_problems_of_form_and_of_permission_at_once():
    config = {
        "vlan": 5000,
        "sharedDir": "/etc",
        "kubeletRoot": "/etc",
        "ovsdb": "tcp:192.0.2.1:6640",
        "vhostDir": "/etc",
    }
    with pytest.raises(InvalidConfig) as refused:
        parse_request(request(**config), BARE, Log({}, level="panic"))
    assert {problem.split(": ")[0] for problem in refused.value.msg.split("; ") if ": " in problem} >= set(config)


def test_a_value_of_invalid_form_is_reported_once():
    with pytest.raises(InvalidConfig) as refused:
        parse_request(request(sharedDir="/run/../etc", ovsdb="ssl:x"), BARE, Log({}, level="panic"))
    assert refused.value.msg.count("sharedDir") == refused.value.msg.count("ovsdb:") == 1


def test_a_request_has_the_nodes_directories():
    found = parse_request(request(), WIDE, Log({}, level="panic"))
    assert (found.kubelet_root, found.vhost_directory) == ("/data/kubelet", "/run/short")


def on_host_path(path, **config):
    volumes = [{"name": "shared-dir", "hostPath": {"path": path}}]
    return locate(
        Key(network="n", container_id="c", ifname="net1"),
        parse_request(request(**config), BARE, Log({}, level="panic")),
        {"spec": {"volumes": volumes}},
        BARE,
    )


@pytest.mark.parametrize("place", ["/run/vhostuser", "/usr/local/var/run/openvswitch/", "/var/run/usrspcni"])
@pytest.mark.parametrize("wanted", [{"owner": 1000}, {"mode": "0777"}, {"acl": ["user:107:rwx"]}])
def test_a_place_that_many_pods_use_gets_no_other_owner_or_permissions(place, wanted):
    with pytest.raises(InvalidConfig, match="which many pods use"):
        on_host_path(place, socketDirectory=wanted)
