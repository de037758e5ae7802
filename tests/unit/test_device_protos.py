"""The modules of the kubelet's and KubeVirt's protocols are up to date with `make protos`, and agree with a kubelet."""

from __future__ import annotations

import protos

from deviceplugin.api import deviceplugin_pb2 as v1beta1, podresources_pb2 as v1


def test_the_modules_are_those_that_protoc_makes_of_the_descriptions(tmp_path):
    protos.make(tmp_path)
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 14
    for path in made:
        assert path.read_bytes() == (protos.ROOT / path.relative_to(tmp_path)).read_bytes(), "run make protos"


def test_messages_have_the_bytes_that_a_kubelet_sends_and_expects():
    register = v1beta1.RegisterRequest(version="v1beta1", endpoint="a.sock", resource_name="a.b/c")
    register.options.pre_start_required = True
    assert register.SerializeToString() == b"\x0a\x07v1beta1\x12\x06a.sock\x1a\x05a.b/c\x22\x02\x08\x01"
    device = v1beta1.Device(ID="x", health="Healthy", topology=v1beta1.TopologyInfo(nodes=[v1beta1.NUMANode(ID=1)]))
    listed = v1beta1.ListAndWatchResponse(devices=[device])
    assert listed.SerializeToString() == b"\x0a\x12\x0a\x01x\x12\x07Healthy\x1a\x04\x0a\x02\x08\x01"
    # A container's CPUs (field 3) and the topology of its devices (field 3) are unknown to us, which is not an error.
    pods = b"\x0a\x1c\x0a\x01p\x12\x01n\x1a\x14\x0a\x01c\x12\x0c\x0a\x05a.b/c\x12\x01d\x1a\x00\x1a\x01\x05"
    found = v1.ListPodResourcesResponse.FromString(pods)
    assert found.pod_resources[0].containers[0].devices[0].device_ids == ["d"]
