"""A kubelet polls STATUS of networks that can serve no ADD, every 5 s for a minute: no error, no remote request."""

from __future__ import annotations

import base64
import importlib
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cni.userspace.vswitch import ovs
from tests.alone import alone
from tests.contract.hostile_host import CONTAINER, KUBECONFIG, Host
from tests.fake_vswitch import FakeVswitch
from tests.kube.authority import certificates

POLLS = 60 // 5
FULL: dict[str, Any] = {"subnet": "10.9.0.0/30"}
ETCD: dict[str, Any] = {**FULL, "backend": "etcd", "etcd": {"endpoints": ["http://127.0.0.1:2379"]}}
KUBERNETES: dict[str, Any] = {**FULL, "backend": "kubernetes", "kubernetes": {"kubeconfig": KUBECONFIG}}
CONFS: dict[str, dict[str, Any]] = {
    "barewire-ipam": {},
    "sriov": {"deviceID": "0000:01:10.0"},
    "userspace": {"host": {"engine": "ovs-dpdk"}},
}


@pytest.fixture
def _vswitch(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeVswitch()
    fake.add_bridge("br0", "netdev")
    monkeypatch.setattr(ovs, "OvsDpdk", lambda _remote, **_how: fake)
    monkeypatch.setattr("cni.userspace.sockets.visibility.require_visible", lambda _folder, _remote: None)
    # Modules that are imported late are in folders that the host of the tests hides.
    for name in ("ipam.etcd.cluster", "ipam.kubernetes.cluster", "cni.kube.config", "yaml"):
        importlib.import_module(name)
    for name in ("ipam.cluster.store.SECONDS", "ipam.stores.SECONDS"):
        monkeypatch.setattr(name, 0.2)


class Silent:
    """A server that accepts connections, never responds, and counts the connections."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._listener.setblocking(False)

    def connections(self) -> int:
        count = 0
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def conf(plugin: str, section: dict[str, Any]) -> dict[str, Any]:
    ipam = {"type": "barewire-ipam", **section}
    return {"cniVersion": "1.1.0", "name": "net", "type": plugin, **CONFS[plugin], "ipam": ipam}


@alone
@pytest.mark.usefixtures("_vswitch")
def test_status_of_a_full_range_and_of_dead_servers_is_never_an_error_and_sends_no_request() -> None:
    authority = base64.b64encode(certificates().authority.certificate.read_bytes())
    host = Host()
    host.put(KUBECONFIG, Path(KUBECONFIG).read_bytes().replace(b"e30=", authority))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    servers = [Silent(2379), Silent(6443)]
    assert "code" not in host.call("barewire-ipam", "ADD", conf("barewire-ipam", FULL), CNI_CONTAINERID="f" * 64)
    for plugin in CONFS:
        assert host.call(plugin, "ADD", conf(plugin, FULL))["code"] == 116, "the range is not full"
    for _ in range(POLLS):
        for plugin in CONFS:
            for section in (FULL, ETCD, KUBERNETES):
                told = host.call(
                    plugin, "STATUS", conf(plugin, section), CNI_CONTAINERID="", CNI_NETNS="", CNI_IFNAME=""
                )
                assert told == {}, (plugin, section)
    assert [server.connections() for server in servers] == [0, 0]
    # An ADD does send requests, so the servers would have counted those of STATUS.
    for section in (ETCD, KUBERNETES):
        asking = {**conf("barewire-ipam", section), "name": "other"}
        told = host.call("barewire-ipam", "ADD", asking, CNI_CONTAINERID=CONTAINER)
        assert told["code"] == 11, told
    assert all(server.connections() for server in servers)
