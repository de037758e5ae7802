"""build/install.sh on a node: nothing but a POSIX shell, plugins in use, other people's files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.program import BUNDLE, Program

GO_PLUGIN = "#!/bin/sh\necho the Go plugin\n"


class Node(NamedTuple):
    """A CNI bin directory, and the tools that the node has."""

    bin_dir: Path
    tools: Path

    def install(self, bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
        script = [str(self.tools / "sh"), str(bundle / "install.sh"), *options, str(self.bin_dir)]
        env = {"PATH": f"{self.tools}:/usr/sbin"}
        return subprocess.run(script, env=env, capture_output=True, text=True, timeout=60, check=False)

    def installed(self, bundle: Path) -> None:
        done = self.install(bundle)
        assert done.returncode == 0, done

    def bundles(self) -> list[str]:
        return sorted(path.name for path in self.bin_dir.glob(".barewire-*-*"))

    def answers(self) -> bool:
        done = Program((str(self.bin_dir / "sriov"),)).run({"CNI_COMMAND": "VERSION"}, b'{"cniVersion": "1.0.0"}')
        return done.code == 0 and "1.0.0" in done.json["supportedVersions"]


@pytest.fixture(params=["busybox", "system"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    tools = tmp_path / "tools"
    if request.param == "system":
        tools = Path("/bin")
    else:
        tools.mkdir()
        subprocess.run(["busybox", "--install", "-s", tools], check=True, capture_output=True, timeout=60)
    return Node(tmp_path / "opt" / "cni" / "bin", tools)


def release(tmp_path: Path, **changes: str) -> Path:
    """A bundle like the frozen one, with other values in its description."""
    copy = tmp_path / "-".join(["bundle", *changes.values()])
    shutil.copytree(BUNDLE, copy)
    description = dict(line.split("=", 1) for line in (copy / "bundle.info").read_text().splitlines()) | changes
    (copy / "bundle.info").write_text("".join(f"{key}={value}\n" for key, value in description.items()))
    return copy


def test_installs_relative_links_that_work(node: Node) -> None:
    node.installed(BUNDLE)
    link = node.bin_dir / "sriov"
    assert os.readlink(link) == f"{node.bundles()[0]}/sriov"
    assert node.answers()


def test_the_node_may_be_seen_under_another_root(node: Node, tmp_path: Path) -> None:
    node.installed(BUNDLE)
    elsewhere = tmp_path / "host" / "opt"
    elsewhere.parent.mkdir()
    (tmp_path / "opt").rename(elsewhere)
    assert node._replace(bin_dir=elsewhere / "cni" / "bin").answers()


def test_installing_twice_changes_nothing(node: Node) -> None:
    node.installed(BUNDLE)
    before = sorted(f"{path} {path.lstat().st_ino}" for path in node.bin_dir.rglob("*") if not path.is_symlink())
    node.installed(BUNDLE)
    assert (
        sorted(f"{path} {path.lstat().st_ino}" for path in node.bin_dir.rglob("*") if not path.is_symlink()) == before
    )
    assert node.answers()


def test_a_replaced_plugin_comes_back_when_ours_is_removed(node: Node) -> None:
    node.bin_dir.mkdir(parents=True)
    go_plugin = node.bin_dir / "sriov"
    go_plugin.write_text(GO_PLUGIN)
    go_plugin.chmod(0o755)
    node.installed(BUNDLE)
    assert node.answers()
    node.installed(BUNDLE)
    assert node.install(BUNDLE, "--uninstall").returncode == 0
    assert go_plugin.read_text() == GO_PLUGIN
    assert os.access(go_plugin, os.X_OK)
    assert [path.name for path in node.bin_dir.iterdir()] == ["sriov"]


def test_removing_leaves_the_plugins_of_others(node: Node) -> None:
    node.installed(BUNDLE)
    (node.bin_dir / "host-local").write_text("of somebody else")
    (node.bin_dir / "macvlan").symlink_to("../elsewhere/macvlan")
    assert node.install(BUNDLE, "--uninstall").returncode == 0
    assert sorted(path.name for path in node.bin_dir.iterdir()) == ["host-local", "macvlan"]


def test_an_upgrade_keeps_the_bundle_before_it_and_no_older_one(node: Node, tmp_path: Path) -> None:
    releases = [release(tmp_path, version=version, build="b") for version in ("1", "2", "3")]
    for bundle in releases:
        node.installed(bundle)
        assert node.answers()
    assert node.bundles() == [".barewire-2-b", ".barewire-3-b"]
    node.installed(releases[-1])
    assert node.bundles() == [".barewire-2-b", ".barewire-3-b"]


def test_a_plugin_that_runs_during_an_upgrade_ends_as_it_would_have(node: Node, tmp_path: Path) -> None:
    node.installed(release(tmp_path, version="1", build="b"))
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/",
    }
    with subprocess.Popen(
        [node.bin_dir / "sriov"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        node.installed(release(tmp_path, version="2", build="b"))
        # What is wrong here is found by modules that are imported only now.
        out, err = running.communicate(
            b'{"cniVersion": "1.0.0", "name": "n", "type": "sriov", "deviceID": "x"}', timeout=60
        )
    assert running.returncode == 1
    assert b'"code"' in out, err


def test_refuses_a_host_with_an_older_glibc_and_touches_nothing(node: Node, tmp_path: Path) -> None:
    done = node.install(release(tmp_path, glibc="9.99"))
    assert done.returncode == 1
    assert "the bundle needs 9.99 or later" in done.stderr
    assert not node.bin_dir.exists()


@pytest.mark.parametrize(
    ("host", "needed", "accepted"),
    [
        ("2.36", "2.36", True),
        ("2.9", "2.36", False),
        ("2.36", "2.9", True),
        ("3.0", "2.36", True),
        ("2.36", "3.0", False),
    ],
)
def test_compares_glibc_versions_as_numbers(node: Node, tmp_path: Path, host: str, needed: str, accepted: bool) -> None:
    root = tmp_path / "host"
    (root / "lib64").mkdir(parents=True)
    (root / "lib64" / "libc.so.6").write_bytes(
        b"\0\x7fGNU C Library (Some 1) stable release version %s.\n\0" % host.encode()
    )
    done = node.install(release(tmp_path, glibc=needed), "--host-root", str(root))
    assert done.returncode == 1  # there is nothing in that root to run the plugin with
    assert ("does not run on this host" in done.stderr) == accepted, done
    assert ("or later" in done.stderr) != accepted, done


def test_refuses_a_host_without_glibc(node: Node, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    done = node.install(BUNDLE, "--host-root", str(tmp_path / "host"))
    assert (done.returncode, "no glibc found" in done.stderr) == (1, True)


def test_a_bundle_that_does_not_run_here_replaces_nothing(node: Node, tmp_path: Path) -> None:
    node.installed(BUNDLE)
    broken = release(tmp_path, version="9", build="b")
    (broken / "_internal").rename(broken / "lost")
    done = node.install(broken)
    assert done.returncode == 1
    assert "does not run on this host" in done.stderr
    assert len(node.bundles()) == 1
    assert node.answers()


def test_does_not_replace_a_directory(node: Node) -> None:
    (node.bin_dir / "sriov").mkdir(parents=True)
    done = node.install(BUNDLE)
    assert (done.returncode, "is a directory" in done.stderr) == (1, True)


def test_installs_into_a_root_seen_from_a_container(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "host"
    copy_libraries(root)
    done = Node(Path("/opt/cni/bin"), node.tools).install(BUNDLE, "--host-root", str(root))
    assert done.returncode == 0, done
    assert Program(("/usr/sbin/chroot", str(root), "/opt/cni/bin/sriov")).run({"CNI_COMMAND": "VERSION"}).code == 0


def copy_libraries(root: Path) -> None:
    """What a node has and the bundle does not bring: glibc."""
    programs = [BUNDLE / "sriov", *(BUNDLE / "_internal").glob("libpython*")]
    report = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    for library in {word for word in report.split() if word.startswith(("/lib", "/usr/lib"))}:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
