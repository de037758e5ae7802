"""Locations of sockets, owners of their directories, and objects that attachments share, on fakes with real
directories.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cni.errors import InvalidConfig, InvalidEnvironment, PortTaken, SocketDirUnfit
from tests.port_node import KUBECONFIG, Pod, PortNode, port, port_node

if TYPE_CHECKING:
    from collections.abc import Iterator

VOLUME = "shared-dir"
ANNOTATED = {"kubeconfig": KUBECONFIG}


@pytest.fixture
def node(monkeypatch) -> Iterator[PortNode]:
    with port_node(monkeypatch) as node:
        yield node


def named(socketfile: str, **more: Any) -> dict[str, Any]:
    return {"host": {"vhost": {"mode": "client", "socketfile": socketfile}}, **more}


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def with_host_path(node: PortNode, name: str, path: str, *, seen: str = "/sockets") -> Pod:
    """A pod whose volume is a folder of the host."""
    mounts = [{"name": VOLUME, "mountPath": seen}]
    return node.pod(
        name,
        volumes=[{"name": VOLUME, "hostPath": {"path": path}}],
        containers=[{"name": "app", "volumeMounts": mounts}],
    )


def gone(node: PortNode, pod: Pod, before: dict[str, Any], **conf: Any) -> None:
    node.delete(pod, **conf)
    assert node.snapshot() == before


# Locations.


def test_the_socket_is_in_the_volume_that_the_pod_has_for_it(node):
    pod = node.pod("a", VOLUME)
    node.add(pod)
    (seen,) = node.vswitch.show()
    assert seen.port.socket == f"{node.volume('a', VOLUME)}/{port(pod)}"
    # The file beside it describes the socket to the application, in the form of userspace-cni.
    assert os.listdir(node.volume("a", VOLUME)) == [f"configData-{port(pod)}.json"]


@pytest.mark.parametrize(
    ("conf", "name"), [({}, None), ({"socketNaming": "interface"}, "net1"), (named("app.sock"), "app.sock")]
)
def test_the_socket_has_the_name_that_the_network_chooses(node, conf, name):
    pod = node.pod("a", VOLUME)
    result = node.add(pod, **conf)
    assert os.path.basename(result.interfaces[0].socket_path) == (name or port(pod))


def test_without_a_volume_the_socket_is_in_a_directory_of_our_own_or_in_the_shared_one(node):
    pod = node.pod()
    before = node.snapshot()
    for conf, place in (({}, f"{node.folder}/run/sockets"), ({"sharedDir": f"{node.shared}/"}, node.shared)):
        node.add(pod, **conf)
        assert node.vswitch.show()[0].port.socket == f"{place}/{port(pod)}/{port(pod)}"
        assert mode(f"{place}/{port(pod)}") == 0o755
        gone(node, pod, before, **conf)


def test_a_directory_of_ours_goes_with_all_that_the_application_left_in_it(node):
    pod = node.pod()
    before = node.snapshot()
    node.add(pod)
    place = f"{node.folder}/run/sockets/{port(pod)}"
    node.listen(place, port(pod))
    Path(place, "log").write_text("text")
    os.symlink("/etc", f"{place}/link")
    gone(node, pod, before)


def test_a_folder_in_a_directory_of_ours_keeps_it_and_del_succeeds(node):
    pod = node.pod()
    node.add(pod)
    os.mkdir(f"{node.folder}/run/sockets/{port(pod)}/theirs")
    node.delete(pod)
    assert node.pending() == []
    assert any("is left: Directory not empty" in text for text in node.log.messages)


def test_an_existing_shared_directory_with_our_name_is_refused_and_left(node):
    pod = node.pod()
    os.mkdir(f"{node.shared}/{port(pod)}")
    before = node.snapshot()
    with pytest.raises(SocketDirUnfit, match="is there already") as refused:
        node.add(pod, sharedDir=node.shared)
    assert "socketNaming" in refused.value.hint
    assert node.snapshot() == before


def test_a_host_path_is_used_as_the_containers_see_it(node):
    os.mkdir(f"{node.shared}/app")
    pod = with_host_path(node, "a", f"{node.shared}/app", seen="/sockets/")
    info = f"{node.folder}/devinfo/net-info"
    node.add(pod, runtimeConfig={"CNIDeviceInfoFile": info}, **ANNOTATED)
    assert node.vswitch.show()[0].port.socket == f"{node.shared}/app/{port(pod)}"
    assert f'"path": "/sockets/{port(pod)}"' in Path(info).read_text().replace('":"', '": "')
    assert node.pods.annotations("default", "a")["userspace/mapped-dir"] == "/sockets/"


@pytest.mark.parametrize("path", ["/etc", "/run/containerd", "/", ""])
def test_a_host_path_outside_the_places_for_sockets_is_refused(node, path):
    pod = with_host_path(node, "a", path)
    before = node.snapshot()
    with pytest.raises(InvalidConfig, match="where no sockets are put") as refused:
        node.add(pod, **ANNOTATED)
    assert "sockets.roots in /etc/barewire/node.json" in refused.value.hint
    assert node.snapshot() == before


def test_a_host_path_that_leads_out_of_its_place_is_refused(node):
    pod = with_host_path(node, "a", f"{node.shared}/../kubelet")
    with pytest.raises(InvalidConfig, match="where no sockets are put"):
        node.add(pod, **ANNOTATED)


def test_a_place_that_many_pods_use_takes_no_owner_from_one_of_them(node):
    pod = with_host_path(node, "a", node.shared)
    with pytest.raises(InvalidConfig, match="which many pods use") as refused:
        node.add(pod, socketDirectory={"mode": "0700"}, **ANNOTATED)
    assert "name a directory in it" in refused.value.hint
    node.add(pod, **ANNOTATED)


def test_a_host_path_that_is_not_there_yet_is_made_with_its_parents_and_goes_with_its_last_user(node):
    path = f"{node.shared}/team/app"
    pods = [with_host_path(node, name, path) for name in ("a", "b")]
    before = node.snapshot()
    for pod in pods:
        node.add(pod, **ANNOTATED)
        node.listen(path, port(pod))
    node.delete(pods[0])
    assert os.listdir(path) == [port(pods[1])]
    gone(node, pods[1], before)


def test_folders_that_attachments_made_on_the_way_stay_while_one_of_them_needs_them(node):
    inner, outer = (
        with_host_path(node, name, f"{node.shared}/team{more}") for name, more in (("a", "/app"), ("b", ""))
    )
    before = node.snapshot()
    node.add(inner, **ANNOTATED)
    node.add(outer, **ANNOTATED)
    node.delete(inner)
    assert os.listdir(f"{node.shared}/team") == []
    gone(node, outer, before)


def test_the_outer_of_two_directories_waits_for_the_inner_one(node):
    inner, outer = (
        with_host_path(node, name, f"{node.shared}/team{more}") for name, more in (("a", "/app"), ("b", ""))
    )
    before = node.snapshot()
    node.add(outer, **ANNOTATED)
    node.add(inner, **ANNOTATED)
    node.delete(outer)
    assert os.listdir(f"{node.shared}/team") == ["app"]
    gone(node, inner, before)


def test_an_add_that_fails_takes_back_the_folders_that_it_made(node):
    pod = with_host_path(node, "a", f"{node.shared}/team/app")
    before = node.snapshot()
    node.vswitch.capable = False
    with pytest.raises(Exception, match="could not open"):
        node.add(pod, **ANNOTATED)
    assert node.snapshot() == before


def test_a_link_in_the_place_of_the_volume_is_refused_and_not_followed(node):
    pod = node.pod("a", "other")
    os.symlink(node.shared, node.volume("a", VOLUME))
    before = node.snapshot()
    with pytest.raises(SocketDirUnfit, match="a symlink is not followed"):
        node.add(pod)
    assert node.snapshot() == before


def test_a_volume_that_was_swapped_for_a_link_keeps_del_in_the_pods_own_directory(node):
    pod = node.pod("a", VOLUME)
    node.add(pod)
    node.listen(node.volume("a", VOLUME), port(pod))
    Path(node.shared, port(pod)).write_text("not the pod's")
    os.rename(node.volume("a", VOLUME), f"{node.folder}/moved")
    os.symlink(node.shared, node.volume("a", VOLUME))
    node.delete(pod)
    # The mount leads to the directory under its new name.
    assert os.listdir(node.folder / "moved") == []
    assert os.listdir(node.shared) == [port(pod)]


@pytest.mark.parametrize("uid", ["../../../../run", "..", "a/b"])
def test_a_uid_that_is_a_path_is_refused(node, uid):
    pod = node.pod()
    with pytest.raises(InvalidEnvironment, match="is not the UID of a pod"):
        node.add(pod._replace(args=f"K8S_POD_UID={uid}"))


def test_short_folders_are_not_made_where_others_can_write(node):
    os.mkdir(node.vhost)
    os.chmod(node.vhost, 0o777)
    with pytest.raises(SocketDirUnfit, match="others may write to") as refused:
        node.add(node.pod("a", VOLUME))
    assert "chmod go-w" in refused.value.hint


def test_folders_that_lead_to_sockets_can_be_passed_whatever_the_umask_is(node):
    os.chmod(node.folder / "run", 0o700)
    umask = os.umask(0o077)
    try:
        node.add(node.pod())
    finally:
        os.umask(umask)
    assert [mode(str(node.folder / name)) for name in ("run", "run/sockets", "run/vhost")] == [0o711] * 3


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_the_pod_has_in_the_place_of_our_names_is_named_and_left(node, kind):
    pod = node.pod("a", VOLUME)
    planted = Path(node.volume("a", VOLUME), port(pod))
    if kind == "link":
        planted.symlink_to("/etc/passwd")
    else:
        planted.touch() if kind == "file" else planted.mkdir()
    before = node.snapshot()
    with pytest.raises(SocketDirUnfit, match=f"{port(pod)} is there already"):
        node.add(pod)
    assert node.snapshot() == before


def test_what_a_pod_put_in_the_place_of_its_socket_is_left_by_del(node):
    pod = node.pod("a", VOLUME)
    node.add(pod)
    os.mkdir(f"{node.volume('a', VOLUME)}/{port(pod)}")
    node.delete(pod)
    assert os.listdir(node.volume("a", VOLUME)) == [port(pod)]
    assert any("not ours, and left in" in text for text in node.log.messages)


def test_del_after_a_reboot_removes_socket_and_file_without_the_mount(node, monkeypatch):
    pod = node.pod("a", VOLUME)
    node.add(pod)
    node.listen(node.volume("a", VOLUME), port(pod))
    node.mounts.reboot()
    os.rmdir(f"{node.vhost}/{port(pod)}")
    node.delete(pod)
    assert os.listdir(node.volume("a", VOLUME)) == []


def test_mounts_that_killed_calls_stacked_are_all_taken_off(node):
    pod = node.pod("a", VOLUME)
    before = node.snapshot()
    node.add(pod)
    fd = os.open(node.volume("a", VOLUME), os.O_RDONLY)
    for _ in range(3):
        node.mounts.bind(fd, f"{node.vhost}/{port(pod)}")
    os.close(fd)
    gone(node, pod, before)


# Sharing.


def test_two_interfaces_cannot_have_one_socket_and_the_first_keeps_it(node):
    pod, conf = node.pod("a", VOLUME), named("same")
    node.add(pod, "net1", **conf)
    node.listen(node.volume("a", VOLUME), "same")
    before = node.snapshot()
    with pytest.raises(PortTaken, match=f"{node.volume('a', VOLUME)}/same"):
        node.add(pod, "net2", **conf)
    assert node.snapshot() == before
    node.delete(pod, "net2", **conf)
    assert node.snapshot() == before
    node.delete(pod, "net1", **conf)
    assert os.listdir(node.volume("a", VOLUME)) == []
    node.add(pod, "net2", **conf)


def test_two_pods_that_share_a_host_path_by_two_names_cannot_have_one_socket(node):
    os.mkdir(f"{node.shared}/app")
    os.symlink(node.shared, node.folder / "alias")
    pods = [with_host_path(node, name, f"{node.shared}/{path}") for name, path in (("a", "app"), ("b", "./app/"))]
    node.add(pods[0], socketNaming="interface", **ANNOTATED)
    with pytest.raises(PortTaken):
        node.add(pods[1], socketNaming="interface", **ANNOTATED)


def test_a_socket_of_the_hosts_is_neither_taken_nor_removed(node):
    pod = with_host_path(node, "a", node.shared)
    node.listen(node.shared, "the.sock")
    before = node.snapshot()
    with pytest.raises(SocketDirUnfit, match=r"the\.sock is there already"):
        node.add(pod, **named("the.sock"), **ANNOTATED)
    assert node.snapshot() == before
    gone(node, pod, before)


def test_a_socket_that_a_dead_sandbox_left_in_a_host_path_is_no_obstacle(node):
    old = with_host_path(node, "a", node.shared)
    conf = {"socketNaming": "interface", **ANNOTATED}
    node.add(old, **conf)
    node.listen(node.shared, "net1")
    node.end_sandbox(old)
    new = node.sandbox(old, "again")
    node.add(new, **conf)
    assert os.listdir(node.shared) == []
    assert list(node.vswitch.ports) == [port(new)]


def test_a_directory_that_goes_with_a_dead_sandbox_is_made_again_for_the_next_one(node):
    old = with_host_path(node, "a", f"{node.shared}/team/app")
    before, conf = node.snapshot(), {"socketNaming": "interface", **ANNOTATED}
    node.add(old, **conf)
    node.end_sandbox(old)
    new = node.sandbox(old, "again")
    node.add(new, **conf)
    node.listen(f"{node.shared}/team/app", "net1")
    node.check(new)
    gone(node, new, before)


def test_a_socket_of_a_port_without_a_record_is_taken_away_by_the_add_that_needs_its_name(node):
    pod = with_host_path(node, "a", node.shared)
    conf = {"socketNaming": "interface", **ANNOTATED}
    node.add(pod, **conf)
    node.listen(node.shared, "net1")
    node.forget_record(pod)
    node.add(pod, vlan=7, **conf)
    (seen,) = node.vswitch.show()
    assert seen.port.tag == 7
    assert os.listdir(node.shared) == []
    assert any("has no record, only its mark: removing it" in text for text in node.log.messages)


def test_an_earlier_sandbox_that_lives_keeps_its_socket(node):
    old = node.pod("a", VOLUME)
    node.add(old, socketNaming="interface")
    before = node.snapshot()
    with pytest.raises(PortTaken):
        node.add(node.sandbox(old, "again"), socketNaming="interface")
    assert node.snapshot() == before


@pytest.mark.parametrize("conf", [{"socketNaming": "interface"}, {}])
def test_a_late_del_of_an_earlier_sandbox_leaves_the_new_ones_socket_and_device_info(node, conf):
    old, info = node.pod("a", VOLUME), f"{node.folder}/devinfo/net-info"
    conf = {**conf, "runtimeConfig": {"CNIDeviceInfoFile": info}}
    # The first sandbox's removal waits for the vswitch.
    node.add(old, **conf)
    node.end_sandbox(old)
    new = node.sandbox(old, "again")
    result = node.add(new, **conf)
    socket = os.path.basename(result.interfaces[0].socket_path)
    node.listen(node.volume("a", VOLUME), socket)
    node.delete(old, **conf)
    assert socket in os.listdir(node.volume("a", VOLUME))
    assert "vhost-user" in Path(info).read_text()
    node.check(new, **conf)
    node.delete(new, **conf)
    assert not os.path.exists(info)
    assert os.listdir(node.volume("a", VOLUME)) == []


def test_a_socket_that_an_application_made_again_after_del_does_not_keep_the_next_sandbox_from_starting(node):
    old, conf = node.pod("a", VOLUME), {"socketNaming": "interface"}
    node.add(old, **conf)
    node.delete(old, **conf)
    node.listen(node.volume("a", VOLUME), "net1")
    new = node.sandbox(old, "again")
    node.add(new, **conf)
    os.unlink(f"{node.volume('a', VOLUME)}/net1")
    node.listen(node.volume("a", VOLUME), "net1")
    node.delete(new, **conf)
    assert os.listdir(node.volume("a", VOLUME)) == []


# Owners.


def test_a_directory_gets_the_mode_and_the_list_that_the_network_wants_and_its_own_back(node):
    pod = node.pod("a", VOLUME)
    volume = node.volume("a", VOLUME)
    os.chmod(volume, 0o1777)
    before = node.snapshot()
    conf = {"socketDirectory": {"mode": "0750", "group": os.getgid(), "acl": [f"user:{os.getuid()}:rwx"]}}
    node.add(pod, **conf)
    assert mode(volume) & 0o707 == 0o700
    assert "system.posix_acl_default" in os.listxattr(volume)
    gone(node, pod, before, **conf)
    assert os.listxattr(volume) == []


@pytest.mark.parametrize("first", ["net1", "net2"])
def test_a_directory_stays_as_wanted_while_another_interface_needs_it_and_comes_back_with_the_last(node, first):
    pod, conf = node.pod("a", VOLUME), {"socketDirectory": {"mode": "0750"}}
    os.chmod(node.volume("a", VOLUME), 0o777)
    before = node.snapshot()
    for ifname in ("net1", "net2"):
        node.add(pod, ifname, **conf)
    node.delete(pod, first, **conf)
    assert mode(node.volume("a", VOLUME)) == 0o750
    node.delete(pod, "net1" if first == "net2" else "net2", **conf)
    assert node.snapshot() == before


def test_another_owner_for_a_directory_in_use_is_refused_and_who_wants_none_is_welcome(node):
    pod = node.pod("a", VOLUME)
    node.add(pod, "net1", socketDirectory={"mode": "0755"})
    before = node.snapshot()
    with pytest.raises(SocketDirUnfit, match="with another owner or other permissions") as refused:
        node.add(pod, "net2", socketDirectory={"mode": "0700"})
    assert "two volumes" in refused.value.hint
    assert node.snapshot() == before
    node.add(pod, "net2")
    node.delete(pod, "net1")
    node.delete(pod, "net2")


def test_a_failed_add_gives_the_directory_back_as_it_was(node):
    pod = node.pod("a", VOLUME)
    os.chmod(node.volume("a", VOLUME), 0o777)
    before = node.snapshot()
    node.vswitch.refuse(1)
    with pytest.raises(Exception, match="refused by the test"):
        node.add(pod, socketDirectory={"mode": "0700"})
    assert node.snapshot() == before


def test_a_directory_that_was_replaced_meanwhile_is_left_as_it_is(node):
    pod, conf = node.pod("a", VOLUME), {"socketDirectory": {"mode": "0750"}, "allowUnsafeSocketDir": True}
    volume = node.volume("a", VOLUME)
    os.chmod(volume, 0o777)
    node.add(pod, **conf)
    os.rename(volume, f"{node.folder}/moved")
    os.mkdir(volume, 0o711)
    node.delete(pod, **conf)
    assert mode(volume) == 0o711
    assert any("has been replaced by another directory" in text for text in node.log.messages)


def test_one_that_has_only_addresses_left_uses_no_directory_any_more(node):
    old, conf = node.pod("a", VOLUME), {"socketDirectory": {"mode": "0750"}, "socketNaming": "interface"}
    os.chmod(node.volume("a", VOLUME), 0o777)
    before = node.snapshot()
    node.add(old, ipam={"type": "fake"}, **conf)
    node.ipam.fail = {"release"}
    node.end_sandbox(old)
    node.delete(old, **conf)
    assert node.record(old).left == ("ipam",)
    new = node.sandbox(old, "again")
    node.add(new, **conf)
    node.listen(node.volume("a", VOLUME), "net1")
    node.delete(new, **conf)
    assert os.listdir(node.volume("a", VOLUME)) == []
    assert mode(node.volume("a", VOLUME)) == 0o777
    node.ipam.fail = set()
    node.delete(new)
    assert node.snapshot() == before


def test_a_record_of_an_earlier_version_is_undone(node):
    pod = node.pod("a", VOLUME)
    before = node.snapshot()
    node.add(pod)
    node.listen(node.volume("a", VOLUME), port(pod))
    record = node.record(pod)
    directory = {name: value for name, value in record.wanted["directory"].items() if name not in ("since", "of_pod")}
    node.attachments().save(record.replace(wanted={**record.wanted, "directory": directory}))
    gone(node, pod, before)
