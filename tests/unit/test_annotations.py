"""userspace-cni's annotations: their form, and their changes with interfaces and sandboxes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from cni.errors import InvalidConfig
from cni.kube.podspec import mount_path, volume_of
from cni.userspace.appnetutil import DATA, FOLDER, added, entry, removed

HOST = {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge", "vhost": {"mode": "client"}}
IP_RESULT = {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.56.217.136/24"}], "dns": {}}
PLACE = "/var/lib/cni/usrspcni"
WRITTEN = f"{PLACE}/"
FOREIGN = {"k8s.v1.cni.cncf.io/network-status": "[]", "userspace/other": "stays"}


def element(ifname="net1", container_id="c0ffee", host=HOST, **section):
    container: Any = section
    return entry(
        container_id=container_id,
        ifname=ifname,
        network="fast",
        host=host,
        container=container,
        socket=f"{container_id}-{ifname}",
        ip_result=IP_RESULT,
    )


def applied(annotations, changes):
    """The annotations after the changes, as the API server applies them."""
    left = {name: value for name, value in annotations.items() if name not in changes}
    return {**left, **{name: value for name, value in changes.items() if value is not None}}


def elements(annotations):
    return json.loads(annotations.get(DATA) or "[]")


def told(annotations):
    """(container ID, interface) of each element."""
    return [(one["containerId"], one["ifName"]) for one in elements(annotations)]


def with_interfaces(*ifnames, container_id="c0ffee", place=PLACE, start=FOREIGN):
    annotations = dict(start)
    for ifname in ifnames:
        annotations = applied(annotations, added(annotations, element(ifname, container_id), place))
    return annotations


def test_the_application_gets_the_type_that_a_configuration_without_one_stands_for():
    assert element(host={"engine": "ovs-dpdk"})["config"] == element(host=HOST)["config"]


def test_an_element_has_the_keys_and_types_that_app_netutil_decodes():
    assert element() == {
        "containerId": "c0ffee",
        "ifName": "net1",
        "name": "fast",
        "config": {
            "engine": "ovs-dpdk",
            "iftype": "vhostuser",
            "netType": "interface",
            "memif": {},
            "vhost": {"mode": "server", "socketfile": "c0ffee-net1"},
            "bridge": {},
        },
        "ipResult": IP_RESULT,
    }


def test_the_container_section_is_handed_on_except_the_socket_s_name():
    told = element(netType="bridge", vhost={"mode": "server", "group": "hugetlbfs", "socketfile": "ignored"})["config"]
    assert told["vhost"] == {"mode": "server", "group": "hugetlbfs", "socketfile": "c0ffee-net1"}
    assert told["netType"] == "bridge"
    assert told["engine"] == "ovs-dpdk"


def test_the_first_interface_makes_both_annotations():
    changes = added(FOREIGN, element(), PLACE)
    assert changes.keys() == {DATA, FOLDER}
    assert elements(changes) == [element()]
    assert changes[FOLDER] == WRITTEN


def test_app_netutil_which_joins_folder_and_socket_without_a_slash_gets_a_path():
    annotations = with_interfaces("net1")
    (one,) = elements(annotations)
    assert annotations[FOLDER] + one["config"]["vhost"]["socketfile"] == f"{PLACE}/c0ffee-net1"


@pytest.mark.parametrize("place", (PLACE, f"{PLACE}/", f"{PLACE}//"))
def test_a_slash_at_its_end_makes_no_other_folder(place):
    annotations = {**with_interfaces("net1"), FOLDER: place}
    assert applied(annotations, added(annotations, element("net2"), PLACE))[FOLDER] == WRITTEN


def test_the_second_interface_of_a_sandbox_is_reported_beside_the_first():
    annotations = with_interfaces("net1", "net2")
    assert told(annotations) == [("c0ffee", "net1"), ("c0ffee", "net2")]
    assert annotations[FOLDER] == WRITTEN


def test_an_add_that_is_repeated_changes_nothing():
    annotations = with_interfaces("net1", "net2")
    again = applied(annotations, added(annotations, element("net1"), PLACE))
    assert sorted(told(again)) == [("c0ffee", "net1"), ("c0ffee", "net2")]
    assert added(with_interfaces("net1"), element("net1"), PLACE) == {}


def test_an_interface_that_comes_with_other_settings_replaces_its_element():
    annotations = with_interfaces("net1")
    changed = {**element("net1"), "name": "other"}
    assert elements(added(annotations, changed, PLACE)) == [changed]


def test_elements_of_an_earlier_sandbox_are_dropped():
    annotations = with_interfaces("net1", container_id="new", start=with_interfaces("net1", "net2", container_id="old"))
    assert told(annotations) == [("new", "net1")]


@pytest.mark.parametrize("text", ("", "no json", "{}", "[1]", '[{"containerId":', '"text"', "null"))
def test_an_unreadable_value_is_replaced(text):
    changes = added({DATA: text}, element(), PLACE)
    assert elements(changes) == [element()]


def test_a_folder_that_another_interface_relies_on_is_not_replaced():
    with pytest.raises(InvalidConfig, match=f"net1.*{PLACE}.*/elsewhere"):
        added(with_interfaces("net1"), element("net2"), "/elsewhere")


@pytest.mark.parametrize(
    "start",
    ({FOLDER: PLACE}, with_interfaces("net1"), with_interfaces("net1", "net2", container_id="old")),
    ids=("a pod's own", "the interface's own", "an earlier sandbox's"),
)
def test_a_folder_that_no_other_interface_uses_is_replaced(start):
    assert added(start, element("net1"), "/elsewhere")[FOLDER] == "/elsewhere/"


def test_del_takes_exactly_its_own_element():
    annotations = with_interfaces("net1", "net2", "net10")
    changes = removed(annotations, "c0ffee", "net1")
    assert changes.keys() == {DATA}
    assert told(changes) == [("c0ffee", "net2"), ("c0ffee", "net10")]


def test_with_the_last_element_both_annotations_go():
    assert removed(with_interfaces("net1"), "c0ffee", "net1") == {DATA: None, FOLDER: None}


def test_a_folder_that_is_gone_already_is_not_removed_again():
    annotations = with_interfaces("net1")
    del annotations[FOLDER]
    assert removed(annotations, "c0ffee", "net1") == {DATA: None}


@pytest.mark.parametrize(
    ("container_id", "ifname"), [("c0ffee", "net"), ("c0ffee", "net11"), ("c0ffe", "net1"), ("", ""), ("old", "net1")]
)
def test_del_of_what_is_not_there_changes_nothing(container_id, ifname):
    assert removed(with_interfaces("net1", "net10"), container_id, ifname) == {}


@pytest.mark.parametrize("text", ("", "no json", "{}", "[1]", "null"))
def test_del_leaves_what_it_cannot_read(text):
    assert removed({DATA: text, FOLDER: PLACE}, "c0ffee", "net1") == {}
    assert removed({}, "c0ffee", "net1") == {}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(("net1", "net2", "net10"))), max_size=12))
def test_after_any_order_of_adds_and_dels_exactly_the_present_interfaces_are_reported(steps):
    annotations, present = dict(FOREIGN), frozenset[str]()
    for arrives, ifname in steps:
        changes = added(annotations, element(ifname), PLACE) if arrives else removed(annotations, "c0ffee", ifname)
        annotations = applied(annotations, changes)
        present = present | {ifname} if arrives else present - {ifname}
        assert {name: annotations[name] for name in FOREIGN} == FOREIGN
        assert {ifname for _, ifname in told(annotations)} == present
        assert (FOLDER in annotations) == bool(present)


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_any_value_that_a_pod_s_author_wrote_leads_to_annotations_or_to_an_error_of_ours(text, container_id, ifname):
    annotations = applied({DATA: text}, added({DATA: text}, element(ifname, container_id), PLACE))
    assert told(annotations)[-1] == (container_id, ifname)
    assert applied(annotations, removed(annotations, container_id, ifname)) == {}


def pod(**lists):
    """A pod whose containers mount the volume `sockets`; `lists` has the mounts of each container, by kind of
    container.
    """
    containers = {kind: [{"name": "x", "volumeMounts": mounts} for mounts in each] for kind, each in lists.items()}
    return {"spec": {"volumes": [{"name": "other"}, {"name": "sockets", "emptyDir": {}}], **containers}}


def mount(path, name="sockets", **more):
    return {"name": name, "mountPath": path, **more}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (pod(containers=[[mount("/other", "other")], [mount("/a/")], [mount("/b")]]), "/a"),
        (pod(containers=[[]], initContainers=[[mount("/init")]]), "/init"),
        (pod(initContainers=[[mount("/init")]], containers=[[mount("/a")]]), "/a"),
        (pod(ephemeralContainers=[[mount("/debug")]], initContainers=[[mount("/init")]]), "/init"),
        (pod(ephemeralContainers=[[mount("/debug")]]), "/debug"),
        (pod(containers=[[mount("/part", subPath="x")], [mount("/whole")]]), "/whole"),
        (pod(containers=[[mount("/part", subPathExpr="$(X)")]]), ""),
        (pod(containers=[[]]), ""),
        ({"spec": {"containers": None, "volumes": None}}, ""),
        ({}, ""),
    ],
)
def test_the_first_container_that_mounts_the_whole_volume_determines_the_path(found, expected):
    assert mount_path(found, "sockets") == expected


def test_a_volume_is_found_by_its_name():
    assert volume_of(pod(), "sockets") == {"name": "sockets", "emptyDir": {}}
    assert volume_of(pod(), "absent") == {}
    assert volume_of({}, "sockets") == {}
