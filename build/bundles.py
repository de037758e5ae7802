"""The bundles of a release, in dist/release/bundles: `make bundles`.

They are frozen with the Python of build/interpreter.py, and run on any glibc from its `FLOOR` on. `make freeze` uses
the Python of .venv, and its bundles run where the build machine's libraries do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import debian
import elf
import interpreter

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("dist/release/bundles")
SCRIPTS = (("build/freeze.sh",), ("build/freeze_resident.sh", "node"), ("build/freeze_resident.sh", "kubevirt"))
NAMES = ("barewire", "barewire-node", "barewire-kubevirt")


class TooNew(Exception):
    """A bundle would not start on the oldest glibc; the message names the files."""


def main() -> None:
    """Builds what has changed."""
    python = interpreter.main()
    environment = os.environ | {
        "FREEZE_PYTHON": str(python),
        "FREEZE_LIBRARIES": str(python.parent.parent / "lib"),
        "FREEZE_DIST": str(FOLDER),
    }
    for script in SCRIPTS:
        subprocess.run(script, cwd=ROOT, env=environment, check=True)
    for name in NAMES:
        require_floor(ROOT / FOLDER / name)


def require_floor(bundle: Path) -> None:
    """Raises `TooNew` if a file of the bundle needs a newer glibc than the interpreter's."""
    needs = {path: elf.needed_glibc(path) for path in bundle.rglob("*") if path.is_file() and elf.is_elf(path)}
    newer = sorted(
        f"{path.relative_to(bundle.parent)} ({'.'.join(map(str, version))})"
        for path, version in needs.items()
        if version > interpreter.FLOOR
    )
    if newer:
        raise TooNew(f"these need a newer glibc than {'.'.join(map(str, interpreter.FLOOR))}: {', '.join(newer)}")


if __name__ == "__main__":
    try:
        main()
    except (TooNew, interpreter.NotBuilt, debian.NotFetched) as problem:
        sys.exit(f"bundles: {problem}")
    except subprocess.CalledProcessError as problem:
        sys.exit(problem.returncode)
