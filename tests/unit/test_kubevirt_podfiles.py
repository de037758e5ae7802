"""The files of the pod that the sidecar waits for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cni.errors import InvalidConfig, TryAgainLater
from kubevirt import machine as machines
from kubevirt.facts import Fact
from kubevirt.podfiles import PodFiles
from kubevirt.port import Sight
from tests.kubevirt_hooks.domains import BINDING, bound, machine, network
from tests.recording_log import RecordingLog

CLAIM = {"claimName": "dpdk", "requestName": "port/fast"}


class Pod:
    """A pod with its files below a folder, and a sidecar in it that does not wait."""

    def __init__(self, folder: Any, **bounds: float) -> None:
        self.info = folder / "network-info"
        self.metadata = folder / "metadata"
        self.log = RecordingLog()
        bounds = {"call_seconds": 0.0, **bounds}
        self.files = PodFiles(self.log, info=str(self.info), metadata=str(self.metadata), **bounds)  # type: ignore[arg-type]

    def sight(self, vmi: dict[str, Any] | None = None) -> Sight:
        parsed = machines.parse(json.dumps(vmi or machine()).encode())
        return asyncio.run(self.files.sight(parsed, BINDING))

    def put(self, place: str, text: str, driver: str = "d.example.com") -> None:
        path = self.metadata / place / f"{driver}-metadata.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


def device(path: str) -> str:
    attributes = {"vhost-user-path": {"string": path}} if path else {}
    request = {"name": "port/fast", "devices": [{"attributes": attributes}]}
    return json.dumps({"apiVersion": "metadata.resource.k8s.io/v1alpha1", "requests": [request]})


def claimed(**spec: Any) -> dict[str, Any]:
    return machine(bound(), networks=[network(resourceClaim=CLAIM)], **spec)


def test_without_the_downward_api_nothing_is_known_and_nothing_is_awaited(pod):
    assert pod.sight() == Sight(info={}, claims={})


def test_what_kubevirt_wrote_is_known(pod):
    pod.info.write_text('{"interfaces": [{"network": "dataplane", "mtu": 1400}]}')
    assert pod.sight().info == {"dataplane": Fact(mtu=1400)}


def test_what_kubevirt_wrote_of_another_binding_is_not_judged(pod):
    pod.info.write_text('{"interfaces": [{"network": "default", "mtu": 65520}, {"network": "dataplane", "mtu": 1400}]}')
    assert pod.sight().info == {"dataplane": Fact(mtu=1400)}


def test_a_file_that_is_empty_is_awaited_and_then_the_call_is_to_be_repeated(pod):
    pod.info.touch()
    with pytest.raises(TryAgainLater, match="has not yet written"):
        pod.sight()


def test_a_file_that_stays_empty_does_not_block_the_machine_without_end(tmp_path):
    pod = Pod(tmp_path, info_seconds=0.0)
    pod.info.touch()
    assert pod.sight().info == {}
    assert [message for message in pod.log.messages if "still empty: sockets have the interfaces' names" in message]


@pytest.mark.parametrize(
    ("place", "spec"),
    [
        ("resourceclaimtemplates/dpdk/port", {}),
        ("resourceclaims/dpdk/port", {}),
        ("resourceclaims/mine/port", {"resourceClaims": [{"name": "dpdk", "resourceClaimName": "mine"}]}),
        ("resourceclaimtemplates/dpdk/port", {"resourceClaims": [{"name": "dpdk", "resourceClaimTemplateName": "t"}]}),
    ],
)
def test_a_claims_device_is_found_where_kubernetes_puts_it(pod, place, spec):
    pod.put(place, device("/run/v.sock"))
    assert pod.sight(claimed(**spec)).claims == {"dataplane": Fact(path="/run/v.sock")}


def test_a_claim_without_metadata_is_to_be_repeated_and_says_where_they_belong(pod):
    pod.put("resourceclaimtemplates/dpdk/port", "")  # the driver writes it later
    with pytest.raises(TryAgainLater, match="resourceclaimtemplates/dpdk/port"):
        pod.sight(claimed())


PLACE = "resourceclaimtemplates/dpdk/port"


@pytest.mark.parametrize("other", [device(""), "{}", "no JSON"])
def test_another_drivers_metadata_do_not_hide_ours(pod, other):
    pod.put(PLACE, other, "a.example.com")
    pod.put(PLACE, device("/run/v.sock"))
    assert pod.sight(claimed()).claims == {"dataplane": Fact(path="/run/v.sock")}


def test_metadata_without_a_socket_are_refused_when_no_other_file_comes(pod):
    pod.put(PLACE, device(""), "a.example.com")
    with pytest.raises(InvalidConfig, match=r"a\.example\.com-metadata\.json has no device with the attribute"):
        pod.sight(claimed())


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\0"])
def test_a_claims_name_that_leads_elsewhere_is_refused(pod, name):
    vmi = machine(bound(), networks=[network(resourceClaim={**CLAIM, "claimName": name})])
    with pytest.raises(InvalidConfig, match="no name of a claim"):
        pod.sight(vmi)


def test_a_file_without_end_is_refused(pod):
    pod.info.write_text(" " * (2 << 20))
    with pytest.raises(InvalidConfig, match="has more than"):
        pod.sight()
