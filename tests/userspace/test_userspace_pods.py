"""The pod's annotations: written if there is API access, correct beside other writers, removed with the attachment."""

from __future__ import annotations

import json
import time

import pytest

from tests.examples import EXAMPLES, manifest
from tests.kube.apiserver import ApiServer, Faults
from tests.ovs.node import changes

DATA, FOLDER = "userspace/configuration-data", "userspace/mapped-dir"
SPEC = {
    "containers": [
        {"name": "sidecar"},
        {"name": "app", "volumeMounts": [{"name": "shared-dir", "mountPath": "/sockets"}]},
    ],
    "volumes": [{"name": "shared-dir", "emptyDir": {}}],
}


class Cluster:
    """A pod of the node that the API server knows as well."""

    def __init__(self, node, api, folder):
        self.node, self.api = node, api
        self.kubeconfig = node.kubeconfig(api.kubeconfig(folder / "kubeconfig"))
        self.pod = node.pod("shared-dir")
        self.add(self.pod)
        self.before = node.snapshot(), api.snapshot()

    def add(self, pod, **parts):
        self.api.add_pod("default", pod.name, **{"uid": pod.uid, "spec": SPEC, "annotations": {"theirs": "1"}, **parts})

    def conf(self, **settings):
        return self.node.conf(kubeconfig=self.kubeconfig, **settings)

    def annotations(self):
        return self.api.annotations("default", self.pod.name)

    def elements(self):
        return json.loads(self.annotations()[DATA])

    def left(self):
        """The differences from the state before, without the numbers of writes."""
        node, api = self.before
        told = changes(node, self.node.snapshot())
        return told + changes(plain(api), plain(self.api.snapshot()))


def plain(snapshot):
    return {name: {**pod, "metadata": {**pod["metadata"], "resourceVersion": ""}} for name, pod in snapshot.items()}


@pytest.fixture
def cluster(node, tmp_path):
    with ApiServer() as api:
        yield Cluster(node, api, tmp_path)


def test_the_annotations_come_with_add_and_go_with_del(cluster):
    node, pod = cluster.node, cluster.pod
    result = node.add(cluster.conf(cniVersion="1.0.0"), pod)
    (element,) = cluster.elements()
    assert (element["containerId"], element["ifName"], element["name"]) == (pod.container_id, "net1", "net")
    assert element["config"]["vhost"] == {"mode": "server", "socketfile": f"{pod.container_id[:12]}-net1"}
    assert element["ipResult"]["interfaces"] == result["interfaces"]
    assert cluster.annotations()[FOLDER].rstrip("/") == "/sockets"
    assert cluster.annotations()["theirs"] == "1"
    assert node.run("ls", pod.volume("shared-dir")).stdout == ""
    node.delete(cluster.conf(), pod)
    assert cluster.left() == []


def test_each_interface_has_its_element_and_those_of_an_earlier_sandbox_are_dropped(cluster):
    node, pod = cluster.node, cluster.pod
    stale = json.dumps([{"containerId": "gone", "ifName": "net1"}, {"containerId": "gone", "ifName": "net7"}])
    cluster.api.store.write(("default", pod.name), {"metadata": {"annotations": {DATA: stale}}})
    for ifname in ("net1", "net2"):
        node.add(cluster.conf(), pod, ifname)
    assert [element["ifName"] for element in cluster.elements()] == ["net1", "net2"]
    node.delete(cluster.conf(), pod, "net1")
    assert [element["ifName"] for element in cluster.elements()] == ["net2"]
    node.delete(cluster.conf(), pod, "net2")
    assert cluster.annotations() == {"theirs": "1"}


def test_another_writers_changes_are_kept_whenever_they_come(cluster):
    stale = {"metadata": {"annotations": {DATA: json.dumps([{"containerId": "gone", "ifName": "net7"}])}}}
    cluster.api.faults = Faults(conflicts=5, other_writer=lambda store, key: store.write(key, stale))
    cluster.node.add(cluster.conf(), cluster.pod)
    assert len(cluster.elements()) == 1
    assert cluster.annotations()["theirs"] == "1"
    assert cluster.api.asked().count(("PATCH", 409)) == 4
    cluster.node.delete(cluster.conf(), cluster.pod)


PATCHES = frozenset({"PATCH"})
MISBEHAVIOUR = {
    "a storm of conflicts": Faults(status=409, methods=PATCHES),
    "a server that says nothing": Faults(silent=True),
    "a server that answers in drops": Faults(trickle=0.5),
    "a server that takes no patch and says nothing": Faults(silent=True, methods=PATCHES),
    "a patch that is done, and its answer lost": Faults(loses_answer=True, methods=PATCHES, only=frozenset({3})),
    "an error of the server": Faults(status=503, methods=PATCHES),
}


@pytest.mark.parametrize("faults", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_an_api_server_that_does_not_take_the_annotation_ends_add_in_time_and_nothing_stays(cluster, faults):
    cluster.api.faults = faults
    started = time.monotonic()
    refused = cluster.node.call("ADD", cluster.conf(), cluster.pod)
    assert refused.document["code"] == 11
    assert time.monotonic() - started < 25
    cluster.api.faults = Faults()
    cluster.node.delete(cluster.conf(), cluster.pod)
    assert cluster.left() == []


def test_the_rights_of_the_example_are_enough(cluster):
    rules = manifest(EXAMPLES / "rbac-userspace.yaml")["rules"]
    cluster.api.rights = frozenset((verb, one) for rule in rules for one in rule["resources"] for verb in rule["verbs"])
    cluster.node.add(cluster.conf(), cluster.pod)
    assert len(cluster.elements()) == 1
    cluster.node.delete(cluster.conf(), cluster.pod)
    assert cluster.left() == []


def test_without_the_right_to_patch_add_says_which_right_and_nothing_stays(cluster):
    cluster.api.rights = frozenset({("get", "pods")})
    refused = cluster.node.call("ADD", cluster.conf(), cluster.pod)
    assert refused.document["code"] == 113
    assert "pods/status" in refused.document["details"]
    assert cluster.left() == []


def test_del_does_not_wait_for_a_dead_api_server_and_a_later_call_finishes_it(cluster):
    node, pod, other = cluster.node, cluster.pod, cluster.node.pod()
    node.add(cluster.conf(), pod)
    cluster.api.faults = Faults(silent=True)
    started = time.monotonic()
    node.delete(cluster.conf(), pod)
    assert time.monotonic() - started < 8
    assert node.ports() == {}
    assert len(cluster.elements()) == 1
    cluster.api.faults = Faults()
    node.delete(node.conf(), other)
    assert cluster.annotations() == {"theirs": "1"}


def test_del_succeeds_when_the_pod_is_gone_or_another_has_its_name(cluster):
    node, pod = cluster.node, cluster.pod
    node.add(cluster.conf(), pod)
    del cluster.api.pods["default", pod.name]
    node.delete(cluster.conf(), pod)
    assert node.ports() == {}
    cluster.add(pod)
    node.add(cluster.conf(), pod)
    del cluster.api.pods["default", pod.name]
    cluster.add(pod, uid="another", annotations={DATA: "theirs"})
    node.delete(cluster.conf(), pod)
    assert cluster.annotations() == {DATA: "theirs"}


def test_a_pod_that_was_created_again_is_not_annotated_for_the_old_ones_sandbox(cluster):
    cluster.api.pods["default", cluster.pod.name]["metadata"]["uid"] = "another"
    refused = cluster.node.call("ADD", cluster.conf(), cluster.pod)
    assert refused.document["code"] == 114
    assert cluster.node.ports() == {}


def test_a_host_path_is_used_in_the_places_for_sockets_only(cluster):
    node, pod = cluster.node, cluster.node.pod()
    node.run("mkdir", "-p", "/run/vhostuser/app")
    for path, code in (("/etc", 7), ("/run/../etc", 7), ("/run/containerd", 7), ("/run/vhostuser/app", 0)):
        cluster.api.pods.pop(("default", pod.name), None)
        volumes = [{"name": "shared-dir", "hostPath": {"path": path}}]
        cluster.add(pod, spec={**SPEC, "volumes": volumes})
        outcome = node.call("ADD", cluster.conf(), pod)
        assert outcome.code == bool(code), outcome
        if code:
            assert "where no sockets are put" in outcome.document["msg"]
    node.bind(outcome.document["interfaces"][0]["socketPath"])
    assert node.run("ls", "/run/vhostuser/app").stdout == f"{pod.container_id[:12]}-net1\n"
    node.delete(cluster.conf(), pod)
    node.run("rm", "-r", "/run/vhostuser")


def test_a_host_path_that_is_not_there_yet_is_made_and_goes_when_it_is_empty(cluster):
    node, pods = cluster.node, [cluster.node.pod(), cluster.node.pod()]
    node.run("mkdir", "/run/vhostuser")
    before = node.snapshot()
    for pod in pods:
        volumes = [{"name": "shared-dir", "hostPath": {"path": "/var/run/vhostuser/app-sockets"}}]
        cluster.add(pod, spec={**SPEC, "volumes": volumes})
        node.bind(node.add(cluster.conf(), pod)["interfaces"][0]["socketPath"])
    node.delete(cluster.conf(), pods[0])
    assert node.run("ls", "/run/vhostuser/app-sockets").stdout == f"{pods[1].container_id[:12]}-net1\n"
    node.delete(cluster.conf(), pods[1])
    assert changes(before, node.snapshot()) == []
    node.run("rmdir", "/run/vhostuser")


def test_a_socket_of_the_hosts_is_neither_taken_nor_removed_by_an_add_that_fails_nor_by_del(cluster):
    node, pod = cluster.node, cluster.node.pod()
    conf = cluster.conf()
    conf["host"] = {**conf["host"], "vhost": {"mode": "client", "socketfile": "the.sock"}}
    node.run("mkdir", "/run/vhostuser")
    node.bind("/run/vhostuser/the.sock")
    cluster.add(pod, spec={**SPEC, "volumes": [{"name": "shared-dir", "hostPath": {"path": "/run/vhostuser"}}]})
    before = node.snapshot()
    refused = node.call("ADD", conf, pod)
    assert refused.document["code"] == 115
    assert "/run/vhostuser/the.sock is there already" in refused.document["msg"]
    node.delete(conf, pod)
    assert changes(before, node.snapshot()) == []
    node.run("rm", "-r", "/run/vhostuser")


def test_a_socket_that_a_dead_sandbox_left_in_a_host_path_is_no_obstacle(cluster):
    """Its runtime never called DEL; the record shows whose socket it is."""
    node, old = cluster.node, cluster.node.pod()
    other = node.pod()
    new, conf = old.sandbox(other.container_id, other.netns), cluster.conf(socketNaming="interface")
    node.run("mkdir", "/run/vhostuser")
    cluster.add(old, spec={**SPEC, "volumes": [{"name": "shared-dir", "hostPath": {"path": "/run/vhostuser"}}]})
    node.add(conf, old)
    node.bind("/run/vhostuser/net1")
    node.end_sandbox(old)
    node.add(conf, new)
    assert not node.exists("/run/vhostuser/net1")
    node.delete(conf, new)
    node.run("rmdir", "/run/vhostuser")


def test_two_pods_that_share_a_host_path_cannot_have_one_socket_by_whatever_name_they_call_it(cluster):
    node, pods = cluster.node, [cluster.node.pod(), cluster.node.pod()]
    node.run("mkdir", "-p", "/run/vhostuser/app")
    conf = cluster.conf(socketNaming="interface")
    for pod, path in zip(pods, ("/run/vhostuser/app", "/var/run/vhostuser/app"), strict=True):
        cluster.add(pod, spec={**SPEC, "volumes": [{"name": "shared-dir", "hostPath": {"path": path}}]})
    node.add(conf, pods[0])
    assert node.call("ADD", conf, pods[1]).document["code"] == 112
    node.delete(conf, pods[0])
    node.add(conf, pods[1])
    node.delete(conf, pods[1])
    node.run("rm", "-r", "/run/vhostuser")


def test_a_static_pod_is_known_by_the_hash_that_its_mirror_notes(cluster):
    node, pod = cluster.node, cluster.pod
    cluster.add(pod, uid="of-the-mirror", annotations={"kubernetes.io/config.mirror": pod.uid})
    node.add(cluster.conf(), pod)
    assert len(cluster.elements()) == 1
    node.delete(cluster.conf(), pod)
    assert cluster.annotations() == {"kubernetes.io/config.mirror": pod.uid}


def test_without_a_pod_in_cni_args_a_file_is_written_and_required_annotations_are_refused(cluster):
    node, pod, before = cluster.node, cluster.pod, cluster.node.snapshot()
    refused = node.call("ADD", cluster.conf(annotations=True), pod, CNI_ARGS=f"K8S_POD_UID={pod.uid}")
    assert refused.document["code"] == 7
    assert "annotations" in refused.document["msg"]
    node.call("ADD", cluster.conf(), pod, CNI_ARGS=f"K8S_POD_UID={pod.uid}").required()
    assert node.run("ls", pod.volume("shared-dir")).stdout == f"configData-{pod.container_id[:12]}-net1.json\n"
    assert cluster.annotations() == {"theirs": "1"}
    node.delete(cluster.conf(), pod)
    assert changes(before, node.snapshot()) == []


def test_annotations_whose_credentials_are_gone_are_given_up_with_the_pod_and_not_before(cluster, tmp_path):
    node, pod, other = cluster.node, cluster.pod, cluster.node.pod()
    kubeconfig = node.kubeconfig(cluster.api.kubeconfig(tmp_path / "gone"))
    node.add(node.conf(kubeconfig=kubeconfig), pod)
    node.run("rm", kubeconfig)
    for caller in (pod, other):
        node.delete(node.conf(), caller)
        assert len(node.pending()) == 1
    node.run("rm", "-rf", f"/var/lib/kubelet/pods/{pod.uid}")
    node.delete(node.conf(), other)
    assert node.pending() == []
