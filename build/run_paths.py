"""`run_paths.py DIRECTORY`: lets no library of a bundle look for others where the build machine had them.

A node has nothing there, or something else. The looks alone are 24 of the files that a call tries to open.
"""

from __future__ import annotations

import sys
from pathlib import Path

import elf


def main(bundle: Path) -> None:
    """Changes the files in place."""
    for path in sorted(bundle.rglob("*")):
        if path.is_file() and elf.is_elf(path) and elf.run_paths(path):
            elf.drop_run_paths(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
