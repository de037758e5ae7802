"""The release bundles on old versions of glibc: they load, and every command answers as on this machine.

`make floor` builds the bundles (build/bundles.py) and runs these tests, as root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import bundles
import debian
import elf
import interpreter
import pytest

from tests.floor.root import OWN, SECONDS, Answer, Root, make
from tests.launched import entry

if TYPE_CHECKING:
    from collections.abc import Iterator

BUNDLES = bundles.ROOT / bundles.FOLDER
RELEASES = {"bullseye": (2, 31), "buster": (2, 28)}
BIN = "/opt/cni/bin"

NETWORKS: dict[str, dict[str, object]] = {
    "sriov": {"deviceID": "0000:ff:1f.7"},
    "userspace": {"host": {"engine": "ovs-dpdk", "iftype": "vhostuser"}},
    "barewire-ipam": {"ipam": {"type": "barewire-ipam", "ranges": [[{"subnet": "192.0.2.0/24"}]]}},
    "barewire-ipam in a cluster": {
        "ipam": {"type": "whereabouts", "range": "192.0.2.0/24", "kubernetes": {"kubeconfig": "/etc/cni/kubeconfig"}}
    },
}
COMMANDS = ("VERSION", "ADD", "CHECK", "DEL", "STATUS", "GC", "NONSENSE")
TOOLS = {
    "barewire": ("--version", "--help", "status --json", "gc --dry-run", "vlans", "forget c1 net1"),
    "barewire-ipam": ("--help", "list --json", "fsck", "list --config /etc/network.json"),
    "barewire-node": ("--version", "--help", "run --dry-run --json", "status --json", "explain --json"),
    "barewire-kubevirt": ("--help",),
}
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
"""


@pytest.fixture(scope="module", params=RELEASES)
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Root:
    return installed(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return installed(OWN, tmp_path_factory.mktemp("own"))


def installed(release: str, folder: Path) -> Root:
    """A root with all bundles and some configurations."""
    try:
        root = make(release, folder / "root")
    except debian.NotFetched as reason:
        pytest.skip(f"not tried on {release}: {reason}")
    (root.path / BIN[1:]).mkdir(parents=True)
    for name in bundles.NAMES:
        shutil.copytree(BUNDLES / name, root.path / "bundles" / name, symlinks=True)
    (root.path / "etc/cni").mkdir()
    (root.path / "etc/cni/kubeconfig").write_text(KUBECONFIG)
    (root.path / "etc/cni/kubeconfig").chmod(0o600)
    (root.path / "etc/network.json").write_text(json.dumps(network("barewire-ipam in a cluster")))
    (root.path / "etc/pcidp").mkdir()
    (root.path / "etc/pcidp/config.json").write_text('{"resourceList": [{"resourceName": "vfs"}]}')
    return root


def network(name: str) -> dict[str, object]:
    return {"cniVersion": "1.1.0", "name": "net", "type": name.partition(" ")[0], **NETWORKS[name]}


def bundle_of(program: str) -> str:
    return program if program in bundles.NAMES and program != "barewire" else "barewire"


def called(root: Root, name: str, command: str, program: str = "") -> Answer:
    plugin = name.partition(" ")[0]
    env = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/pod",
        "CNI_IFNAME": "net1",
        "CNI_PATH": BIN,
    }
    return root.run(program or f"/bundles/barewire/{plugin}", env=env, stdin=json.dumps(network(name)))


def comparable(answer: Answer) -> tuple[int, str]:
    """Without the times and numbers of processes."""
    return answer.code, re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z?|\d{3,}", "#", answer.out + answer.err)


def test_the_roots_have_the_versions_of_glibc_for_which_they_stand(old: Root) -> None:
    assert old.glibc() == RELEASES[old.release]


@pytest.mark.parametrize("name", bundles.NAMES)
def test_no_file_needs_a_newer_glibc_than_the_floor(name: str) -> None:
    bundles.require_floor(BUNDLES / name)
    needed = tuple(
        map(int, re.findall(r"^glibc=(\d+)\.(\d+)", (BUNDLES / name / "bundle.info").read_text(), re.MULTILINE)[0])
    )
    assert needed <= interpreter.FLOOR


@pytest.mark.parametrize("name", bundles.NAMES)
def test_every_symbol_of_every_library_is_found(old: Root, name: str) -> None:
    bundle = old.path / "bundles" / name
    libraries = [path for path in sorted((bundle / "_internal").rglob("*")) if path.is_file() and elf.is_elf(path)]
    python = next(path for path in libraries if path.name.startswith("libpython"))
    assert len(libraries) > 10
    for library in libraries:
        report = old.run(
            "/lib64/ld-linux-x86-64.so.2",
            f"/{library.relative_to(old.path)}",
            env={
                "LD_TRACE_LOADED_OBJECTS": "1",
                "LD_WARN": "1",
                "LD_BIND_NOW": "1",
                "LD_LIBRARY_PATH": f"/bundles/{name}/_internal",
                "LD_PRELOAD": f"/{python.relative_to(old.path)}",  # the interpreter that loads it
            },
        )
        wrong = re.findall(r".*(?:undefined|not found|not defined|error).*", report.out + report.err)
        assert (report.code, wrong) == (0, []), library


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_plugin_answers_every_command_as_on_this_machine(old: Root, own: Root, name: str, command: str) -> None:
    answer = called(old, name, command)
    assert isinstance(json.loads(answer.out or "{}"), dict), answer
    assert answer.code in (0, 1)
    assert comparable(answer) == comparable(called(own, name, command))


def test_a_lease_on_the_node_and_a_connection_with_tls_are_tried(old: Root, own: Root) -> None:
    for root in (old, own):  # each test leaves the same leases in both, in whatever order the tests run
        assert '/24", "gateway": "192.0.2.1"' in called(root, "barewire-ipam", "ADD").out
        assert "127.0.0.1:1" in called(root, "barewire-ipam in a cluster", "ADD").out


@pytest.mark.parametrize(("program", "arguments"), [(one, line) for one, lines in TOOLS.items() for line in lines])
def test_every_command_line_answers_as_on_this_machine(old: Root, own: Root, program: str, arguments: str) -> None:
    command = [f"/bundles/{bundle_of(program)}/{program}", *arguments.split()]
    answer = old.run(*command)
    assert answer.out + answer.err
    assert "Traceback" not in answer.err
    assert comparable(answer) == comparable(own.run(*command))


@pytest.fixture
def helper(old: Root) -> Iterator[Root]:
    with old.start("/bundles/barewire/barewire-helper", "/run/helper.sock") as process:
        assert process.stdout
        assert "serves" in process.stdout.readline()
        yield old
        process.kill()


def test_a_launcher_hands_calls_to_the_helper(helper: Root, own: Root) -> None:
    bundle = helper.path / "bundles/barewire"
    # Its bundle is missing, so that no call is answered without the helper.
    file = entry(
        bundle / "launcher", helper.path / "sriov", Path("/missing/barewire"), "sriov", Path("/run/helper.sock")
    )
    for command in ("VERSION", "ADD", "DEL"):
        answer = called(helper, "sriov", command, program=f"/{file.name}")
        assert comparable(answer) == comparable(called(own, "sriov", command)), command


def test_the_resident_programs_serve_and_end_at_a_signal(old: Root) -> None:
    with old.start("/bundles/barewire-kubevirt/barewire-kubevirt", env={"PATH": "/bin"}) as process:
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert process.returncode is not None


def test_the_installer_takes_it(old: Root) -> None:
    done = os.spawnlp(os.P_WAIT, "sh", "sh", str(BUNDLES / "barewire/install.sh"), "--host-root", str(old.path), BIN)
    assert done == 0
    assert "1.1.0" in called(old, "sriov", "VERSION", program=f"{BIN}/sriov").out
