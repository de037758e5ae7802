"""The plugin in a virt-launcher pod of KubeVirt: the defaults, and no access for pods that imitate one."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

import pytest

from cni.errors import InvalidConfig, SocketDirUnfit
from cni.host import acl
from cni.userspace import podkind
from kubevirt.podnames import hashed
from tests.ovs.launcher_pod import VOLUMES
from tests.port_node import KUBECONFIG, Pod, PortNode, port, port_node

NAMES = [hashed("dataplane"), "net1"]
"""Of both naming schemes of KubeVirt."""
BY_INTERFACE = {"volume": "sockets", "socketNaming": "interface"}


@pytest.fixture
def node(monkeypatch) -> Iterator[PortNode]:
    with port_node(monkeypatch) as node:
        yield node


def launcher(node: PortNode, name: str = "vm", *more: str) -> Pod:
    return node.pod(name, *VOLUMES, *more)


def sockets(node: PortNode) -> list[str]:
    return [seen.port.socket for seen in node.vswitch.show()]


def access(path: str) -> bytes | None:
    return os.getxattr(path, acl.DEFAULT) if acl.DEFAULT in os.listxattr(path) else None


def has_entry(path: str, user: int) -> bool:
    """Whether the list for new files contains the user, with all permissions."""
    rows = struct.iter_unpack("<HHI", (access(path) or b"")[4:])
    return (2, 7, user) in rows


@pytest.mark.parametrize("ifname", NAMES)
def test_the_socket_is_in_the_volume_sockets_and_has_the_name_of_the_interface(node, ifname):
    pod = launcher(node)
    before = node.snapshot()
    info = f"{node.folder}/devinfo/net-info"
    node.add(pod, ifname, runtimeConfig={"CNIDeviceInfoFile": info})
    assert sockets(node) == [f"{node.volume('vm', 'sockets')}/{ifname}"]
    with open(info) as file:
        assert f"/var/run/kubevirt/sockets/{ifname}" in file.read()
    node.delete(pod, ifname)
    assert node.snapshot() == before


def test_several_interfaces_have_one_volume_and_the_removal_of_one_leaves_the_others(node):
    pod = launcher(node)
    before = node.snapshot()
    names = [hashed("a"), hashed("b"), "net3"]
    for name in names:
        node.add(pod, name)
        node.listen(node.volume("vm", "sockets"), name)
    node.delete(pod, names[1])
    assert sorted(sockets(node)) == sorted(f"{node.volume('vm', 'sockets')}/{name}" for name in (names[0], names[2]))
    assert sorted(os.listdir(node.volume("vm", "sockets"))) == sorted(
        [names[0], names[2], *(f"configData-{port(pod, name)}.json" for name in (names[0], names[2]))]
    )
    node.add(pod, names[1])  # plugged in again
    for name in names:
        node.delete(pod, name)
    assert node.snapshot() == before


@pytest.mark.parametrize("is_gone", [False, True])
def test_another_sandbox_of_the_pod_gets_the_same_socket_and_keeps_it_when_the_earlier_one_is_deleted(node, is_gone):
    pod = launcher(node)
    before = node.snapshot()
    node.add(pod)
    node.listen(node.volume("vm", "sockets"), "net1")
    if is_gone:
        node.end_sandbox(pod)
    else:
        node.delete(pod)
    again = node.sandbox(pod, "again")
    node.add(again)
    if not is_gone:
        node.listen(node.volume("vm", "sockets"), "net1")
    node.delete(pod)
    assert sockets(node) == [f"{node.volume('vm', 'sockets')}/net1"]
    assert os.path.exists(f"{node.volume('vm', 'sockets')}/net1") is (not is_gone)
    node.delete(again)
    assert node.snapshot() == before


def test_a_network_that_names_volume_and_naming_itself_works_as_before(node):
    pod = launcher(node)
    node.add(pod, **BY_INTERFACE)
    node.add(pod, "net2", volume="public", socketNaming="attachment")
    assert sockets(node) == [
        f"{node.volume('vm', 'sockets')}/net1",
        f"{node.volume('vm', 'public')}/{port(pod, 'net2')}",
    ]


@pytest.mark.parametrize("conf", [{"socketNaming": "attachment"}, {"volume": "public"}])
def test_a_key_of_the_network_has_precedence_over_the_default_for_the_pod(node, conf):
    pod = launcher(node)
    node.add(pod, **conf)
    assert sockets(node) == [f"{node.volume('vm', conf.get('volume', 'sockets'))}/{port(pod)}"]


def test_the_volume_of_a_patched_kubevirt_and_a_shared_directory_have_precedence(node):
    """Configurations of userspace-cni use them, and they mean the same as in other pods."""
    patched, shared = launcher(node, "a", "shared-dir"), launcher(node, "b")
    node.add(patched)
    node.add(shared, sharedDir=node.shared)
    assert sockets(node) == [
        f"{node.volume('a', 'shared-dir')}/{port(patched)}",
        f"{node.shared}/{port(shared)}/{port(shared)}",
    ]


@pytest.mark.parametrize("missing", sorted(podkind.VOLUMES))
def test_a_pod_without_one_of_the_volumes_is_no_virt_launcher(node, missing):
    pod = node.pod("a", *VOLUMES.keys() - {missing})
    node.add(pod)
    assert sockets(node) == [f"{node.folder}/run/sockets/{port(pod)}/{port(pod)}"]


def test_a_pod_that_looks_like_a_virt_launcher_reaches_its_own_volume_only(node):
    """Names of pods and labels are the user's; the UID, which is part of the path, comes from the runtime."""
    victim = launcher(node, "victim")
    node.add(victim)
    labels = {"kubevirt.io": "virt-launcher", "kubevirt.io/domain": "victim"}
    named = node.pod("virt-launcher-victim-x", labels=labels)
    shaped = node.pod("virt-launcher-victim-y", *VOLUMES, labels=labels)
    for impostor in (named, shaped):
        node.add(impostor, kubeconfig=KUBECONFIG, annotations=False)
    assert sockets(node) == [
        f"{node.volume('victim', 'sockets')}/net1",
        f"{node.folder}/run/sockets/{port(named)}/{port(named)}",
        f"{node.volume('virt-launcher-victim-y', 'sockets')}/net1",
    ]


def test_a_link_in_the_place_of_the_volume_is_not_followed(node):
    victim, pod = launcher(node, "victim"), launcher(node)
    os.rmdir(node.volume("vm", "sockets"))
    os.symlink(node.volume("victim", "sockets"), node.volume("vm", "sockets"))
    with pytest.raises(SocketDirUnfit, match="a symlink is not followed"):
        node.add(pod)
    assert sockets(node) == []
    assert os.listdir(node.volume("victim", "sockets")) == []
    node.add(victim)


@pytest.mark.parametrize(
    ("ifname", "conf"),
    [
        ("launcher-sock", {}),
        ("launcher-sock", BY_INTERFACE),
        ("net1", {"host": {"vhost": {"mode": "client", "socketfile": "launcher-init-sock"}}}),
        ("net1", {"host": {"vhost": {"mode": "client", "socketfile": "launcher-unresponsive"}}}),
    ],
)
def test_the_names_of_virt_launchers_own_sockets_are_refused(node, ifname, conf):
    """An interface can be plugged into a running pod, and DEL would remove the socket of KubeVirt."""
    pod = launcher(node)
    before = node.snapshot()
    with pytest.raises(InvalidConfig, match="is the name of a socket of virt-launcher"):
        node.add(pod, ifname, **conf)
    assert node.snapshot() == before


def test_the_volume_with_libvirts_sockets_is_refused_in_a_virt_launcher_only(node):
    pod = launcher(node)
    before = node.snapshot()
    with pytest.raises(InvalidConfig, match="libvirt-runtime has the sockets of libvirt"):
        node.add(pod, volume="libvirt-runtime", socketNaming="interface")
    assert node.snapshot() == before
    node.add(node.pod("a", "libvirt-runtime"), volume="libvirt-runtime")


def test_an_open_vswitch_that_is_not_root_may_connect_to_new_sockets_until_the_last_interface_goes(node):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    before = access(volume)
    for name in ("net1", "net2"):
        node.add(pod, name)
    bits = os.stat(volume).st_mode
    assert access(volume) == acl.encoded(bits & 0o705 | 0o050, [("user", 991, 7)])
    node.check(pod)
    node.delete(pod, "net1")
    assert access(volume) != before
    node.delete(pod, "net2")
    assert access(volume) == before


LABELS = "security.selinux"
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or os.path.isdir("/sys/fs/selinux/class"),
    reason="only root can set owners and labels, and SELinux refuses these labels",
)


def label(volume: str, text: str) -> None:
    os.setxattr(volume, LABELS, f"{text}\0".encode())


@as_root
@pytest.mark.parametrize("before", ["system_u:object_r:var_lib_t:s0", ""])
def test_the_label_that_the_runtime_sets_after_the_add_stays_when_the_last_interface_goes(node, before):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    if before:
        label(volume, before)
    node.add(pod)
    label(volume, "system_u:object_r:container_file_t:s0:c1,c2")
    node.delete(pod)
    assert os.getxattr(volume, LABELS) == b"system_u:object_r:container_file_t:s0:c1,c2\0"
    assert access(volume) is None


@as_root
@pytest.mark.parametrize("is_changed", [False, True])
def test_an_owner_and_a_label_that_the_network_names_are_restored_unless_another_program_changes_them(node, is_changed):
    pod, volume = launcher(node), node.volume("vm", "sockets")
    label(volume, "before")
    node.add(pod, socketDirectory={"owner": 5, "group": 6, "selinuxLabel": "ours"})
    assert (os.stat(volume).st_uid, os.stat(volume).st_gid) == (5, 6)
    if is_changed:
        os.chown(volume, 107, 108)
        label(volume, "after")
    node.delete(pod)
    look = os.stat(volume)
    found = (look.st_uid, look.st_gid, os.getxattr(volume, LABELS))
    assert found == ((107, 108, b"after\0") if is_changed else (os.geteuid(), os.getegid(), b"before\0"))


@as_root
def test_an_owner_that_another_program_sets_after_the_add_stays(node):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    os.chmod(volume, 0o2777)
    node.add(pod)
    os.chown(volume, 107, 107)
    node.delete(pod)
    look = os.stat(volume)
    assert (look.st_uid, look.st_gid, look.st_mode & 0o7777) == (107, 107, 0o2777)
    assert access(volume) is None


EXPLICIT = {**BY_INTERFACE, "socketDirectory": {"acl": ["user:5:rwx"], "mode": "2770", "group": os.getegid()}}


@pytest.mark.parametrize("confs", [(EXPLICIT, {}), ({}, EXPLICIT)])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_network_without_the_keys_works_beside_one_with_them_in_one_volume(node, confs, order):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    before, look = node.snapshot(), os.stat(volume)
    for name, conf in zip(("net1", "net2"), confs, strict=True):
        node.add(pod, name, **conf)
    assert stat.S_IMODE(os.stat(volume).st_mode) == 0o2770
    assert has_entry(volume, 5)
    node.delete(pod, f"net{1 + order[0]}")
    assert access(volume) is not None
    node.delete(pod, f"net{1 + order[1]}")
    assert (access(volume), os.stat(volume).st_mode, os.stat(volume).st_gid) == (None, look.st_mode, look.st_gid)
    assert node.snapshot() == before


@pytest.mark.parametrize("is_dead", [False, True])
def test_another_user_of_open_vswitch_gets_access_beside_interfaces_of_the_earlier_one(node, is_dead):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    before = access(volume)
    for name in ("net1", "net2"):
        node.add(pod, name)
    node.visibility.user = 992
    now = pod
    if is_dead:
        node.end_sandbox(pod)
        now = node.sandbox(pod, "again")
    node.add(now, "net1" if is_dead else "net3")
    assert has_entry(volume, 992)
    for one, name in ((pod, "net1"), (pod, "net2"), (now, "net1"), (now, "net3")):
        node.delete(one, name)
    assert access(volume) == before


def test_what_the_network_of_a_dead_sandbox_requested_does_not_replace_the_default(node):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    node.add(pod, "net2", **EXPLICIT)
    node.end_sandbox(pod)
    node.add(node.sandbox(pod, "again"), "net1")
    assert has_entry(volume, 991)


def test_entries_of_the_volumes_acl_stay_and_others_may_not_write_to_new_files(node):
    node.visibility.user = 991
    pod, volume = launcher(node), node.volume("vm", "sockets")
    os.chmod(volume, 0o2777)
    os.setxattr(volume, acl.DEFAULT, acl.encoded(0o770, [("user", 5, 7), ("user", 991, 4)]))
    before = access(volume)
    node.add(pod)
    assert access(volume) == acl.encoded(0o775, [("user", 5, 7), ("user", 991, 7)])
    node.delete(pod)
    assert access(volume) == before


@pytest.mark.parametrize("is_requested", [False, True])
def test_a_file_system_without_acls_fails_only_an_add_that_requests_one(node, monkeypatch, is_requested):
    node.visibility.user = 991
    pod = launcher(node)
    before = node.snapshot()

    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    if is_requested:
        with pytest.raises(SocketDirUnfit, match=r"ACL user:5:rwx: Operation not supported") as refused:
            node.add(pod, socketDirectory={"acl": ["user:5:rwx"]})
        assert "file system" in refused.value.hint
    else:
        node.add(pod)
        assert "user:991:rwx" in "".join(node.log.messages)
        node.delete(pod)
    assert node.snapshot() == before


@pytest.mark.parametrize(
    "conf",
    [
        {"socketDirectory": {"mode": "0711"}},
        {"socketDirectory": {}},
        {"socketDirectory": {"acl": []}},
        {"host": {"vhost": {"mode": "client", "group": str(os.getegid())}}},
        {"volume": "public"},
    ],
)
def test_it_gets_no_access_that_the_network_decides_itself_or_to_another_volume(node, conf):
    node.visibility.user = 991
    pod = launcher(node)
    node.add(pod, **conf)
    assert access(node.volume("vm", conf.get("volume", "sockets"))) is None


def test_an_open_vswitch_whose_user_is_unknown_causes_a_warning_with_the_remedy(node):
    node.visibility.hidden = True
    pod = launcher(node)
    node.add(pod)
    (message,) = node.log.messages
    assert message.startswith("cannot determine the user of ovs-vswitchd")
    assert '"socketDirectory": {"acl": ["user:ID:rwx"]}' in message
    assert access(node.volume("vm", "sockets")) is None
    node.log.messages.clear()
    node.add(pod, "net2", socketDirectory={})
    assert node.log.messages == []


def test_a_pidfile_where_pods_may_write_is_not_believed(node):
    node.visibility.user = 991
    beside = f"unix:{node.shared}/db.sock"
    node.vswitches[beside] = node.vswitch
    node.add(launcher(node), ovsdb=beside)
    assert access(node.volume("vm", "sockets")) is None
    assert "pods may write to it" in "".join(node.log.messages)


def test_it_gets_no_access_to_the_volume_of_another_kind_of_pod(node):
    node.visibility.user = 991
    node.add(node.pod("a", "shared-dir"))
    assert access(node.volume("a", "shared-dir")) is None


@pytest.mark.parametrize("source", ["args", "capability"])
def test_the_address_of_the_machine_reaches_the_result_without_and_with_the_capability(node, source):
    """Multus passes `mac` of the networks annotation in CNI_ARGS, and with the capability also in runtimeConfig."""
    pod = launcher(node)
    mac = "02:00:00:00:10:01"
    if source == "args":
        result = node.add(pod._replace(args=f"{pod.args};MAC={mac}"))
    else:
        result = node.add(pod, runtimeConfig={"mac": mac})
    assert result.interfaces[0].mac == mac
