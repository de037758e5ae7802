"""The frozen bundle on a node: where it runs, what it requires, and which modules it imports."""

from __future__ import annotations

import json
import marshal
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import elf
import libraries
import pytest

import cni.version
from tests.cli.program import BUNDLE, Program, from_bundle, imports

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = {"CNI_COMMAND": "VERSION"}
STDIN = b'{"cniVersion": "1.1.0"}'

INTERPRETER = {
    "_abc", "_codecs", "_frozen_importlib_external", "_io", "_signal", "_stat", "_thread", "_warnings", "_weakref",
    "abc", "codecs", "encodings", "errno", "encodings.aliases", "encodings.utf_8", "genericpath", "io", "marshal", "os", "posix", "posixpath",
    "stat", "time", "zipimport",
}  # fmt: skip
BOOT = {"gc"}
LARGEST = 19 << 20
"""Bytes. gRPC alone, which the resident programs need, has as many again."""
OURS_ON_VERSION = {
    "__future__", "_json", "cni", "cni.errors", "cni.jsontext", "cni.names", "cni.protocol", "cni.protocol.request", "cni.protocol.result", "cni.serve",
    "cni.value", "cni.version", "select",
}  # fmt: skip


def bundle_info() -> dict[str, str]:
    return dict(line.split("=", 1) for line in (BUNDLE / "bundle.info").read_text().splitlines())


def elf_files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and elf.is_elf(path))


def answers(program: Program, env: dict[str, str] = VERSION) -> bool:
    done = program.run(env, STDIN)
    assert done.code == 0, done
    return "1.1.0" in done.json["supportedVersions"]


def test_recorded_glibc_is_the_highest_that_any_file_needs(capsys: pytest.CaptureFixture[str]) -> None:
    needs = {path: elf.needed_glibc(path) for path in elf_files(BUNDLE)}
    highest = max(needs.values())
    by = [str(path.relative_to(BUNDLE)) for path, version in needs.items() if version == highest]
    with capsys.disabled():
        print(f"\nhighest GLIBC symbol of the bundle: {'.'.join(map(str, highest))} ({', '.join(by)})")
    assert bundle_info()["glibc"] == ".".join(map(str, highest))


def test_needed_glibc_agrees_with_binutils() -> None:
    for path in elf_files(BUNDLE):
        report = subprocess.run(
            ["readelf", "--version-info", "--wide", path], capture_output=True, text=True, check=True
        )
        needs = report.stdout.partition("Version needs section")[2]
        found = [tuple(map(int, version.split("."))) for version in re.findall(r"Name: GLIBC_([0-9.]+)", needs)]
        assert elf.needed_glibc(path) == max(found, default=()), path


def test_a_symbol_that_every_glibc_has_asks_for_no_newer_one(tmp_path: Path) -> None:
    program = tmp_path / "program"
    source = "#include <math.h>\nint main(int n, char **v) { return hypot(n, n) + fmod(n, 2.5) + v[0][0] < 0; }"
    subprocess.run(["gcc", "-fno-builtin", "-x", "c", "-", "-o", program, "-lm"], input=source, text=True, check=True)
    before = {path: elf.needed_glibc(path) for path in (program, *elf_files(BUNDLE))}
    libraries.main(tmp_path)
    assert (before[program], elf.needed_glibc(program)) == (
        (2, 35),
        (2, 34),
    )  # main itself is started by a symbol of 2.34
    subprocess.run([program], check=True)
    assert [path for path in elf_files(BUNDLE) if "hypot@GLIBC_2.35" in dynamic_symbols(path)] == []


def dynamic_symbols(path: Path) -> str:
    return subprocess.run(["readelf", "--dyn-syms", "--wide", path], capture_output=True, text=True, check=True).stdout


def test_bundle_describes_itself_truly() -> None:
    info = bundle_info()
    assert info["version"] == cni.version.VERSION
    assert sorted(" ".join(info[kind] for kind in ("plugins", "tools", "resident")).split()) == sorted(
        path.name for path in BUNDLE.iterdir() if path.is_file() and elf.is_elf(path)
    )
    assert f"v{info['version']}\n".encode() in from_bundle("sriov").run({}).err


def test_every_plugin_answers_version() -> None:
    for plugin in bundle_info()["plugins"].split():
        assert answers(from_bundle(plugin))


def test_runs_through_a_relative_symlink(tmp_path: Path) -> None:
    link = tmp_path / "sriov"
    link.symlink_to(os.path.relpath(BUNDLE / "sriov", tmp_path))
    assert answers(Program((str(link),)))
    assert answers(Program(("./sriov",), directory=tmp_path))


def test_runs_when_found_on_path_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "sriov-net").symlink_to(BUNDLE / "sriov")
    assert answers(Program(("/bin/sh", "-c", "exec sriov-net")), VERSION | {"PATH": str(tmp_path)})


def test_without_any_environment_says_what_it_is() -> None:
    done = Program(("/usr/bin/env", "-i", str(BUNDLE / "sriov"))).run({})
    assert (done.code, done.out) == (0, b"")
    assert b"sriov" in done.err
    assert b"1.1.0" in done.err


def test_runs_from_a_copied_and_read_only_directory(tmp_path: Path) -> None:
    copy = tmp_path / "a directory" / "bundle"
    shutil.copytree(BUNDLE, copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555)
    assert answers(Program((str(copy / "sriov"),)))


def test_a_hostile_environment_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "os.py").write_text("raise SystemExit('another os')")
    env = VERSION | {
        "PYTHONPATH": str(tmp_path),
        "PYTHONHOME": str(tmp_path),
        "PYTHONVERBOSE": "1",
        "PYTHONINSPECT": "1",
        "PYTHONPROFILEIMPORTTIME": "1",
        "LC_ALL": "xx_XX.ISO-8859-15",
    }
    done = from_bundle("sriov").run(env, STDIN)
    assert (done.code, done.err) == (0, b"")
    assert "1.1.0" in done.json["supportedVersions"]


def test_leaves_nothing_behind_in_the_temporary_directory(tmp_path: Path) -> None:
    assert answers(from_bundle("sriov"), VERSION | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_version_imports_nothing_beyond_the_protocol() -> None:
    done, modules = imports("sriov", VERSION, STDIN)
    assert done.code == 0
    assert "cni.serve" in modules, "the import report is missing"
    assert modules - INTERPRETER - BOOT <= OURS_ON_VERSION


@pytest.mark.parametrize(
    ("stdin", "code"),
    [
        (b"", 6),
        (b'{"cniVersion": "1.0.0", "name": ', 6),
        (b'{"cniVersion": "1.0.0", "name": "n\\q"}', 6),
        (b"\xff\xfe", 6),
        (b'{"cniVersion": "1.0.0", "name": "n", "type": "sriov", "deviceID": "x", "vlan": 1e400, "vlna": [1.5]}', 7),
    ],
)
def test_error_paths_find_every_module_that_they_need(stdin: bytes, code: int) -> None:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/none", "CNI_IFNAME": "net1", "CNI_PATH": "/"}
    done = from_bundle("sriov").run(env, stdin)
    assert done.code != 0
    assert done.json["code"] == code, done


def test_the_modules_of_a_call_come_from_one_file(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    program = Program(("strace", "-f", "-o", str(trace), "-e", "trace=openat", str(BUNDLE / "sriov")))
    assert answers(program, VERSION | {"PATH": os.environ["PATH"]})
    opened = {Path(path).name for path in re.findall(r'"([^"]*/_internal/[^"]*)".*\) = \d', trace.read_text())}
    assert "barewire.modules" in opened
    assert {name for name in opened if name.endswith(".pyc")} == {"__init__.pyc", "aliases.pyc", "utf_8.pyc"}, (
        "encodings"
    )


def test_no_library_looks_for_others_where_the_build_machine_had_them() -> None:
    assert {path.name: paths for path in elf_files(BUNDLE) if (paths := elf.run_paths(path))} == {}


def test_libraries_of_the_slow_path_are_not_in_the_bundle() -> None:
    packed, *_ = marshal.loads((BUNDLE / "_internal" / "barewire.modules").read_bytes())
    assert "cni.serve" in packed
    names = {path.name.partition(".")[0] for path in (BUNDLE / "_internal").iterdir()}
    names |= {name.partition(".")[0] for name in packed}
    assert not names & {"asyncio", "logging", "multiprocessing", "ovs", "pydantic", "pyroute2", "unittest"}


def test_the_resident_programs_add_nothing_to_the_bundle_of_the_plugins() -> None:
    packed, *_ = marshal.loads((BUNDLE / "_internal" / "barewire.modules").read_bytes())
    names = {path.name.partition(".")[0] for path in (BUNDLE / "_internal").iterdir()}
    names |= {name.partition(".")[0] for name in packed}
    assert not names & {"deviceplugin", "google", "grpc", "kubevirt", "prometheus_client", "resident"}
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < LARGEST, f"{size / (1 << 20):.1f} MiB"


def test_a_log_of_level_debug_finds_the_module_that_it_needs() -> None:
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/none", "CNI_IFNAME": "net1", "CNI_PATH": "/"}
    done = from_bundle("sriov").run(env, b'{"cniVersion": "1.0.0", "name": "n", "type": "sriov", "logLevel": "debug"}')
    assert done.json["code"] == 7
    assert b"sriov.add(" in done.err


def test_the_operators_command_reports_what_networks_lack(tmp_path: Path) -> None:
    """Each plugin, and each backend of addresses, adds modules of its own."""
    etcd = {"endpoints": ["http://127.0.0.1:1"]}
    ipam = {"type": "barewire-ipam", "backend": "etcd", "subnet": "10.9.0.0/24", "etcd": etcd}
    plugins = [
        {"type": "sriov", "master": "no-such-pf", "ipam": ipam},
        {"type": "userspace", "host": {"engine": "ovs-dpdk"}, "ovsdb": "unix:/run/openvswitch/nowhere/db.sock"},
    ]
    conf = tmp_path / "net.conflist"
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}))
    done = Program((str(BUNDLE / "barewire"), "status", "--json", "--seconds", "1", "--config", str(conf))).run({})
    assert (done.code, done.err) == (1, b""), done
    lacks = [lack["text"] for lack in done.json["lacks"] if "net" in lack["subject"].split(", ")]
    for words in (
        "no network device no-such-pf",
        "its addresses are not reached",
        "/run/openvswitch/nowhere does not exist",
    ):
        assert any(words in text for text in lacks), (words, lacks)


@pytest.mark.parametrize("command", ["status", "gc", "forget"])
def test_each_subcommand_of_the_operators_command_explains_itself(command: str) -> None:
    done = Program((str(BUNDLE / "barewire"), command, "--help")).run({})
    assert (done.code, done.err) == (0, b"")
    assert f"usage: barewire {command}".encode() in done.out
