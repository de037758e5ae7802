"""A host of the tests' own, in private mount and network namespaces, with files that belong to other programs.

The plugins and commands run in this process, with their usual paths. Fakes replace the kernel's devices, the vswitch,
and the responses of clusters' servers, which a test cannot provide.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cni.host import mounts
from cni.host.netns import CLONE_NEWNET
from cni.serve import serve
from cni.userspace import __main__ as userspace
from cni.userspace.vswitch.model import external_ids
from ipam import __main__ as ipam
from tests.fakes import FakeKernel
from tests.tree import differences, tree
from tests.watch import Watch

FOLDERS = ("/etc", "/run", "/var/lib", "/root", "/opt")
CONTAINER = "0123456789abcdef" * 4
POD_UID = "8a4e3c52-0000-4000-8000-000000000001"
EMPTY_DIR = f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~empty-dir/shared-dir"
OURS = (
    "/var/lib/cni/barewire", "/var/lib/cni/networks", "/run/barewire", EMPTY_DIR,
    "/var/lib/cni/results", "/var/lib/cni/sriov", "/run/vhostuser",
)  # fmt: skip
"""The directories in which we may change anything, and the pod's volume. They exist from the start, so that their
parent does not change.
"""

KUBECONFIG = "/etc/cni/net.d/whereabouts.d/whereabouts.kubeconfig"
NETNS = "/run/netns/pod"
VF = "0000:01:10.0"
MACHINE = "0123456789abcdef0123456789abcdef"
SECRETS = (
    "/etc/shadow", "/etc/sudoers.d/README", "/etc/kubernetes/admin.conf", "/root/.ssh/authorized_keys",
    "/var/lib/rancher/token", "/opt/cni/bin/bridge", "/run/containerd/state.json",
    "/var/lib/kubelet/config.yaml", f"/opt/kubelet/pods/{POD_UID}/volumes/kubernetes.io~empty-dir/shared-dir/s",
)  # fmt: skip
SOCKETS = ("/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/crio/crio.sock")
FIFO, DEVICE = "/etc/fifo", "/etc/device"
_KUBECONFIG = """\
{"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {"token": "t"}}],
 "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority-data": "e30="}}],
 "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
"""
VICTIMS = (*SECRETS, *SOCKETS, FIFO, DEVICE)


class Host:
    """A host that is created once; `unharmed` reports changes since then to what is not ours."""

    def __init__(self) -> None:
        _furnish()
        self.listeners = [_listener(path) for path in SOCKETS]
        self.kernel = FakeKernel()
        self.kernel.add_netns(NETNS)
        places = [folder for top in FOLDERS for folder, _, _ in os.walk(top) if not _is_ours(folder)]
        self._watch = Watch(places)
        self._before = _others()

    def clear(self) -> None:
        """Removes what calls have left in our folders, and devices and ports."""
        for folder in OURS:
            _unmount_below(folder)
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        self.kernel = FakeKernel()
        self.kernel.add_netns(NETNS)

    def put(self, path: str, content: bytes) -> None:
        """Writes a file of another program, which no call may touch from then on."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)

    def unharmed(self) -> list[str]:
        """Differences: what was created, changed, removed or connected to, although it belongs to others; empty if
        nothing.
        """
        found = self._watch.events() + differences(self._before, _others())
        for path, listener in zip(SOCKETS, self.listeners, strict=True):
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                continue
            found.append(f"somebody connected to {path}")
        return found

    def call(self, plugin: str, command: str, conf: dict[str, Any], **env: str) -> dict[str, Any]:
        """Makes one call as a runtime does. Returns the error object, or the result; empty without one."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": NETNS,
            "CNI_IFNAME": "net1",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;K8S_POD_UID={POD_UID}",
            **env,
        }
        said: list[bytes] = []
        text = json.dumps(conf).encode()
        serve(plugin, self._load(plugin), environment, lambda _seconds: text, said.append, lambda _text: None)
        told = json.loads(said[0]) if said and said[0] else {}
        return told if isinstance(told, dict) else {}

    def _load(self, plugin: str) -> Callable[..., Any]:
        from cni.sriov import __main__ as sriov

        loads: dict[str, Callable[..., Any]] = {
            "userspace": userspace.load,
            "sriov": lambda request: sriov.load(request, lambda _log: self.kernel),
            "barewire-ipam": ipam.load,
        }
        return loads[plugin]


def port_rows(name: str, names: dict[str, str], path: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of one of our ports, by table, as OVSDB returns them."""
    from cni.userspace.vswitch.model import Owner

    mark = ["map", [list(pair) for pair in external_ids(Owner(**names), path).items()]]
    one, empty = ["uuid", "11111111-1111-1111-1111-111111111111"], ["set", []]
    return {
        "Port": [
            {
                "_uuid": one, "name": name, "vlan_mode": empty, "tag": empty, "trunks": empty, "qos": empty,
                "external_ids": mark,
            }
        ],
        "Interface": [
            {
                "name": name, "type": "dpdkvhostuserclient", "options": ["map", [["vhost-server-path", path]]],
                "other_config": ["map", []], "mtu_request": empty, "ingress_policing_rate": 0,
                "ingress_policing_burst": 0, "ofport": 1, "error": empty, "link_state": empty, "mtu": empty,
            }
        ],
        "Bridge": [{"_uuid": one, "name": "br0", "ports": one, "datapath_type": "netdev"}],
        "QoS": [],
        "Open_vSwitch": [{"next_cfg": 1, "iface_types": ["set", ["dpdkvhostuserclient"]]}],
    }  # fmt: skip


def _furnish() -> None:
    mounts.call("unshare", CLONE_NEWNET)  # no host can be reached
    for folder in FOLDERS:
        kept = {name: Path(folder, name).read_bytes() for name in ("passwd", "group") if Path(folder, name).exists()}
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
        for name, content in kept.items():
            Path(folder, name).write_bytes(content)
    for path in SECRETS:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("secret\n")
        Path(path).chmod(0o600)
    for folder in (*OURS, "/run/openvswitch", "/run/netns", "/etc/barewire"):
        Path(folder).mkdir(parents=True, mode=0o700)
    Path(KUBECONFIG).parent.mkdir(parents=True)
    Path(KUBECONFIG).write_text(_KUBECONFIG)
    Path("/etc/machine-id").write_text(f"{MACHINE}\n")
    os.mkfifo(FIFO)
    os.mknod(DEVICE, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chmod("/run/barewire", 0o711)
    subprocess.run(["ip", "netns", "add", "pod"], check=True)


def _listener(path: str) -> socket.socket:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    return listener


def _is_ours(path: str) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in OURS)


def _others() -> dict[str, str]:
    """The state of everything that is not ours. Of the pod's volume it includes the content, because we may only create
    a socket's directory there.
    """
    return {
        f"{top}/{path}": what
        for top in FOLDERS
        for path, what in tree(top).items()
        if not _is_ours(os.path.normpath(f"{top}/{path}"))
    }


def _unmount_below(folder: str) -> None:
    for top, folders, _names in os.walk(folder):
        for name in folders:
            path = os.path.join(top, name)
            if os.path.ismount(path):
                mounts.unmount(path)
