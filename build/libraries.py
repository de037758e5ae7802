"""`libraries.py DIRECTORY`: makes the libraries of a bundle independent of the machine that built it.

No library looks for others where the build machine had them: a node has nothing there, or something else. The looks
alone are 24 of the files that a call tries to open. And none asks for a newer glibc for the sake of a symbol that older
ones have, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import elf

OLD_ENOUGH = {"hypot": "GLIBC_2.35"}
"""Symbols that glibc has had from its beginning, and the version that the linker writes for them since.

Version 2.35 of `hypot` differs in how it sets errno, which libpython does itself. It alone kept the bundle from RHEL 9
(2.34).
"""


def main(bundle: Path) -> None:
    """Changes the files in place."""
    for path in sorted(bundle.rglob("*")):
        if path.is_file() and elf.is_elf(path):
            if elf.run_paths(path):
                elf.drop_run_paths(path)
            for symbol, version in OLD_ENOUGH.items():
                elf.drop_symbol_version(path, symbol, version)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
