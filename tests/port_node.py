"""A node with the plugin `userspace` on fakes of vswitch, mounts, API server, IPAM and network namespaces.

Records, locks and the directories of sockets are real, below one folder; no root is needed.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cni.attachment import device_info
from cni.attachment.record import Key, Record
from cni.attachment.records import Attachments
from cni.errors import SocketDirUnfit
from cni.host.trusted import Roots
from cni.node.node import NodeConf, SocketPolicy
from cni.protocol.request import Request, parse, parse_environment
from cni.protocol.result import Result
from cni.userspace.adapters import Adapters
from cni.userspace.attachment import PLUGIN
from cni.userspace.plan import port_name
from cni.userspace.plugin import UserspacePlugin
from cni.userspace.publish import Publisher
from cni.userspace.removal import PortRemoval
from cni.userspace.sockets import directory as directories, sockets as socket_directories
from cni.userspace.sockets.sockets import Sockets
from tests.fake_mounts import FakeMounts
from tests.fake_pods import FakePods
from tests.fake_vswitch import FakeVswitch
from tests.fakes import FakeIpam, FakeKernel
from tests.recording_log import RecordingLog
from tests.trusting import TOP

KUBECONFIG = "/etc/cni/net.d/kubeconfig"
_KEPT = "state state/net state/other state/.devices state/.pending run run/sockets run/vhost devinfo".split()
"""Folders that stay for the next pod."""


class Pod(NamedTuple):
    """A pod with a network namespace; `name` is also its name in the API server."""

    name: str
    container_id: str
    netns: str
    uid: str
    args: str

    def sandbox(self, netns: str) -> Pod:
        """Another sandbox of the same pod."""
        return self._replace(container_id=_container(netns), netns=netns)


class FakeVisibility:
    """The view of ovs-vswitchd: it sees all mounts, or none if it is `blind`.

    `user` is its user ID if it is not root; it cannot be determined if the daemon is `hidden`.
    """

    def __init__(self) -> None:
        self.blind = False
        self.user: int | None = None
        self.hidden = False

    def require_visible(self, folder: str, _remote: str) -> None:
        if self.blind:
            raise SocketDirUnfit(f"ovs-vswitchd does not see {folder}")

    def restricted_user(self, _remote: str) -> int | None:
        if self.hidden:
            raise SocketDirUnfit("cannot determine the user of ovs-vswitchd")
        return self.user


class PortNode:
    """A node below `folder`, called as a runtime calls it. `silent` are the databases that do not respond."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._place_below(folder, patch)
        for name in ("kubelet", "ovs", "shared", "run"):
            (folder / name).mkdir(parents=True)
        self.kubelet, self.shared, self.vhost = (str(folder / name) for name in ("kubelet", "shared", "run/vhost"))
        self.remote = f"unix:{folder}/ovs/db.sock"
        self.vswitch, self.mounts, self.visibility = FakeVswitch(), FakeMounts(), FakeVisibility()
        for bridge in ("br0", "br1"):
            self.vswitch.add_bridge(bridge, "netdev")
        self.vswitches = {self.remote: self.vswitch}
        self.pods, self.ipam, self.kernel, self.log = FakePods(), FakeIpam(), FakeKernel(), RecordingLog()
        self.strict_status = False

    @staticmethod
    def _place_below(folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Moves the plugin's fixed paths below the folder. The directory of temporary files is writable for all."""
        patch.setattr(Roots, "start", TOP)
        for module in (directories, socket_directories):
            patch.setattr(module, "OWN_DIRECTORIES", str(folder / "run/sockets"))
        patch.setattr(socket_directories, "RUN_DIRECTORY", str(folder / "run"))
        patch.setattr(device_info, "checked", partial(device_info.checked, folders=(str(folder / "devinfo"),)))

    @property
    def conf_of_node(self) -> NodeConf:
        sockets = SocketPolicy(ovsdb=tuple(self.vswitches), roots=(self.shared,), vhost_dir=self.vhost)
        return NodeConf(kubelet_root=self.kubelet, sockets=sockets, strict_status=self.strict_status)

    # Pods.

    def pod(self, name: str = "a", *volumes: str, **spec: Any) -> Pod:
        """A new pod with these emptyDir volumes; `spec` is its specification in the API server."""
        netns, uid = f"/run/netns/{name}", f"uid-of-{name}"
        self.kernel.add_netns(netns)
        for volume in volumes:
            os.makedirs(self.volume(name, volume))
        self.pods.add_pod("default", name, uid, **spec)
        named = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": name, "K8S_POD_UID": uid}
        args = ";".join(f"{key}={value}" for key, value in named.items())
        return Pod(name, _container(netns), netns, uid, args)

    def sandbox(self, pod: Pod, name: str) -> Pod:
        """A new sandbox of the pod."""
        self.kernel.add_netns(f"/run/netns/{name}")
        return pod.sandbox(f"/run/netns/{name}")

    def end_sandbox(self, pod: Pod) -> None:
        """Removes the namespace. The pod stays."""
        self.kernel.delete_netns(pod.netns)

    def volume(self, name: str, volume: str) -> str:
        return f"{self.kubelet}/pods/uid-of-{name}/volumes/kubernetes.io~empty-dir/{volume}"

    def listen(self, folder: str, name: str) -> None:
        """Creates a socket, as the pod's application does."""
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(f"/proc/self/fd/{fd}/{name}")
        os.close(fd)

    # The plugin.

    def attachments(self) -> Attachments:
        state, run = str(self.folder / "state"), str(self.folder / "run")
        return Attachments(state, run, plugin=PLUGIN, lasting_locks=False, warn=self.log.warning)

    def removal(self, attachments: Attachments | None = None) -> PortRemoval:
        sockets = Sockets(self.log, mounts=self.mounts, visibility=self.visibility)
        adapters = Adapters(
            namespaces=self.kernel,
            vswitch=lambda remote, **_how: self.vswitches[remote],
            sockets=sockets,
            publisher=Publisher(sockets, lambda _kubeconfig, _seconds: self.pods, self.log),
        )
        return PortRemoval(
            adapters=adapters,
            attachments=attachments or self.attachments(),
            ipam=self.ipam,
            log=self.log,
            present=self.remote,
        )

    def plugin(self) -> UserspacePlugin:
        attachments = self.attachments()
        removal = self.removal(attachments)
        return UserspacePlugin(
            adapters=removal._adapters,
            attachments=attachments,
            ipam=self.ipam,
            log=self.log,
            removal=removal,
            node=self.conf_of_node,
        )

    def request(self, command: str, pod: Pod, ifname: str = "net1", version: str = "1.1.0", **conf: Any) -> Request:
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": pod.netns,
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": pod.args,
        }
        host = {"engine": "ovs-dpdk", "iftype": "vhostuser", "vhost": {"mode": "client"}, **conf.pop("host", {})}
        config = {
            "cniVersion": version,
            "name": "net",
            "type": "userspace",
            "ovsdb": self.remote,
            "host": host,
            **conf,
        }
        return parse(parse_environment(env), json.dumps(config).encode())

    def add(self, pod: Pod, ifname: str = "net1", **conf: Any) -> Result:
        return self.plugin().add(self.request("ADD", pod, ifname, **conf))

    def delete(self, pod: Pod, ifname: str = "net1", **conf: Any) -> None:
        self.plugin().delete(self.request("DEL", pod, ifname, **conf))

    def check(self, pod: Pod, ifname: str = "net1", **conf: Any) -> None:
        self.plugin().check(self.request("CHECK", pod, ifname, **conf))

    def gc(self, *valid: Pod, **conf: Any) -> None:
        listed = [{"containerID": pod.container_id, "ifname": "net1"} for pod in valid]
        conf = {"cni.dev/valid-attachments": listed, **conf}
        self.plugin().gc(self.request("GC", Pod("", "gc", "", "", ""), **conf))

    def status(self, **conf: Any) -> None:
        self.plugin().status(self.request("STATUS", Pod("", "status", "", "", ""), **conf))

    # The state.

    def record(self, pod: Pod, ifname: str = "net1", network: str = "net") -> Record:
        found = self.attachments().find(key(pod, ifname, network))
        assert found is not None
        return found

    def record_file(self, pod: Pod, ifname: str = "net1") -> Path:
        return self.folder / f"state/net/{pod.container_id}:{ifname}.json"

    def forget_record(self, pod: Pod, ifname: str = "net1") -> None:
        """Loses the record, as with the node's disk."""
        self.record_file(pod, ifname).unlink()
        (self.folder / f"state/.devices/{port(pod, ifname)}").unlink()

    def pending(self) -> list[str]:
        return sorted(record.key.container_id for record in self.attachments().pending())

    def snapshot(self) -> dict[str, Any]:
        """The state that a pod's life must not change."""
        annotations = {name: dict(self.pods.annotations(*name)) for name in self.pods.objects}
        return {
            "files": dict(self._files()),
            "mounts": self.mounts.mounted(),
            "leases": dict(self.ipam.leases),
            "annotations": annotations,
            **{remote: vswitch.snapshot() for remote, vswitch in self.vswitches.items()},
        }

    def _files(self) -> Iterator[tuple[str, Any]]:
        for top, names, files in os.walk(self.folder):
            for name in names + files:
                path = os.path.join(top, name)
                short = os.path.relpath(path, self.folder)
                if short in _KEPT or short.startswith(("run/lock", "run/collected")):
                    continue
                look = os.lstat(path)
                content = Path(path).read_text() if stat.S_ISREG(look.st_mode) else ""
                yield short, (stat.filemode(look.st_mode), look.st_uid, look.st_gid, content)


@contextmanager
def port_node(patch: pytest.MonkeyPatch) -> Iterator[PortNode]:
    """A node whose folder has a short path, as the paths of sockets require."""
    with tempfile.TemporaryDirectory() as folder:
        node = PortNode(Path(folder), patch)
        yield node
        node.mounts.reboot()


def key(pod: Pod, ifname: str = "net1", network: str = "net") -> Key:
    return Key(network=network, container_id=pod.container_id, ifname=ifname)


def port(pod: Pod, ifname: str = "net1") -> str:
    return port_name(key(pod, ifname))


def _container(netns: str) -> str:
    return f"{zlib.crc32(netns.encode()):08x}" * 8
