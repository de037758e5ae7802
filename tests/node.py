"""A node with the `sriov` plugin on a fake kernel and a fake IPAM plugin, with real records and locks on disk."""

from __future__ import annotations

import json
import os

from cni.attachment.records import Attachments
from cni.log import Log
from cni.node.node import DevicePolicy, NodeConf
from cni.protocol.request import parse, parse_environment
from cni.sriov.model import PLUGIN
from cni.sriov.plugin import SriovPlugin
from cni.sriov.removal import DeviceRemoval
from cni.sriov.sriov_cni import SriovCniState
from tests import vf_samples
from tests.fakes import FakeIpam, FakeKernel

VF0, VF1 = "0000:01:10.0", "0000:01:10.2"
EVERYTHING = {
    **vf_samples.everything(),
    "vlan": 100,
    "vlanQoS": 3,
    "max_tx_rate": 500,
    "mtu": 1400,
    "ipam": {"type": "fake"},
}


class Node:
    """A host with the plugin, called as a runtime calls it."""

    def __init__(self, tmp_path) -> None:
        self.state, self.run = str(tmp_path / "state"), str(tmp_path / "run")
        self.former = str(tmp_path / "sriov")
        self.kernel = FakeKernel()
        self.ipam = FakeIpam()
        self.policy = DevicePolicy()
        self.pod("a")
        self.pod("b")
        self.strict_status = False
        self.log = Log({}, level="panic")
        self.before = self.kernel.snapshot()

    def pod(self, name: str) -> str:
        path = f"/run/netns/{name}"
        if path not in self.kernel.namespaces:
            self.kernel.add_netns(path)
        return path

    def plugin(self, **how) -> SriovPlugin:
        attachments, log = Attachments(self.state, self.run, plugin=PLUGIN, **how), self.log
        return SriovPlugin(
            kernel=self.kernel,
            attachments=attachments,
            ipam=self.ipam,
            log=log,
            removal=DeviceRemoval(
                kernel=self.kernel, attachments=attachments, ipam=self.ipam, log=log, rebind=self.policy.rebind
            ),
            sriov_cni=SriovCniState(self.kernel, attachments, log, self.former),
            node=NodeConf(devices=self.policy, strict_status=self.strict_status),
        )

    def request(self, command, container="a", device=VF0, ifname="net1", netns=None, version="1.0.0", args="", **conf):
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}" if netns is None else netns,
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
        }
        config = {"cniVersion": version, "name": "net", "type": "sriov", "deviceID": device, **conf}
        return parse(parse_environment(env), json.dumps(config).encode())

    def add(self, container="a", device=VF0, **kwargs):
        return self.plugin().add(self.request("ADD", container, device, **kwargs))

    def delete(self, container="a", device=VF0, **kwargs):
        self.plugin().delete(self.request("DEL", container, device, **kwargs))

    def files(self) -> list[str]:
        """The records, their links and their backups."""
        folders = (self.state, f"{self.run}/spare")
        return [os.path.join(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names]

    def marks(self) -> list[str]:
        """The devices that are recorded as marked."""
        folder = f"{self.run}/marks"
        return os.listdir(folder) if os.path.isdir(folder) else []

    def assert_as_before(self) -> None:
        assert self.kernel.snapshot() == self.before
        assert self.files() == []
        assert self.marks() == []
        assert self.ipam.leases == {}
