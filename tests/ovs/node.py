"""A node of the tests for the plugin `userspace`: a mount namespace with its own /run, state and kubelet, pods, and a
real Open vSwitch. The plugin runs there as a fresh process, as a runtime starts it.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.cli.program import SECONDS, Program
from tests.ovs.daemon import LEASH, Daemon

PLUGINS = "/usr/lib/cni"
"""Debian's containernetworking-plugins: host-local, for addresses."""

OWN = ("/etc/barewire", "/run", "/var/lib/cni", "/var/lib/kubelet", "/var/log")
STATE = "/var/lib/cni/barewire"
KUBELET = "/var/lib/kubelet"
_LITTER = (
    "/run/barewire/lock",
    "/run/barewire/ipam",
    "/run/barewire/collected-",
    "/run/multus",
    "/run/netns",
    "/run/openvswitch",
    "/var/lib/cni/networks",
)


class Outcome(NamedTuple):
    """How a call of the plugin ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def required(self) -> Self:
        assert self.code == 0, f"the plugin ended with {self.code}: {self.out}\n{self.err}"
        return self


class Pod(NamedTuple):
    """A pod with a network namespace and volumes on this node."""

    container_id: str
    netns: str
    name: str
    uid: str

    @property
    def args(self) -> str:
        named = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": self.name, "K8S_POD_UID": self.uid}
        return "IgnoreUnknown=1;" + ";".join(f"{key}={value}" for key, value in named.items())

    def sandbox(self, container_id: str, netns: str) -> Pod:
        """Another sandbox of the same pod."""
        return self._replace(container_id=container_id, netns=netns)

    def volume(self, name: str) -> str:
        return f"{KUBELET}/pods/{self.uid}/volumes/kubernetes.io~empty-dir/{name}"


class Node:
    """One node; `daemon` is its Open vSwitch, with the bridges br0 and br1. It sees the node's mounts, or those of the
    tests.

    With `init` the node's processes have their own PID 1, whose mounts containers receive (HostToContainer), as on a
    host. `vswitch_user` is the user ID of ovs-vswitchd.
    """

    def __init__(
        self,
        program: Program,
        *,
        dpdk: bool = True,
        sees_mounts: bool = True,
        init: bool = False,
        vswitch_user: int = 0,
    ) -> None:
        self.program = program
        self._vswitch_user = vswitch_user
        self._init = init
        self._sees_mounts = sees_mounts
        self._dpdk = dpdk
        self._numbers = iter(range(1, 1 << 16))
        self._names: list[str] = []

    def __enter__(self) -> Self:
        mounts = "; ".join(f"mkdir -p {path} && mount -t tmpfs -o mode=0755 tmpfs {path}" for path in OWN)
        script = f"{mounts}; mkdir -p /run/netns /run/lock; echo ready; exec sleep infinity"
        spaces = ["unshare", "-m", "--propagation", "private"]
        if self._init:
            spaces += ["--pid", "--fork", "--kill-child"]
            script = f"mount --make-rshared /; mount -t proc proc /proc; {script}"
        self._holder = subprocess.Popen([*LEASH, *spaces, "sh", "-ec", script], stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        with self._holder.stdout as ready:
            assert ready.readline() == b"ready\n"
        self._pid = child(self._holder.pid) if self._init else str(self._holder.pid)
        self.within = ("nsenter", f"--target={self._pid}", "--mount", *["--pid"] * self._init, "--wdns=/")
        self.root = f"/proc/{self._pid}/root"
        self.daemon = Daemon(dpdk=self._dpdk, within=self.within if self._sees_mounts else (), user=self._vswitch_user)
        self.daemon.__enter__()
        # The default database of configurations that name none, and beside it the pidfile that ovs-vswitchd has locked.
        self.run("mkdir", "/run/openvswitch")
        self.run("mount", "--bind", str(self.daemon.folder), "/run/openvswitch")
        self.add_bridge("br0")
        self.add_bridge("br1")
        return self

    def __exit__(self, *exc: object) -> None:
        self.end_pods()
        self.daemon.__exit__(*exc)
        self._holder.kill()
        self._holder.wait(SECONDS)

    def add_bridge(self, name: str, datapath: str = "netdev") -> None:
        self.daemon.add_bridge(name, datapath)

    @contextmanager
    def administered(self, **conf: object) -> Iterator[None]:
        """Gives the node a node configuration within the context."""
        self.run("sh", "-c", "cat >/etc/barewire/node.json", stdin=json.dumps(conf))
        yield
        self.run("rm", "/etc/barewire/node.json")

    def run(self, *argv: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program in the node's mount namespace."""
        done = subprocess.run(
            [*self.within, *argv], input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
        return done

    @contextmanager
    def running(self, *argv: str) -> Iterator[str]:
        """Runs a program in the node's mount namespace; yields the first line of its output."""
        with subprocess.Popen([*LEASH, *self.within, *argv], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.kill()

    def kubeconfig(self, path: os.PathLike[str]) -> str:
        """Copies a kubeconfig of the tests to a folder where networks of this node may name one."""
        place = f"/run/multus/{os.path.basename(path)}"
        self.run("install", "-D", "-m", "0600", str(path), place)
        return place

    def pod(self, *volumes: str, container_id: str = "", name: str = "") -> Pod:
        """A new pod with these emptyDir volumes."""
        number = next(self._numbers)
        netns = f"bw{os.getpid()}-{number}"
        self.run("ip", "netns", "add", netns)
        self._names.append(netns)
        container = container_id or uuid.uuid4().hex * 2
        pod = Pod(container, f"/run/netns/{netns}", name or f"pod{number}", str(uuid.uuid4()))
        for volume in volumes:
            self.run("mkdir", "-p", "-m", "0777", pod.volume(volume))
        return pod

    def end(self, pod: Pod) -> None:
        """Removes the pod's namespace and folder, as if nothing waited for its DEL."""
        self.end_sandbox(pod)
        self.run("rm", "-rf", f"{KUBELET}/pods/{pod.uid}")

    def end_sandbox(self, pod: Pod) -> None:
        """Removes the namespace. The pod stays."""
        name = pod.netns.rpartition("/")[2]
        self.run("ip", "netns", "del", name)
        self._names.remove(name)

    def end_pods(self) -> None:
        """Does the same for all pods."""
        while self._names:
            self.run("ip", "netns", "del", self._names.pop())
        self.run("rm", "-rf", f"{KUBELET}/pods")

    def conf(self, **settings: Any) -> dict[str, Any]:
        host = {"engine": "ovs-dpdk", "iftype": "vhostuser", "vhost": {"mode": "client"}}
        return {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "userspace",
            "host": host,
            **settings,
        }

    def start(
        self, command: str, conf: dict[str, Any], pod: Pod, ifname: str = "net1", *prefix: str, **variables: str
    ) -> subprocess.Popen[str]:
        """Starts a call and does not wait; `prefix` is put before the program, `variables` into its environment."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": pod.netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": pod.args,
            "CNI_PATH": PLUGINS,
            "PATH": os.environ["PATH"],
            **variables,
        }
        process = subprocess.Popen(
            [*LEASH, *self.within, "env", "-C", str(self.program.directory), *prefix, *self.program.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(conf))
        process.stdin.close()
        process.stdin = None
        return process

    @staticmethod
    def ended(process: subprocess.Popen[str]) -> Outcome:
        """The outcome of a started call."""
        out, err = process.communicate(timeout=SECONDS)
        return Outcome(process.returncode, out, err)

    def call(
        self, command: str, conf: dict[str, Any], pod: Pod, ifname: str = "net1", *prefix: str, **variables: str
    ) -> Outcome:
        return self.ended(self.start(command, conf, pod, ifname, *prefix, **variables))

    def add(self, conf: dict[str, Any], pod: Pod, ifname: str = "net1") -> dict[str, Any]:
        """Returns the result of an ADD that must succeed."""
        return self.call("ADD", conf, pod, ifname).required().document

    def delete(self, conf: dict[str, Any], pod: Pod, ifname: str = "net1") -> Outcome:
        """Makes a DEL that must succeed."""
        return self.call("DEL", conf, pod, ifname).required()

    def files(self) -> dict[str, Any]:
        """Everything below the node's own folders, and its mounts."""
        found: dict[str, Any] = dict(entry for top in OWN for entry in _tree(self.root, top))
        mounts = Path(f"/proc/{self._pid}/mountinfo").read_text().splitlines()
        lines = [line.split() for line in mounts]
        found["mounts"] = sorted([line[3], line[4], line[5]] for line in lines if not line[4].startswith("/run/netns"))
        # Folders that stay for the next pod: those of records, sockets and short folders.
        kept = {STATE, f"{STATE}/net", f"{STATE}/.devices", f"{STATE}/.pending"}
        kept |= {"/run/barewire", "/run/barewire/sockets", "/run/barewire/vhost"}
        kept |= {"/run/k8s.cni.cncf.io", "/run/k8s.cni.cncf.io/devinfo", "/run/k8s.cni.cncf.io/devinfo/cni"}
        return {
            path: what
            for path, what in found.items()
            if path not in kept and not path.startswith(_LITTER) and path != "/run/barewire/lock"
        }

    def snapshot(self) -> dict[str, Any]:
        """The state that a pod's life must not change: files, mounts, and the vswitch's database."""
        return {**self.files(), "ovsdb": self.daemon.dump()}

    def pending(self) -> list[str]:
        """The pending removals."""
        return self.run("ls", f"{STATE}/.pending", check=False).stdout.split()

    def ports(self) -> dict[str, dict[str, Any]]:
        """The interfaces in the database, by name, except those of the bridges."""
        rows = self.daemon.dump()["Interface"].values()
        return {row["name"]: row for row in rows if row["type"] == "dpdkvhostuserclient"}

    def put(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'cat >"$0"', path, stdin=text)

    def bind(self, path: str) -> None:
        """Creates a socket, as a listening application does; the path may be longer than a socket's limit."""
        folder, name = os.path.split(f"{self.root}{path}")
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(f"/proc/self/fd/{fd}/{name}")
        os.close(fd)

    def text(self, path: str) -> str:
        return self.run("cat", path).stdout

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).returncode == 0

    def link_up(self, port: str) -> bool:
        return self.daemon.vsctl("get", "Interface", port, "link_state").strip('"') == "up"


def child(parent: int) -> str:
    """The only child of a process."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nPPid:\t{parent}\n" in status.read_text():
                return status.parent.name
    raise AssertionError(f"process {parent} has no child")


def _tree(root: str, top: str) -> Iterator[tuple[str, list[Any]]]:
    """The files below `top` of a process's root folder: path, and type, owner, contents and extended attributes.

    No program runs in the node's namespace, because the fault matrices read the files about a thousand times.
    """
    for folder, names, files in os.walk(root + top):
        names[:] = [name for name in names if os.path.join(folder, name) != f"{root}/run/netns"]
        for name in names + files:
            path = os.path.join(folder, name)
            look = os.lstat(path)
            kind = stat.filemode(look.st_mode)
            if stat.S_ISREG(look.st_mode):
                what = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
            else:
                what = os.readlink(path) if stat.S_ISLNK(look.st_mode) else ""
            named = os.listxattr(path, follow_symlinks=False)
            more = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in named}
            yield path.removeprefix(root), [kind, look.st_uid, look.st_gid, what, more]


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The differences between two snapshots, one line each."""
    keys = sorted(before.keys() | after.keys())
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]
