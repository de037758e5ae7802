"""Hostile values for every text that is read from other parties, and for every path that a configuration names.

After each value the host is compared with its state before: nothing outside our folders is created, opened for writing,
renamed, removed, given another owner or mode, or connected to, and no device or FIFO is opened.
"""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from cni.errors import InternalError
from cni.tool import __main__ as barewire
from cni.userspace.vswitch import ovs
from cni.userspace.vswitch.remote import REMOTE
from ipam.command.main import Host as CommandHost, command
from tests.alone import alone
from tests.contract.hostile_host import (
    CONTAINER,
    DEVICE,
    FIFO,
    KUBECONFIG,
    MACHINE,
    NETNS,
    POD_UID,
    SECRETS,
    SOCKETS,
    VF,
    VICTIMS,
    Host,
    port_rows,
)
from tests.fake_vswitch import FakeVswitch
from tests.hostile import ODD, WRONG, climbing

WHOLE = bool(os.environ.get("BAREWIRE_MATRIX"))
EXAMPLES, EXAMPLES_OF_A_KEY = (200, 50) if WHOLE else (15, 4)
"""The numbers of examples of each kind of source and of each key, in addition to those of NAMED."""

NAMES = tuple(name for victim in VICTIMS for name in climbing(victim)) + ODD
TEXTS = st.sampled_from(NAMES) | st.text(max_size=20)
VALUES = TEXTS | st.sampled_from(WRONG)
CONF_FILE = "/run/barewire/conf.json"
STATE = "/var/lib/cni/barewire"
PORT = f"{CONTAINER[:12]}-net1"
KEY = {"network": "net", "container_id": CONTAINER, "ifname": "net1"}

USERSPACE: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "net", "type": "userspace",
    "host": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge", "vhost": {"mode": "client", "socketfile": "s"}},
    "container": {"engine": "ovs-dpdk", "iftype": "vhostuser", "vhost": {"mode": "server"}},
    "ipam": {"type": "barewire-ipam", "subnet": "10.9.0.0/24"},
}  # fmt: skip
SRIOV: dict[str, Any] = {
    "cniVersion": "1.1.0", "name": "net", "type": "sriov", "deviceID": VF,
    "ipam": {"type": "barewire-ipam", "subnet": "10.9.0.0/24"},
}  # fmt: skip
ETCD: dict[str, Any] = {"backend": "etcd", "subnet": "10.9.0.0/24", "etcd": {"endpoints": ["http://127.0.0.1:2379"]}}
KUBERNETES: dict[str, Any] = {
    "backend": "kubernetes",
    "subnet": "10.9.0.0/24",
    "kubernetes": {"kubeconfig": KUBECONFIG},
}
LOCAL: dict[str, Any] = {"subnet": "10.9.0.0/24"}


ONE_NAME = st.sampled_from(sorted(KEY)).flatmap(lambda name: st.fixed_dictionaries({name: TEXTS}))


def written(conf: dict[str, Any]) -> str:
    """Writes the configuration to a file, and returns its path."""
    path = Path(CONF_FILE)
    path.write_text(json.dumps(conf))
    return str(path)


def ipam(section: dict[str, Any]) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", "type": "other", "ipam": {"type": "barewire-ipam", **section}}


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The positions of all values, including objects and lists."""
    if path:
        yield path
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in entries:
        yield from leaves(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: object) -> Any:
    found = copy.deepcopy(document)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni.userspace.sockets.visibility.require_visible", lambda _folder, _remote: None)
    # The machine that runs the tests has processes, whose addresses are irrelevant here.
    monkeypatch.setattr("ipam.command.sandboxes._namespaces", lambda: iter(()))
    # Failed requests are repeated until the time limit.
    for name in ("ipam.cluster.store.SECONDS", "ipam.stores.SECONDS", "cni.userspace.vswitch.ovs.SECONDS"):
        monkeypatch.setattr(name, 0.2)
    monkeypatch.setattr("cni.userspace.vswitch.ovs.APPLIED_SECONDS", 0.0)


@pytest.fixture
def vswitch(monkeypatch: pytest.MonkeyPatch) -> FakeVswitch:
    """The vswitch of the usual database; for another database it is the real engine, which connects to it."""
    fake, real = FakeVswitch(), ovs.OvsDpdk

    def of(remote: str, **how: float) -> object:
        return fake if remote == REMOTE else real(remote, **how)

    for place in ("cni.userspace.vswitch.ovs.OvsDpdk", "cni.tool.wiring.OvsDpdk"):
        monkeypatch.setattr(place, of)
    fake.add_bridge("br0", "netdev")
    return fake


def servers_say(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str], object]) -> None:
    """Makes etcd's members and API servers respond to (method, path) with that document."""

    def ask(_self: object, method: str, path: str, *_how: object) -> tuple[int, bytes]:
        return (200, json.dumps(answer(method, path)).encode())

    monkeypatch.setattr("cni.kube.connection.Connection.ask", ask)


def etcd_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes etcd's members empty, and every transaction succeed with a response to each of its steps."""

    def ask(
        _self: object, _method: str, path: str, body: bytes | str | None = None, *_how: object
    ) -> tuple[int, bytes]:
        steps = json.loads(body or "{}")["success"] if path == "/v3/kv/txn" else []
        return (200, json.dumps({"succeeded": True, "responses": [{} for _ in steps], "ID": "1"}).encode())

    monkeypatch.setattr("cni.kube.connection.Connection.ask", ask)


def calls(
    host: Host, plugin: str, conf: dict[str, Any], commands: str = "CHECK GC DEL ADD CHECK DEL STATUS", **env: str
) -> list[dict[str, Any]]:
    """The output of each command, called as a runtime does. It must not be an internal error."""
    answers = []
    for name in commands.split():
        more: dict[str, Any] = {"cni.dev/valid-attachments": []} if name == "GC" else {}
        answers.append(host.call(plugin, name, {**conf, **more}, **env))
        assert answers[-1].get("code") != InternalError.code, answers[-1]
    return answers


def command_lines(*networks: str) -> None:
    """Runs the operator's commands, including all that change something."""
    fast = ["--seconds", "0.2", *networks]
    assert command(["list", *fast], CommandHost()) in (0, 1, 2)
    assert command(["show", CONTAINER, *fast], CommandHost()) in (0, 1, 2)
    assert command(["fsck", "--repair", "--older-than", "0", *fast], CommandHost()) in (0, 1, 2)
    for address in ("10.9.0.2", "10.9.0.5"):
        assert command(["release", address, "--force", "--yes", *fast], CommandHost()) in (0, 1, 2)
    assert barewire.main(["gc", "--apply"]) in (0, 1)


def hold(host: Host, body: Callable[[st.DataObject], object], examples: int = EXAMPLES) -> None:
    """Runs the body with hostile values, and compares the host after each of them."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def example(data: st.DataObject) -> None:
        host.clear()
        body(data)
        assert host.unharmed() == []

    example()


# Clusters


LEASE = {
    "container": CONTAINER, "ifname": "net1", "machine": MACHINE, "node": os.uname().nodename, "network": "net",
    "pod": "default/pod", "uid": POD_UID,
}  # fmt: skip


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode(errors="replace")).decode()


def etcd_answer(lease: object, key: object = "/barewire/ipam/net/ip/40a090005") -> dict[str, Any]:
    """The responses of etcd's gateway to any request."""
    entry = {"key": in_base64(str(key)), "value": in_base64(json.dumps(lease)), "mod_revision": "7", "lease": "1"}
    ranges = [{"response_range": {"kvs": [entry], "count": "1"}} for _ in range(16)]
    return {"kvs": [entry], "count": "1", "responses": ranges, "succeeded": True, "ID": "1", "TTL": "900"}


@alone
def test_whatever_is_in_etcd_nothing_of_others_is_touched(monkeypatch, vswitch):
    host, said = Host(), [etcd_answer(LEASE)]
    servers_say(monkeypatch, lambda _method, _path: said[0])

    def body(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            lease: dict[str, Any] = LEASE
            for name in data.draw(st.lists(st.sampled_from(sorted(LEASE)), min_size=1, max_size=2)):
                lease = {**lease, name: data.draw(VALUES)}
            said[0] = etcd_answer(lease, data.draw(st.just("/barewire/ipam/net/ip/40a090005") | TEXTS))
        else:
            answer = etcd_answer(LEASE)
            said[0] = changed(answer, data.draw(st.sampled_from(list(leaves(answer)))), data.draw(VALUES))
        calls(host, "barewire-ipam", ipam(ETCD))
        command_lines("--config", written(ipam(ETCD)))

    hold(host, body)


POOL = {
    "apiVersion": "whereabouts.cni.cncf.io/v1alpha1", "kind": "IPPool",
    "metadata": {"name": "10.9.0.0-24", "uid": POD_UID, "resourceVersion": "5"},
    "spec": {
        "range": "10.9.0.0/24", "allocations": {"5": {"id": CONTAINER, "podref": "default/pod", "ifname": "net1"}},
        "containerid": CONTAINER, "podref": "default/pod", "ifname": "net1", "nodeName": "node",
    },
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}  # fmt: skip


@alone
def test_whatever_an_api_server_says_of_addresses_nothing_of_others_is_touched(monkeypatch, vswitch):
    host, said = Host(), [POOL]
    servers_say(monkeypatch, lambda _method, _path: said[0])

    def body(data: st.DataObject) -> None:
        said[0] = changed(POOL, data.draw(st.sampled_from(list(leaves(POOL)))), data.draw(VALUES))
        calls(host, "barewire-ipam", ipam(KUBERNETES))
        command_lines("--config", written(ipam(KUBERNETES)))

    hold(host, body)


POD = {
    "metadata": {
        "name": "pod", "namespace": "default", "uid": POD_UID, "resourceVersion": "5",
        "annotations": {"userspace/mapped-dir": "/x/", "userspace/configuration-data": '[{"containerId": "a", "ifName": "b"}]'},
    },
    "spec": {
        "volumes": [{"name": "shared-dir", "hostPath": {"path": "/run/vhostuser/shared"}}, {"name": "other", "emptyDir": {}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "shared-dir", "mountPath": "/x", "subPath": ""}]}],
    },
}  # fmt: skip


@alone
def test_whatever_an_api_server_says_of_a_pod_nothing_of_others_is_touched(monkeypatch, vswitch):
    host, said = Host(), [POD]
    servers_say(monkeypatch, lambda _method, _path: said[0])
    conf = {**USERSPACE, "kubeconfig": KUBECONFIG}

    def body(data: st.DataObject) -> None:
        said[0] = changed(POD, data.draw(st.sampled_from(list(leaves(POD)))), data.draw(VALUES))
        # Without the UID in CNI_ARGS, it is read from the pod's object.
        args = data.draw(st.sampled_from(["", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod"]))
        for name in ("ADD", "CHECK", "DEL"):
            assert host.call("userspace", name, conf, **({"CNI_ARGS": args} if args else {})).get("code") != 999
        vswitch.ports.clear()

    hold(host, body)


# The vswitch's database


@alone
def test_whatever_rows_an_ovsdb_has_nothing_of_others_is_touched(monkeypatch):
    host = Host()
    good = port_rows(PORT, KEY, f"/run/barewire/vhost/{PORT}/s")
    said = [good]

    def transact(_self: object, operations: list[dict[str, Any]], _deadline: float) -> list[dict[str, Any]]:
        return [
            {"rows": said[0].get(one["table"], [])} if one["op"] == "select" else {"count": 1} for one in operations
        ]

    monkeypatch.setattr("cni.userspace.vswitch.ovsdb.Database.transact", transact)
    monkeypatch.setattr("cni.userspace.vswitch.ovsdb.Database._connect", lambda *_how: None)

    def body(data: st.DataObject) -> None:
        rows = good
        if data.draw(st.booleans()):
            rows = port_rows(data.draw(TEXTS), {**KEY, **data.draw(ONE_NAME)}, data.draw(TEXTS))
        else:
            rows = changed(good, data.draw(st.sampled_from(list(leaves(good)))), data.draw(VALUES))
        said[0] = rows
        calls(host, "userspace", USERSPACE)
        command_lines()

    hold(host, body)


# Files on the node


def files_after_add(host: Host, plugin: str, conf: dict[str, Any]) -> dict[str, bytes]:
    """The files that an ADD leaves in our folders, without links and mounts."""
    told = host.call(plugin, "ADD", conf)
    assert "code" not in told, told
    tops = (STATE, "/var/lib/cni/networks", "/run/barewire")
    paths = [os.path.join(top, name) for where in tops for top, _folders, names in os.walk(where) for name in names]
    found = {path: Path(path).read_bytes() for path in paths if os.path.isfile(path) and not os.path.islink(path)}
    host.call(plugin, "DEL", conf)
    return found


@alone
@pytest.mark.parametrize(("plugin", "conf"), [("userspace", USERSPACE), ("sriov", SRIOV)])
def test_whatever_a_record_says_nothing_of_others_is_touched(plugin, conf, vswitch):
    host = Host()
    path = f"{STATE}/net/{CONTAINER}:net1.json"
    record = json.loads(files_after_add(host, plugin, conf)[path])

    def body(data: st.DataObject) -> None:
        place = data.draw(st.sampled_from([one for one in leaves(record) if one[-1] not in ("made", "absent")]))
        host.call(plugin, "ADD", conf)
        Path(path).write_text(json.dumps(changed(record, place, data.draw(VALUES))))
        calls(host, plugin, conf, data.draw(st.sampled_from(["GC", "DEL", "CHECK DEL", "ADD", "STATUS"])))
        command_lines()
        vswitch.ports.clear()

    hold(host, body)


@alone
def test_whatever_the_journal_says_nothing_of_others_is_touched(monkeypatch, vswitch):
    host = Host()
    etcd_does_all(monkeypatch)
    name = f"{STATE}/.ipam/net/{CONTAINER}:net1.json"
    entry = json.loads(files_after_add(host, "barewire-ipam", ipam(ETCD))[name].splitlines()[-1])

    def body(data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(list(leaves(entry))))
        host.call("barewire-ipam", "ADD", ipam(ETCD))
        Path(name).write_text(json.dumps(changed(entry, place, data.draw(VALUES))) + "\n")
        calls(
            host, "barewire-ipam", ipam(ETCD), data.draw(st.sampled_from(["GC", "DEL", "CHECK DEL", "ADD", "STATUS"]))
        )
        command_lines("--config", written(ipam(ETCD)))

    hold(host, body)


FOLDERS = (
    f"{STATE}/net", f"{STATE}/.devices", f"{STATE}/.pending", f"{STATE}/.ipam/net", f"{STATE}/.ipam/.tombstones",
    "/run/barewire/spare", "/run/barewire/sockets", "/run/barewire/vhost", "/var/lib/cni/networks/net", STATE, f"{STATE}/.ipam",
    "/var/lib/cni/networks", "/run/barewire/lock",
)  # fmt: skip
FILE_NAMES = TEXTS.map(lambda text: text.replace("/", "").replace("\0", "")[:60].encode(errors="replace").decode())


@alone
def test_whatever_is_called_whatever_in_our_folders_nothing_of_others_is_touched(monkeypatch, vswitch):
    host = Host()
    etcd_does_all(monkeypatch)
    record = next(
        content for path, content in files_after_add(host, "userspace", USERSPACE).items() if "net1.json" in path
    )
    kinds: dict[str, Callable[[str, str], object]] = {
        "file": lambda path, _victim: Path(path).write_bytes(record),
        "garbage": lambda path, victim: Path(path).write_text(f"{victim}\r\nnet1"),
        "link": lambda path, victim: os.symlink(victim, path),
        "climbing link": lambda path, victim: os.symlink(f"../../../../..{victim}", path),
        "directory": lambda path, _victim: os.mkdir(path),
    }

    def body(data: st.DataObject) -> None:
        for _ in range(3):
            folder, kind = data.draw(st.sampled_from(FOLDERS)), data.draw(st.sampled_from(sorted(kinds)))
            end = data.draw(
                st.sampled_from(["", ".json", f"net:{CONTAINER}:net1", f"{CONTAINER}:net1.json", PORT, "10.9.0.5"])
            )
            name = f"{data.draw(FILE_NAMES)}{end}" if data.draw(st.booleans()) else end
            path = f"{folder}/{name}"
            if name not in ("", ".", "..") and not os.path.lexists(path):
                os.makedirs(folder, mode=0o700, exist_ok=True)
                kinds[kind](path, data.draw(st.sampled_from(VICTIMS)))
        calls(host, "userspace", USERSPACE)
        calls(host, "sriov", SRIOV, "GC ADD DEL")
        calls(host, "barewire-ipam", ipam(ETCD), "GC DEL")
        command_lines()
        vswitch.ports.clear()

    hold(host, body)


@alone
def test_whatever_host_local_s_files_say_nothing_of_others_is_touched(vswitch):
    host = Host()

    def body(data: st.DataObject) -> None:
        folder = Path("/var/lib/cni/networks/net")
        folder.mkdir(mode=0o755, exist_ok=True)
        text = f"{data.draw(TEXTS)}\r\n{data.draw(TEXTS)}".encode(errors="replace")
        (folder / "10.9.0.5").write_bytes(text)
        (folder / "last_reserved_ip.0").write_bytes(data.draw(TEXTS).encode(errors="replace"))
        calls(host, "barewire-ipam", ipam(LOCAL))
        command_lines()

    hold(host, body)


RESULT = {
    "kind": "cniCacheV1", "containerId": CONTAINER, "ifName": "net1", "networkName": "net", "netns": NETNS,
    "result": {"interfaces": [{"name": "net1", "sandbox": NETNS}], "ips": []},
}  # fmt: skip
FORMER = {
    "deviceID": VF, "vlan": 5, "mac": "02:00:00:00:00:01", "name": "net",
    "OrigVfState": {"HostIFName": "enp1s0v0", "AdminMAC": "02:00:00:00:00:02", "EffectiveMAC": "", "Vlan": 0, "MTU": 1500},
}  # fmt: skip


@alone
def test_whatever_other_programs_left_nothing_of_others_is_touched(vswitch):
    """Results cached by libcni, and sriov-cni's records of attachments."""
    host = Host()

    def body(data: st.DataObject) -> None:
        result = changed(RESULT, data.draw(st.sampled_from(list(leaves(RESULT)))), data.draw(VALUES))
        former = changed(FORMER, data.draw(st.sampled_from(list(leaves(FORMER)))), data.draw(VALUES))
        host.put(f"/var/lib/cni/results/net-{CONTAINER}-net1", json.dumps(result).encode())
        host.put(f"/var/lib/cni/sriov/{CONTAINER}-net1", json.dumps(former).encode())
        host.put(f"/var/lib/cni/sriov/pci/{VF}", data.draw(TEXTS).encode(errors="replace"))
        calls(host, "sriov", SRIOV, data.draw(st.sampled_from(["DEL", "ADD DEL", "GC"])))
        calls(host, "barewire-ipam", ipam(LOCAL), "ADD")
        command_lines()

    hold(host, body)


# Paths in configurations


PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "userspace.sharedDir": ("userspace", {}),
    "userspace.vhostDir": ("userspace", {}),
    "userspace.kubeletRoot": ("userspace", {"kubeletRoot": "/var/lib/kubelet"}),
    "userspace.kubeconfig": ("userspace", {"kubeconfig": KUBECONFIG}),
    "userspace.containerDir": ("userspace", {"containerDir": "/x"}),
    "userspace.volume": ("userspace", {"volume": "shared-dir"}),
    "userspace.ovsdb": ("userspace", {"ovsdb": REMOTE}),
    "userspace.host.vhost.socketfile": ("userspace", {}),
    "userspace.host.bridge.bridgeName": ("userspace", {"createBridge": True, "host": {**USERSPACE["host"], "bridge": {}}}),
    "userspace.runtimeConfig.CNIDeviceInfoFile": ("userspace", {"runtimeConfig": {}}),
    "userspace.logFile": ("userspace", {}),
    "userspace.name": ("userspace", {}),
    "sriov.runtimeConfig.CNIDeviceInfoFile": ("sriov", {"runtimeConfig": {}}),
    "sriov.logFile": ("sriov", {}),
    "sriov.deviceID": ("sriov", {}),
    "sriov.master": ("sriov", {"deviceID": None}),
    "sriov.driver": ("sriov", {}),
    "sriov.name": ("sriov", {}),
    "barewire-ipam.ipam.dataDir": ("barewire-ipam", ipam(LOCAL)),
    "barewire-ipam.ipam.resolvConf": ("barewire-ipam", ipam(LOCAL)),
    "barewire-ipam.ipam.network_name": ("barewire-ipam", ipam(ETCD)),
    "barewire-ipam.ipam.nodeName": ("barewire-ipam", ipam(ETCD)),
    "barewire-ipam.ipam.etcd.prefix": ("barewire-ipam", ipam(ETCD)),
    "barewire-ipam.ipam.etcd.caFile": ("barewire-ipam", ipam(ETCD)),
    "barewire-ipam.ipam.etcd.certFile": ("barewire-ipam", ipam({**ETCD, "etcd": {**ETCD["etcd"], "keyFile": KUBECONFIG}})),
    "barewire-ipam.ipam.etcd.keyFile": ("barewire-ipam", ipam({**ETCD, "etcd": {**ETCD["etcd"], "certFile": KUBECONFIG}})),
    "barewire-ipam.ipam.kubernetes.kubeconfig": ("barewire-ipam", ipam(KUBERNETES)),
    "barewire-ipam.ipam.kubernetes.namespace": ("barewire-ipam", ipam(KUBERNETES)),
    "barewire-ipam.name": ("barewire-ipam", ipam(LOCAL)),
}  # fmt: skip
"""Every key that is, or becomes part of, a path, a socket's address, or a name in the kernel or a database."""

BASES = {"userspace": USERSPACE, "sriov": SRIOV, "barewire-ipam": {}}
NAMED = (
    FIFO, DEVICE, SOCKETS[0], f"unix:{SOCKETS[0]}", SECRETS[0], *climbing(SECRETS[0])[:3], "/", "/etc", "/etc/sudoers.d", "/root/.ssh",
    "/run/containerd", "/run/dbus", "/var/lib/kubelet", "/var/lib/rancher", "/opt/kubelet", "/proc/self/root/etc", "/etc/../etc/sudoers.d",
)  # fmt: skip
"""Values that an author would choose to reach files of others."""


HONEST = {
    "userspace.sharedDir": "/run/vhostuser",
    "userspace.vhostDir": "/run/barewire/vhost",
    "userspace.kubeletRoot": "/var/lib/kubelet",
    "userspace.ovsdb": REMOTE,
    "userspace.host.vhost.socketfile": "socket",
    "userspace.volume": "shared-dir",
    "sriov.deviceID": VF,
    "barewire-ipam.ipam.dataDir": "/var/lib/cni/networks",
    "barewire-ipam.ipam.etcd.prefix": "/barewire/other",
    "barewire-ipam.name": "net",
}
"""For most keys a value with which an ADD succeeds, which shows that the hostile values get as far."""


@alone
@pytest.mark.parametrize("key", sorted(PATHS))
def test_whatever_a_configuration_names_nothing_of_others_is_touched(key, monkeypatch, vswitch):
    host = Host()
    etcd_does_all(monkeypatch)
    plugin, extra = PATHS[key]
    names = key.partition(".")[2].split(".")

    def called(value: object) -> list[dict[str, Any]]:
        conf = copy.deepcopy({**BASES[plugin], **{name: given for name, given in extra.items() if given is not None}})
        section = conf
        for name in names[:-1]:
            section = section.setdefault(name, {})
        section[names[-1]] = value
        # If the pod is not known, its volume is not known either, and the shared directory is used.
        known = {"CNI_ARGS": ""} if names == ["sharedDir"] else {}
        told = calls(host, plugin, conf, "ADD CHECK GC DEL", **known)
        vswitch.ports.clear()
        return told

    if key in HONEST:
        assert "code" not in called(HONEST[key])[0]
    for value in NAMED:
        host.clear()
        called(value)
        assert host.unharmed() == [], value
    hold(host, lambda data: called(data.draw(TEXTS)), EXAMPLES_OF_A_KEY)
