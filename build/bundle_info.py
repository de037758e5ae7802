"""`bundle_info.py DIRECTORY BUILD` prints what install.sh and the tests must know of a bundle, as `key=value` lines."""

from __future__ import annotations

import sys
from pathlib import Path

import elf

sys.path.insert(0, str(Path(__file__).parent.parent))

from cni.version import VERSION

TOOLS = {"barewire"}
"""The executables for people."""
RESIDENT = {"barewire-helper", "launcher"}
"""The executables of a node with a helper (docs/helper.md)."""


def main(bundle: Path, build: str) -> None:
    """Prints the description."""
    print(f"version={VERSION}")
    print(f"build={build}")
    print(f"glibc={'.'.join(map(str, highest_glibc(bundle)))}")
    print(f"plugins={' '.join(plugins(bundle))}")
    print(f"tools={' '.join(sorted(TOOLS))}")
    print(f"resident={' '.join(sorted(RESIDENT))}")


def highest_glibc(bundle: Path) -> tuple[int, ...]:
    """The glibc that a host must have at least for every program and library of the bundle to load."""
    return max(elf.needed_glibc(path) for path in bundle.rglob("*") if path.is_file() and elf.is_elf(path))


def plugins(bundle: Path) -> list[str]:
    """The executables at the top of the bundle that a runtime calls."""
    programs = {path.name for path in bundle.iterdir() if path.is_file() and elf.is_elf(path)}
    return sorted(programs - TOOLS - RESIDENT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
