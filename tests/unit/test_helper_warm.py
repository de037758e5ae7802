"""The helper has imported all modules that a call could import, so a child imports none."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cni.helper import warm
from cni.helper.start import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PEOPLES = "ipam.command"
"""The operator's command, which no launcher passes on."""
# It replaces os.setns, which the bundle's Python has.
STAND_INS = {"ctypes"}


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def imported(node: ast.AST, *, late: bool = False) -> Iterator[tuple[str, bool]]:
    """The modules in import statements, and whether each is in a function."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pass
            case ast.Import(names=names):
                yield from ((name.name, late) for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                below = [f"{module}.{name.name}" for name in names if file_of(f"{module}.{name.name}")]
                yield from ((name, late) for name in below or [module])
            case _:
                yield from imported(child, late=late or isinstance(child, ast.FunctionDef))


@functools.cache
def late_imports() -> set[str]:
    waiting, seen, late = [load.__module__ for load in PROGRAMS.values()], set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        file = file_of(module)
        if module in seen or file is None or module.startswith(PEOPLES):
            continue
        seen.add(module)
        found = list(imported(ast.parse(file.read_text())))
        late.update(name for name, is_late in found if is_late and not name.startswith(PEOPLES))
        waiting.extend(name for name, _ in found)
    return late


def test_every_module_that_a_function_imports_is_warm() -> None:
    missing = late_imports() - STAND_INS - set(loaded())
    assert not missing, f"cni/helper/warm.py lacks {sorted(missing)}"


def test_no_child_has_to_complete_os() -> None:
    """As in the bundle, whose `os` is build/lean_os.py until another attribute is used."""
    program = (
        "import sys, types; lean = sys.modules['os'] = types.ModuleType('os');"
        "exec(compile(open('build/lean_os.py').read(), 'lean_os', 'exec'), vars(lean));"
        "sys.path.insert(0, '.'); from cni.helper.warm import load_all; load_all(()); print('__getattr__' in vars(lean))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_no_name_of_the_list_is_out_of_use() -> None:
    assert set(warm.LATE) <= late_imports()


def loaded() -> list[str]:
    """The modules of a helper that has loaded everything."""
    program = (
        "import sys, cni.helper.start; from cni.helper.warm import load_all; assert not load_all(); print(*sys.modules)"
    )
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
