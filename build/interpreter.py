"""Builds the Python of the release bundles, for any glibc from 2.28 on: `make interpreter`. Prints its executable.

zig (from PyPI, pinned below) compiles Debian's sources of CPython and of the libraries that the bundles need. Each part
lies in .cache/interpreter under a hash of its inputs, and is built when those have changed. docs/adr/0051 has the
reasons.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import debian

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/interpreter"
FLOOR = (2, 28)
"""The oldest glibc of the release bundles: RHEL 8's."""

COMPILER = "ziglang==0.17.1"
TARGET = f"x86_64-linux-gnu.{'.'.join(map(str, FLOOR))}"
SOURCES = "trixie"
"""The release of Debian that has the pinned Python, and maintains it."""
LIBRARIES = "bullseye"
"""The release whose libstdc++ and libgcc, which gRPC needs, are the newest that run on `FLOOR`."""
WHEELS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
TOOLS = ("autoreconf", "dpkg-source", "libtoolize", "make", "perl")
"""What the recipes start, beside a POSIX system."""
PACKAGES = "autoconf automake dpkg-dev libltdl-dev libtool make perl"


class NotBuilt(Exception):
    """The interpreter could not be built; the message says where, and what to do."""


class Part(NamedTuple):
    """A source package, and the parts that it is compiled with. Its recipe is build/parts/NAME.sh."""

    name: str
    package: str
    needs: tuple[str, ...] = ()


PARTS = (
    Part("zlib", "zlib"),
    Part("libffi", "libffi"),
    Part("openssl", "openssl"),
    Part("python", "python3.13", needs=("zlib", "libffi", "openssl")),
)


def main() -> Path:
    """Builds what is missing; the interpreter's executable, in an environment with the packages that a freeze needs."""
    require_tools()
    archive = debian.Archive(SOURCES, CACHE / SOURCES)
    compiler = Compiler(zig(), CACHE / "bin")
    built: dict[str, Path] = {}
    for part in PARTS:
        source = archive.source(part.package)
        target = CACHE / f"{part.name}-{digest(part, source.read_bytes(), built, compiler.inputs())}"
        if not target.exists():
            build(part, source, target, {name: built[name] for name in part.needs}, compiler)
        built[part.name] = target
    return environment(built["python"])


def require_tools() -> None:
    """Raises `NotBuilt` for programs that the machine lacks."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        raise NotBuilt(f"{', '.join(missing)} missing: install Debian's {PACKAGES}")


def digest(part: Part, source: bytes, built: dict[str, Path], compiler: bytes) -> str:
    """Names the inputs of a part: its source, its recipe, the compiler, and the parts that it is compiled with."""
    inputs = [source, recipe(part).read_bytes(), compiler, *(built[name].name.encode() for name in part.needs)]
    return hashlib.sha256(b"\0".join(hashlib.sha256(one).digest() for one in inputs)).hexdigest()[:12]


def recipe(part: Part) -> Path:
    """The shell script that compiles and installs the part in `DEST`, in its unpacked source."""
    return ROOT / "build/parts" / f"{part.name}.sh"


def zig() -> Path:
    """The compiler's program."""
    folder = CACHE / COMPILER.replace("==", "-")
    program = folder / "ziglang/zig"
    if not program.exists():
        say(f"installing {COMPILER}")
        pip(folder, [COMPILER])
    return program


class Compiler:
    """The compiler and its tools, as the programs that a configure script expects."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self._scripts(program).items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def inputs(self) -> bytes:
        """Everything about the compiler that a part depends on."""
        return "".join(self._scripts(Path("zig")).values()).encode() + COMPILER.encode()

    def variables(self) -> dict[str, str]:
        """The environment of a recipe."""
        tools = {"CC": "cc", "AR": "ar", "RANLIB": "ranlib"}
        caches = {f"ZIG_{kind}_CACHE_DIR": str(CACHE / "zig") for kind in ("GLOBAL", "LOCAL")}
        return caches | {name: str(self._folder / tool) for name, tool in tools.items()}

    def _scripts(self, program: Path) -> dict[str, str]:
        plain = {name: f'#!/bin/sh\nexec {program} {name} "$@"\n' for name in ("ar", "ranlib")}
        return plain | {"cc": _CC.format(zig=program, target=TARGET)}


# zig's linker does not know GNU ld's -h. Python's build date is that of SOURCE_DATE_EPOCH, so that its use is no
# reason for a warning. The run paths are for the build itself: the bundle has none (build/libraries.py).
_CC = """\
#!/bin/bash
arguments=()
for one in "$@"; do
    case $one in
    -Wl,-h*) arguments+=("-Wl,-soname,${{one#-Wl,-h}}") ;;
    *) arguments+=("$one") ;;
    esac
done
exec {zig} cc -target {target} -Wno-date-time -Qunused-arguments '-Wl,-rpath,$ORIGIN/../lib:$ORIGIN/../..' \
"${{arguments[@]}}"
"""


def build(part: Part, source: Path, target: Path, needs: dict[str, Path], compiler: Compiler) -> None:
    """Unpacks, compiles and installs a part. The target appears when that is complete."""
    work = CACHE / "work" / part.name
    partial = target.with_suffix(".partial")
    for folder in (work, partial):
        shutil.rmtree(folder, ignore_errors=True)
    work.parent.mkdir(exist_ok=True)
    partial.mkdir()
    say(f"building {part.name} from {source.name}")
    log = CACHE / f"{part.name}.log"
    variables = compiler.variables() | {
        "DEST": str(partial),
        "JOBS": os.environ.get("JOBS", str(os.cpu_count())),
        "LC_ALL": "C",
        "PATH": os.environ["PATH"],
        "SOURCE_DATE_EPOCH": "315532800",
        **{name.upper(): str(path) for name, path in needs.items()},
    }
    with log.open("w") as out:
        for argv, cwd in (
            (["dpkg-source", "-x", str(source), str(work)], CACHE),
            (["sh", "-eux", str(recipe(part))], work),
        ):
            done = subprocess.run(
                argv, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False
            )
            if done.returncode:
                raise NotBuilt(f"{part.name}: {argv[0]} ended with {done.returncode}; its output is in {log}")
    shutil.rmtree(work)
    partial.rename(target)


def environment(python: Path) -> Path:
    """The Python of an environment with PyInstaller and the libraries of the bundles, in the pinned versions.

    Wheels for a newer glibc than `FLOOR` are not accepted.
    """
    wanted = requirements()
    pins = (ROOT / "build/requirements.txt").read_bytes()
    folder = (
        CACHE / f"environment-{hashlib.sha256(python.name.encode() + pins + repr(wanted).encode()).hexdigest()[:12]}"
    )
    executable = folder / "bin/python"
    if not (folder / "complete").exists():
        say(f"installing {' '.join(wanted)}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python / "bin/python3", "-m", "venv", "--without-pip", folder], check=True)
        version = (ROOT / "build/python-version").read_text().strip()
        pip(
            folder / f"lib/python{version}/site-packages",
            [
                "--constraint",
                str(ROOT / "build/requirements.txt"),
                "--python-version",
                version,
                "--implementation",
                "cp",
            ]
            + [f"--platform={one}" for one in WHEELS]
            + wanted,
        )
        debian_libraries(folder / "lib")
        (folder / "complete").touch()
    return executable


def requirements() -> list[str]:
    """What the bundles' programs need, and PyInstaller."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return sorted({*project["dependencies"], *extras["node"], *extras["kubevirt"], "pyinstaller"})


def debian_libraries(folder: Path) -> None:
    """Puts the libraries of GCC that wheels need into a directory."""
    say(f"fetching libstdc++ and libgcc of {LIBRARIES}")
    archive = debian.Archive(LIBRARIES, CACHE / LIBRARIES)
    root = CACHE / "work/libraries"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for package in ("libstdc++6", "libgcc-s1"):
        archive.unpacked(package, root)
    for name in ("libstdc++.so.6", "libgcc_s.so.1"):
        (found,) = root.rglob(name)
        shutil.copyfile(found.resolve(), folder / name)
    shutil.rmtree(root)


def pip(target: Path, arguments: list[str]) -> None:
    """Installs wheels into a directory."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*command, "--only-binary=:all:", f"--target={target}", *arguments], check=True)


def say(text: str) -> None:
    """Reports progress on stderr: stdout is the result."""
    print(f"interpreter: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(main())
    except (NotBuilt, debian.NotFetched) as problem:
        sys.exit(f"interpreter: {problem}")
