"""build/install.sh on a node with only a POSIX shell, running plugins, and files of other programs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.program import BUNDLE, Program

MODULE = "_internal/barewire.modules"
GO_PLUGIN = "#!/bin/sh\necho the Go plugin\n"


class Node(NamedTuple):
    """A CNI bin directory, the tools that the node has, and a small bundle to install."""

    bin_dir: Path
    tools: Path
    bundle: Path

    def start(self, bundle: Path, *options: str) -> subprocess.Popen[str]:
        script = [str(self.tools / "sh"), str(bundle / "install.sh"), *options, str(self.bin_dir)]
        env = {"PATH": f"{self.tools}:/usr/sbin"}
        return subprocess.Popen(script, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def install(self, bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
        with self.start(bundle, *options) as running:
            out, err = running.communicate(timeout=60)
        return subprocess.CompletedProcess(running.args, running.returncode, out, err)

    def installed(self, bundle: Path | None = None) -> None:
        done = self.install(bundle or self.bundle)
        assert done.returncode == 0, done

    def verified(self) -> bool:
        done = self.install(self.bundle, "--verify")
        assert (done.returncode == 0) == ("wrong: " not in done.stdout), done
        return done.returncode == 0

    def bundles(self) -> list[str]:
        return sorted(path.name for path in self.bin_dir.glob(".barewire-*-*"))

    def used(self) -> Path:
        """The bundle of the program that the entry starts."""
        return self.bin_dir / (self.bin_dir / "sriov").read_text().splitlines()[1].partition(": ")[2]

    def files(self) -> dict[str, tuple[int, bytes]]:
        return {str(path): (path.stat().st_ino, path.read_bytes()) for path in files(self.bin_dir)}

    def answers(self) -> bool:
        done = Program((str(self.bin_dir / "sriov"),)).run({"CNI_COMMAND": "VERSION"}, b'{"cniVersion": "1.0.0"}')
        return done.code == 0 and "1.0.0" in done.json["supportedVersions"]


def files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]


@pytest.fixture(params=["busybox", "system"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    return busybox_node(tmp_path) if request.param == "busybox" else system_node(tmp_path)


@pytest.fixture
def system(tmp_path: Path) -> Node:
    """A node for tests that do not depend on the tools."""
    return system_node(tmp_path)


def system_node(tmp_path: Path) -> Node:
    return Node(tmp_path / "opt" / "cni" / "bin", Path("/bin"), small(tmp_path))


def busybox_node(tmp_path: Path) -> Node:
    """A node with Debian's busybox, which has no `flock`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    subprocess.run(["busybox", "--install", "-s", tools], check=True, capture_output=True, timeout=60)
    return system_node(tmp_path)._replace(tools=tools)


PROGRAM = """#!/bin/sh
echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}'
echo "arguments: $*" >&2
"""


def small(tmp_path: Path, **changes: str) -> Path:
    """A bundle of the same form as the frozen one, small enough to install many of them."""
    bundle = tmp_path / "-".join(["small", *changes.values()])
    (bundle / "_internal").mkdir(parents=True)
    shutil.copy(BUNDLE / "install.sh", bundle)
    description = description_of(BUNDLE)
    for name in description["plugins"].split() + description["tools"].split():
        (bundle / name).write_text(PROGRAM)
        (bundle / name).chmod(0o755)
    (bundle / MODULE).write_bytes(b"a module")
    (bundle / "_internal" / "libpython3.so").write_bytes(bytes(100_000))
    describe(bundle, description | changes)
    return bundle


def release(tmp_path: Path, **changes: str) -> Path:
    """The frozen bundle with other values in its `bundle.info`."""
    bundle = tmp_path / "-".join(["bundle", *changes.values()])
    shutil.copytree(BUNDLE, bundle)
    describe(bundle, description_of(BUNDLE) | changes)
    return bundle


def description_of(bundle: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (bundle / "bundle.info").read_text().splitlines())


def describe(bundle: Path, description: dict[str, str]) -> None:
    (bundle / "bundle.info").write_text("".join(f"{key}={value}\n" for key, value in description.items()))
    sign(bundle)


def sign(bundle: Path) -> None:
    """Writes the checksums of a bundle as build/freeze.sh does."""
    sums = bundle / "SHA256SUMS"
    sums.unlink(missing_ok=True)
    sums.write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  ./{path.relative_to(bundle)}\n" for path in files(bundle)
        )
    )


def foreign_installer(node: Node, *names: str) -> None:
    """Does what sriov-cni's DaemonSet does at each start of its pod."""
    for name in names:
        program = node.bin_dir.parent / name
        program.write_text(GO_PLUGIN)
        program.chmod(0o755)
        subprocess.run(["/bin/cp", "-f", program, node.bin_dir], check=True)


def test_an_entry_starts_the_bundle_beside_it(node: Node) -> None:
    node.installed()
    assert node.used() == node.bin_dir / node.bundles()[0]
    assert not (node.bin_dir / "sriov").is_symlink()
    assert node.answers()


def test_the_directory_may_be_spelt_in_another_way(node: Node) -> None:
    node.installed()
    for spelling in (f"{node.bin_dir}/", f"/{node.bin_dir.parent}//bin"):
        script = [str(node.tools / "sh"), str(node.bundle / "install.sh"), "--verify", spelling]
        subprocess.run(script, env={"PATH": str(node.tools)}, check=True, capture_output=True, timeout=60)


def test_an_entry_works_through_a_link_that_is_elsewhere(system: Node, tmp_path: Path) -> None:
    system.installed()
    (tmp_path / "sriov").symlink_to(system.bin_dir / "sriov")
    assert system._replace(bin_dir=tmp_path).answers()


def test_an_entry_passes_arguments_on(system: Node) -> None:
    system.installed()
    done = Program((str(system.bin_dir / "barewire"), "gc", "two words", "*")).run({})
    assert done.err == b"arguments: gc two words *\n"


def test_an_entry_without_its_bundle_answers_with_a_cni_error(system: Node) -> None:
    system.installed()
    shutil.rmtree(system.used())
    done = Program((str(system.bin_dir / "sriov"),)).run({"CNI_COMMAND": "VERSION"})
    assert (done.code, done.json["code"]) == (1, 5)
    assert "run install.sh" in done.json["details"]


def test_the_node_may_be_seen_under_another_root(system: Node, tmp_path: Path) -> None:
    system.installed(BUNDLE)
    elsewhere = tmp_path / "host" / "opt"
    elsewhere.parent.mkdir()
    (tmp_path / "opt").rename(elsewhere)
    assert system._replace(bin_dir=elsewhere / "cni" / "bin").answers()


def test_installing_twice_changes_nothing(node: Node) -> None:
    node.installed()
    before = node.files()
    node.installed()
    assert node.files() == before
    assert node.answers()


def in_mount(node: Node, mount: str) -> subprocess.CompletedProcess[str]:
    """Runs the installer with a mount on the directory that only the installer sees, and returns the names that are
    there.
    """
    script = f"{mount}; sh {node.bundle}/install.sh {node.bin_dir}; code=$?; ls -A {node.bin_dir}; exit $code"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_installed_and_intact_needs_no_writable_file_system(system: Node) -> None:
    system.installed()
    done = in_mount(system, f"mount --bind -o ro {system.bin_dir} {system.bin_dir}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_copy_that_finds_no_space_is_removed_and_reported(system: Node) -> None:
    system.bin_dir.mkdir(parents=True)
    done = in_mount(system, f"mount -t tmpfs -o size=64k tmpfs {system.bin_dir}")
    assert done.returncode != 0
    assert "cannot copy the bundle" in done.stderr
    assert done.stdout == ""


def test_a_replaced_plugin_comes_back_when_ours_is_removed(node: Node) -> None:
    node.bin_dir.mkdir(parents=True)
    go_plugin = node.bin_dir / "sriov"
    go_plugin.write_text(GO_PLUGIN)
    go_plugin.chmod(0o755)
    node.installed()
    assert node.answers()
    node.installed()
    assert node.install(node.bundle, "--uninstall").returncode == 0
    assert go_plugin.read_text() == GO_PLUGIN
    assert os.access(go_plugin, os.X_OK)
    assert [path.name for path in node.bin_dir.iterdir()] == ["sriov"]


def test_removing_leaves_the_plugins_of_others(system: Node) -> None:
    system.installed()
    (system.bin_dir / "host-local").write_text("of somebody else")
    (system.bin_dir / "macvlan").symlink_to("../elsewhere/macvlan")
    assert system.install(system.bundle, "--uninstall").returncode == 0
    assert sorted(path.name for path in system.bin_dir.iterdir()) == ["host-local", "macvlan"]


def test_an_upgrade_keeps_the_bundle_before_it_and_no_older_one(node: Node, tmp_path: Path) -> None:
    releases = [small(tmp_path, version=version, build="b") for version in ("1", "2", "3")]
    for bundle in releases:
        node.installed(bundle)
        assert node.answers()
    assert node.bundles() == [".barewire-2-b", ".barewire-3-b"]
    node.installed(releases[-1])
    assert node.bundles() == [".barewire-2-b", ".barewire-3-b"]


def test_plugins_that_run_or_start_during_an_upgrade_end_as_they_would_have(tmp_path: Path) -> None:
    node = system_node(tmp_path)
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
        with node.start(release(tmp_path, version="2", build="b")) as upgrade:
            while upgrade.poll() is None:
                assert node.answers()
        assert upgrade.returncode == 0
        # Errors would show up here, in modules that are imported only now.
        out, err = running.communicate(
            b'{"cniVersion": "1.0.0", "name": "n", "type": "sriov", "deviceID": "x"}', timeout=60
        )
    assert running.returncode == 1
    assert b'"code"' in out, err


def test_refuses_a_host_with_an_older_glibc_and_touches_nothing(system: Node, tmp_path: Path) -> None:
    done = system.install(small(tmp_path, glibc="9.99"))
    assert done.returncode == 1
    assert "the bundle needs 9.99 or later" in done.stderr
    assert not system.bin_dir.exists()


@pytest.mark.parametrize(
    ("host", "needed", "accepted"),
    [
        ("2.36", "2.36", True),
        ("2.9", "2.36", False),
        ("2.36", "2.9", True),
        ("2.28", "2.28", True),
        ("2.34", "2.28", True),
        ("3.0", "2.36", True),
        ("2.36", "3.0", False),
    ],
)
def test_compares_glibc_versions_as_numbers(
    system: Node, tmp_path: Path, host: str, needed: str, accepted: bool
) -> None:
    root = tmp_path / "host"
    (root / "lib64").mkdir(parents=True)
    (root / "lib64" / "libc.so.6").write_bytes(
        b"\0\x7fGNU C Library (Some 1) stable release version %s.\n\0" % host.encode()
    )
    done = system.install(small(tmp_path, glibc=needed), "--host-root", str(root))
    assert done.returncode == 1  # that root has nothing to run the plugin with
    assert ("does not run on this host" in done.stderr) == accepted, done
    assert ("or later" in done.stderr) != accepted, done


def test_refuses_a_host_without_glibc(system: Node, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    done = system.install(system.bundle, "--host-root", str(tmp_path / "host"))
    assert (done.returncode, "no glibc found" in done.stderr) == (1, True)


def test_a_bundle_that_does_not_run_here_replaces_nothing(node: Node, tmp_path: Path) -> None:
    node.installed()
    broken = small(tmp_path, version="9", build="b")
    (broken / description_of(broken)["plugins"].split()[0]).write_text("#!/nowhere\n")
    sign(broken)
    done = node.install(broken)
    assert done.returncode == 1
    assert "does not run on this host" in done.stderr
    assert len(node.bundles()) == 1
    assert node.answers()


def test_does_not_replace_a_directory(system: Node) -> None:
    (system.bin_dir / "sriov").mkdir(parents=True)
    done = system.install(system.bundle)
    assert (done.returncode, "is a directory" in done.stderr) == (1, True)


def test_installs_into_a_root_seen_from_a_container(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "host"
    copy_libraries(root)
    copy_shell(root)
    done = node._replace(bin_dir=Path("/opt/cni/bin")).install(BUNDLE, "--host-root", str(root))
    assert done.returncode == 0, done
    assert Program(("/usr/sbin/chroot", str(root), "/opt/cni/bin/sriov")).run({"CNI_COMMAND": "VERSION"}).code == 0


def test_links_of_the_node_are_followed_within_its_root(node: Node, tmp_path: Path) -> None:
    root = tmp_path / "host"
    copy_libraries(root)
    copy_shell(root)
    (root / "data" / "1" / "bin").mkdir(parents=True)
    (root / "data" / "current").symlink_to("/data/1")  # as k3s sets it up
    (root / "opt").symlink_to("../../data")  # the root's parent is the root
    done = node._replace(bin_dir=Path("/opt/current/bin")).install(node.bundle, "--host-root", str(root))
    assert done.returncode == 0, done
    assert (root / "data" / "1" / "bin" / "sriov").exists()
    assert Program(("/usr/sbin/chroot", str(root), "/opt/current/bin/sriov")).run({"CNI_COMMAND": "VERSION"}).code == 0


def test_a_loop_of_links_ends_with_a_message(system: Node, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    done = system._replace(bin_dir=tmp_path / "a" / "bin").install(system.bundle)
    assert (done.returncode, "too many symbolic links" in done.stderr) == (1, True)


def test_another_installers_copy_reaches_no_file_of_the_bundle_and_is_undone(node: Node) -> None:
    node.installed()
    bundle = {path: path.read_bytes() for path in files(node.used())}
    foreign_installer(node, "sriov")
    assert (node.bin_dir / "sriov").read_text() == GO_PLUGIN
    assert {path: path.read_bytes() for path in bundle} == bundle
    assert not node.verified()

    done = node.install(node.bundle)
    assert (done.returncode, "another installer has replaced" in done.stderr) == (0, True)
    assert node.answers()
    assert node.verified()
    assert node.install(node.bundle, "--uninstall").returncode == 0
    assert (node.bin_dir / "sriov").read_text() == GO_PLUGIN


def test_removing_leaves_what_another_installer_has_put_over_an_entry(system: Node) -> None:
    system.installed()
    foreign_installer(system, "sriov")
    assert system.install(system.bundle, "--uninstall").returncode == 0
    assert [path.name for path in system.bin_dir.iterdir()] == ["sriov"]


@pytest.mark.parametrize("damage", ["emptied", "changed", "removed", "added", "sums"])
def test_a_damaged_bundle_is_replaced_by_a_fresh_copy(tmp_path: Path, damage: str) -> None:
    """Emptied: after a crash a file can be empty, if its name reached the disk before its content."""
    node = busybox_node(tmp_path) if damage in ("emptied", "added") else system_node(tmp_path)
    node.installed()
    damaged = node.used()
    module = damaged / MODULE
    if damage == "emptied":
        os.truncate(module, 0)
    elif damage == "changed":
        content = module.read_bytes()
        module.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "removed":
        module.unlink()
    elif damage == "added":
        (damaged / "_internal" / "shutil.py").write_text("raise SystemExit('not the bundle')")
    else:
        (damaged / "SHA256SUMS").unlink()
    before = {path: path.read_bytes() for path in files(damaged)}
    assert not node.verified()

    done = node.install(node.bundle)
    assert (done.returncode, "are damaged" in done.stderr) == (0, True)
    assert node.answers()
    assert node.verified()
    assert node.used() != damaged
    assert {path: path.read_bytes() for path in files(damaged)} == before, "a plugin may still run from it"
    settled = node.files()
    node.installed()
    assert node.files() == settled


def test_a_damaged_source_installs_nothing(system: Node, tmp_path: Path) -> None:
    source = small(tmp_path, build="b")
    os.truncate(source / MODULE, 0)
    done = system.install(source)
    assert (done.returncode, MODULE in done.stderr) == (1, True)
    assert not system.bin_dir.exists()


def test_no_entry_leads_to_what_is_not_on_the_disk_yet(tmp_path: Path) -> None:
    """Each `sync` notes the state that a crash immediately afterwards would leave."""
    node, tools, notes = system_node(tmp_path), tmp_path / "tools", tmp_path / "notes"
    tools.mkdir()
    (tools / "sync").write_text(
        f"#!/bin/sh\ncat {node.bin_dir}/sriov >>{notes} 2>/dev/null || echo nothing >>{notes}\n"
    )
    (tools / "sync").chmod(0o755)
    (tools / "sh").symlink_to("/bin/sh")
    for version in ("1", "2"):
        script = ["/bin/sh", str(small(tmp_path, version=version, build="b") / "install.sh"), str(node.bin_dir)]
        subprocess.run(script, env={"PATH": f"{tools}:/bin"}, check=True, capture_output=True, timeout=60)
    led = re.findall(r"^# barewire-entry: (.*)$|^nothing$", notes.read_text(), re.MULTILINE)
    assert led == ["", ".barewire-1-b", ".barewire-1-b", ".barewire-2-b"]


def test_installers_at_the_same_time_all_succeed_and_leave_one_good_state(node: Node) -> None:
    (node.bin_dir / ".barewire-partial.1").mkdir(parents=True)  # left by an installer that was killed
    running = [node.start(node.bundle) for _ in range(3)]
    ends = [(process.communicate(timeout=60), process.returncode) for process in running]
    assert [code for _, code in ends] == [0, 0, 0], ends
    assert len(node.bundles()) == 1
    assert node.verified()
    names = {path.name for path in node.bin_dir.iterdir()}
    assert names == {*node.bundles(), "sriov", "userspace", "barewire", "barewire-ipam"}


def test_installers_of_two_versions_at_the_same_time_leave_one_of_them_whole(system: Node, tmp_path: Path) -> None:
    releases = [small(tmp_path, version=version, build="b") for version in ("1", "2")]
    running = [system.start(bundle) for bundle in releases]
    assert [(process.communicate(timeout=60), process.returncode)[1] for process in running] == [0, 0]
    assert sum(system.install(bundle, "--verify").returncode == 0 for bundle in releases) == 1
    assert system.answers()


@pytest.mark.parametrize("holder", ["before a reboot", "ended"])
def test_a_lock_whose_holder_has_ended_stops_no_installer(tmp_path: Path, holder: str) -> None:
    """Without `flock`; with it, the kernel releases the lock itself."""
    node = busybox_node(tmp_path)
    node.bin_dir.mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip() if holder == "ended" else "another-boot"
    (node.bin_dir / ".barewire-lock").symlink_to(f"{boot}/{os.readlink('/proc/self/ns/pid')}/1/1")
    node.installed()
    assert not (node.bin_dir / ".barewire-lock").is_symlink()


def test_a_lock_whose_holder_lives_is_awaited(tmp_path: Path) -> None:
    node = busybox_node(tmp_path)
    node.bin_dir.mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    lock = node.bin_dir / ".barewire-lock"
    lock.symlink_to(f"{boot}/{os.readlink('/proc/self/ns/pid')}/{os.getpid()}/{start}")
    with node.start(node.bundle) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1.5)
        assert [path.name for path in node.bin_dir.iterdir()] == [".barewire-lock"]
        lock.unlink()
        running.communicate(timeout=60)
    assert running.returncode == 0
    assert node.answers()


def test_without_sha256sum_says_that_nothing_is_verified(tmp_path: Path) -> None:
    node = system_node(tmp_path)._replace(tools=tmp_path / "tools")
    node.tools.mkdir()
    for tool in Path("/bin").iterdir():
        if tool.name != "sha256sum":
            (node.tools / tool.name).symlink_to(tool)
    done = node.install(node.bundle)
    assert (done.returncode, "sha256sum is missing" in done.stderr) == (0, True)
    done = node.install(node.bundle, "--verify")
    assert (done.returncode, "sha256sum is missing" in done.stdout) == (1, True)


def test_verify_changes_nothing_and_names_what_is_wrong(node: Node) -> None:
    assert not node.verified()
    assert not node.bin_dir.exists()
    node.installed()
    assert node.verified()
    foreign_installer(node, "userspace")
    (node.bin_dir / "barewire").unlink()
    before = node.files()
    done = node.install(node.bundle, "--verify")
    assert (done.returncode, node.files()) == (1, before)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 2
    assert f"{node.bin_dir}/userspace is not Barewire" in wrong[0]
    assert f"{node.bin_dir}/barewire is missing" in wrong[1]


def test_verify_reports_another_version(system: Node, tmp_path: Path) -> None:
    system.installed(small(tmp_path, version="1", build="b"))
    done = system.install(system.bundle, "--verify")
    assert (done.returncode, "another version" in done.stdout) == (1, True)


def test_is_not_removed_while_attachments_live(tmp_path: Path) -> None:
    root = tmp_path / "host"
    copy_libraries(root)
    copy_shell(root)
    records = root / "var" / "lib" / "cni" / "barewire" / "storage"
    records.mkdir(parents=True)
    (records / "c1:net1.json").write_text("{}")
    node, seen = system_node(tmp_path)._replace(bin_dir=Path("/opt/cni/bin")), root / "opt" / "cni" / "bin"
    assert node.install(node.bundle, "--host-root", str(root)).returncode == 0

    refused = node.install(node.bundle, "--host-root", str(root), "--uninstall")
    assert refused.returncode == 1
    assert "storage/c1:net1.json" in refused.stderr
    assert "barewire gc" in refused.stderr
    assert (seen / "sriov").exists()

    forced = node.install(node.bundle, "--host-root", str(root), "--uninstall", "--force")
    assert (forced.returncode, "1 attachments" in forced.stderr) == (0, True)
    assert list(seen.iterdir()) == []


def copy_shell(root: Path) -> None:
    (root / "bin").mkdir()
    shutil.copy("/bin/busybox", root / "bin" / "sh")


def copy_libraries(root: Path) -> None:
    """Copies the libraries that a node has and the bundle does not contain: glibc."""
    programs = [BUNDLE / "sriov", *(BUNDLE / "_internal").glob("libpython*")]
    report = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    for library in {word for word in report.split() if word.startswith(("/lib", "/usr/lib"))}:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


# The helper


SYSTEMCTL = """#!/bin/sh
echo "$*" >>/systemctl.log
case "$*" in *is-active*) exit "$(cat /state)" ;; esac
"""


@pytest.fixture
def systemd(node: Node, tmp_path: Path) -> tuple[Node, Path]:
    """A node with systemd as an installer in a container sees it: the installer, and the node's root."""
    root = tmp_path / "host"
    copy_libraries(root)
    copy_shell(root)
    (root / "bin" / "cat").symlink_to("sh")
    (root / "bin" / "systemctl").write_text(SYSTEMCTL)
    (root / "bin" / "systemctl").chmod(0o755)
    (root / "state").write_text("0")
    for folder in ("run/systemd/system", "etc/systemd/system"):
        (root / folder).mkdir(parents=True)
    for name in ("launcher", "barewire-helper"):
        shutil.copy(BUNDLE / name, node.bundle)
    sign(node.bundle)
    return node._replace(bin_dir=Path("/opt/cni/bin")), root


def systemctl(root: Path) -> str:
    log = root / "systemctl.log"
    return log.read_text() if log.exists() else ""


def test_with_the_helper_entries_are_launchers_that_start_their_bundle(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    options = ("--host-root", str(root), "--helper")
    assert node.install(node.bundle, *options).returncode == 0
    assert (root / "opt/cni/bin/sriov").read_bytes().startswith((BUNDLE / "launcher").read_bytes())
    answer = Program(("/usr/sbin/chroot", str(root), "/opt/cni/bin/sriov", "x")).run({"CNI_COMMAND": "VERSION"})
    assert (answer.code, answer.err) == (0, b"arguments: x\n")
    assert (root / "opt/cni/bin/barewire").read_text().startswith("#!/bin/sh")
    assert node.install(node.bundle, *options, "--verify").returncode == 0


def test_the_unit_starts_the_helper_at_the_socket_of_the_launchers(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    assert node.install(node.bundle, "--host-root", str(root), "--helper").returncode == 0
    unit = (root / "etc/systemd/system/barewire-helper.service").read_text()
    lines = (root / "opt/cni/bin/userspace").read_bytes().splitlines()[-4:]
    bundle, name, folder, socket = (line.decode() for line in lines)
    assert (name, folder) == ("userspace", "/opt/cni/bin")
    started = f'ExecStart="/opt/cni/bin/{bundle.removeprefix("# barewire-entry: ")}/barewire-helper" {socket}\n'
    assert started in unit
    assert systemctl(root).splitlines()[-2:] == [
        "--quiet enable barewire-helper.service",
        "restart barewire-helper.service",
    ]


def test_the_same_bundle_again_does_not_restart_the_helper(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    for _ in range(2):
        assert node.install(node.bundle, "--host-root", str(root), "--helper").returncode == 0
    assert systemctl(root).count("restart") == 1


@pytest.mark.parametrize("way", [(), ("--uninstall",)])
def test_without_the_option_the_helper_goes(systemd: tuple[Node, Path], way: tuple[str, ...]) -> None:
    node, root = systemd
    assert node.install(node.bundle, "--host-root", str(root), "--helper").returncode == 0
    assert node.install(node.bundle, "--host-root", str(root), "--verify").returncode == 1
    assert node.install(node.bundle, "--host-root", str(root), *way).returncode == 0
    assert "disable --now barewire-helper.service" in systemctl(root)
    assert list((root / "etc/systemd/system").iterdir()) == []
    entry = root / "opt/cni/bin/sriov"
    assert entry.read_text().startswith("#!/bin/sh") if not way else not entry.exists()


def test_a_unit_of_another_program_stays(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    unit = root / "etc/systemd/system/barewire-helper.service"
    unit.write_text("[Unit]\n")
    assert node.install(node.bundle, "--host-root", str(root)).returncode == 0
    assert (unit.read_text(), systemctl(root)) == ("[Unit]\n", "")


def test_a_helper_that_does_not_run_is_reported(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    assert node.install(node.bundle, "--host-root", str(root), "--helper").returncode == 0
    (root / "state").write_text("3")
    done = node.install(node.bundle, "--host-root", str(root), "--helper", "--verify")
    assert (done.returncode, "wrong: barewire-helper.service is not running" in done.stdout) == (1, True)


def test_entries_are_put_where_no_unit_can_be_written(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    (root / "etc/systemd/system").rmdir()
    done = node.install(node.bundle, "--host-root", str(root), "--helper")
    assert (done.returncode, "barewire-helper.service cannot be written" in done.stderr) == (0, True)
    assert (root / "opt/cni/bin/sriov").exists()
    assert systemctl(root) == ""


def test_a_percent_sign_in_the_units_path_is_no_specifier(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    other = node._replace(bin_dir=Path("/opt/50%/bin"))
    assert other.install(node.bundle, "--host-root", str(root), "--helper").returncode == 0
    unit = (root / "etc/systemd/system/barewire-helper.service").read_text()
    assert 'ExecStart="/opt/50%%/bin/.barewire-' in unit


def test_without_systemd_the_installer_says_what_to_run(systemd: tuple[Node, Path]) -> None:
    node, root = systemd
    (root / "run/systemd/system").rmdir()
    done = node.install(node.bundle, "--host-root", str(root), "--helper")
    assert done.returncode == 0
    assert "barewire-helper /run/barewire/helper-" in done.stderr
    assert list((root / "etc/systemd/system").iterdir()) == []
