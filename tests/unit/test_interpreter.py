"""build/interpreter.py: a part is built when its inputs have changed, and appears when it is complete."""

from __future__ import annotations

import subprocess
from pathlib import Path

import bundles
import interpreter
import pytest

ZLIB, PYTHON = interpreter.PARTS[0], interpreter.PARTS[-1]
BUILT = {"zlib": Path("zlib-1"), "libffi": Path("libffi-1"), "openssl": Path("openssl-1")}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(interpreter, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def compiler(cache: Path, tmp_path: Path) -> interpreter.Compiler:
    zig = tmp_path / "zig"
    zig.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    zig.chmod(0o755)
    return interpreter.Compiler(zig, cache / "bin")


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A source package that unpacks to one file, and a recipe of the caller's."""
    bin_dir = tmp_path / "tools"
    bin_dir.mkdir()
    (bin_dir / "dpkg-source").write_text('#!/bin/sh\nmkdir "$3"\necho source >"$3/file"\n')
    (bin_dir / "dpkg-source").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_dir), prepend=":")

    def with_recipe(text: str) -> None:
        (tmp_path / "recipe.sh").write_text(text)
        monkeypatch.setattr(interpreter, "recipe", lambda _part: tmp_path / "recipe.sh")

    return with_recipe


def test_each_input_of_a_part_changes_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = interpreter.digest(PYTHON, b"source", BUILT, b"zig")
    assert interpreter.digest(PYTHON, b"source", BUILT, b"zig") == before
    others = [
        interpreter.digest(PYTHON, b"newer", BUILT, b"zig"),
        interpreter.digest(PYTHON, b"source", BUILT, b"newer"),
        interpreter.digest(PYTHON, b"source", BUILT | {"openssl": Path("openssl-2")}, b"zig"),
    ]
    (tmp_path / "python.sh").write_text("make\n")
    monkeypatch.setattr(interpreter, "recipe", lambda _part: tmp_path / "python.sh")
    others.append(interpreter.digest(PYTHON, b"source", BUILT, b"zig"))
    assert len({before, *others}) == 5


def test_every_part_has_a_recipe_and_comes_after_those_that_it_needs() -> None:
    names = [part.name for part in interpreter.PARTS]
    for number, part in enumerate(interpreter.PARTS):
        assert interpreter.recipe(part).is_file()
        assert set(part.needs) <= set(names[:number])
    assert {path.stem for path in (interpreter.ROOT / "build/parts").iterdir()} == set(names)


def test_the_compiler_is_for_the_floor_and_gets_an_soname_in_words_that_it_knows(
    compiler: interpreter.Compiler,
) -> None:
    command = [compiler.variables()["CC"], "-shared", "-Wl,-hlib a.so", "-o", "x"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:3] == ["cc", "-target", "x86_64-linux-gnu.2.28"]
    assert words[-4:] == ["-shared", "-Wl,-soname,lib a.so", "-o", "x"]
    assert "-Wl,-rpath,$ORIGIN/../lib:$ORIGIN/../.." in words


def test_a_recipe_installs_from_the_unpacked_source(cache: Path, compiler, unpacked) -> None:
    unpacked('cp file "$DEST/installed"; echo "$OPENSSL" >"$DEST/needs"; test -x "$CC"\n')
    target = cache / "zlib-1"
    interpreter.build(ZLIB, cache / "zlib.dsc", target, {"openssl": Path("/openssl")}, compiler)
    assert (target / "installed").read_text() == "source\n"
    assert (target / "needs").read_text() == "/openssl\n"
    assert list((cache / "work").iterdir()) == []


def test_a_recipe_that_fails_leaves_no_part_and_names_its_log(cache: Path, compiler, unpacked) -> None:
    unpacked('touch "$DEST/half"\nfalse\ntrue\n')
    with pytest.raises(interpreter.NotBuilt, match=r"zlib: sh ended with 1; its output is in .*zlib\.log"):
        interpreter.build(ZLIB, cache / "zlib.dsc", cache / "zlib-1", {}, compiler)
    assert not (cache / "zlib-1").exists()
    assert "false" in (cache / "zlib.log").read_text()


def test_a_machine_without_the_tools_is_refused_with_the_packages_that_have_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(interpreter.NotBuilt, match=r"autoreconf, .* missing: install Debian's autoconf"):
        interpreter.require_tools()


def test_the_python_is_the_pinned_version() -> None:
    pinned = (interpreter.ROOT / "build/python-version").read_text().strip()
    assert PYTHON.package == f"python{pinned}"


def test_everything_that_a_bundle_needs_is_installed_in_a_pinned_version() -> None:
    pins = (interpreter.ROOT / "build/requirements.txt").read_text().lower()
    wanted = [one.partition(">")[0] for one in interpreter.requirements()]
    assert {"pyinstaller", "pyyaml", "grpcio", "protobuf", "pydantic", "prometheus-client"} == set(wanted)
    for name in wanted:
        assert f"\n{name.replace('-', '_')}==" in pins


def test_a_bundle_with_a_file_for_a_newer_glibc_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/program").write_bytes(Path("/bin/ls").read_bytes())
    (tmp_path / "bundle/text").write_text("#!/bin/sh\n")
    monkeypatch.setattr(interpreter, "FLOOR", (99, 0))
    bundles.require_floor(tmp_path / "bundle")
    monkeypatch.setattr(interpreter, "FLOOR", (2, 1))
    with pytest.raises(bundles.TooNew, match=r"newer glibc than 2\.1: bundle/program \(2\.\d+\)$"):
        bundles.require_floor(tmp_path / "bundle")
