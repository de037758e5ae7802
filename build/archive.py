"""Packs the modules of the bundle into one file for build/boot.py: a call of a plugin opens one file, not sixty.

The file is the marshalled index, then the marshalled units. The modules that each plugin needs for ADD and DEL are
found in the sources: what its `load` imports, and what those import before anything is called. Those that the same
plugins need are one unit. Any other module is a unit of its own.
"""

from __future__ import annotations
import __future__

import _imp
import ast
import marshal
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import CodeType

ROOT = Path(__file__).resolve().parent.parent
OURS = ("cni", "ipam")
EVERY_CALL = "cni.serve"
PYC_HEADER = 16


class Module(NamedTuple):
    """A module of the bundle."""

    name: str
    place: str
    """The name of its file in a bundle without an archive."""
    is_package: bool
    code: CodeType
    imports: tuple[str, ...]
    """What it imports while it is executed."""


def packed(compiled: Iterable[tuple[str, str]]) -> list[Module]:
    """Of the `.pyc` files of a bundle (name there, path here) those that go into the archive.

    The interpreter needs `encodings` before the archive is open, and has other modules of the standard library in
    itself.
    """
    modules = {}
    for place, path in compiled:
        folder, _, file = place.rpartition("/")
        is_package = file == "__init__.pyc"
        name = (folder if is_package else place.removesuffix(".pyc")).replace("/", ".")
        if name.partition(".")[0] != "encodings" and not _imp.is_frozen(name):
            modules[name] = _module(name, place, path, is_package=is_package)
    if _imp.is_frozen("os"):
        source = Path(__file__).with_name("lean_os.py")
        code = compile(source.read_bytes(), "lean_os.py", "exec", dont_inherit=True, optimize=2)
        modules["os"] = Module("os", "os.pyc", is_package=False, code=code, imports=())
    return [modules[name] for name in sorted(modules)]


def write(file: Path, modules: Iterable[Module], libraries: Mapping[str, str], programs: Iterable[str]) -> None:
    """Writes the archive.

    `libraries` are the modules that are shared libraries, `programs` the sources of the plugins.
    """
    units = list(_units({module.name: module for module in modules}, programs))
    blobs = [marshal.dumps({module.name: (module.code, module.is_package) for module in unit}) for unit in units]
    numbers = {module.name: number for number, unit in enumerate(units) for module in unit}
    offset = 0
    while True:  # the offsets are within what they count
        places, at = [], offset
        for blob in blobs:
            places.append((at, len(blob)))
            at += len(blob)
        index = marshal.dumps((numbers, places, dict(sorted(libraries.items()))))
        if len(index) == offset:
            break
        offset = len(index)
    file.write_bytes(index + b"".join(blobs))


def script(source: str) -> str:
    """The one script of a program: boot.py, then the program itself. Each script costs a look into the executable."""
    boot = Path(__file__).with_name("boot.py").read_text()
    return f"{boot}\nexec(marshal.loads({marshal.dumps(_compiled(source))!r}))\n"


def _units(modules: dict[str, Module], programs: Iterable[str]) -> Iterator[list[Module]]:
    first = _closure([EVERY_CALL], modules)
    yield [modules[name] for name in first]
    users: dict[str, list[str]] = defaultdict(list)
    for program in programs:
        for name in _closure(_loaded_by(program), modules):
            if name not in first:
                users[name].append(program)
    together: dict[tuple[str, ...], list[Module]] = defaultdict(list)
    for name in _closure(users, modules):
        if name not in first:
            together[tuple(users[name])].append(modules[name])
    yield from together.values()
    for name, module in modules.items():
        if name not in first and name not in users:
            yield [module]


def _closure(names: Iterable[str], modules: Mapping[str, Module]) -> list[str]:
    """The modules and all that they import, each after those that it imports."""
    found: dict[str, bool] = {}

    def visit(name: str) -> None:
        if name not in modules or name in found:
            return
        found[name] = False
        for other in modules[name].imports:
            visit(other)
        del found[name]
        found[name] = True

    for name in names:
        for whole in _with_packages(name):
            visit(whole)
    return list(found)


def _with_packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _loaded_by(program: str) -> list[str]:
    (load,) = (node for node in _tree(program).body if isinstance(node, ast.FunctionDef) and node.name == "load")
    return list(_imported(load.body))


# Sources


def _module(name: str, place: str, path: str, *, is_package: bool) -> Module:
    if name.partition(".")[0] not in OURS:
        code = marshal.loads(Path(path).read_bytes()[PYC_HEADER:])
        return Module(name, place, is_package, code, ())
    source = name.replace(".", "/") + ("/__init__.py" if is_package else ".py")
    imports = (*_with_packages(name)[:-1], *_imported(_tree(source).body))
    return Module(name, place, is_package, _compiled(source), imports)


def _compiled(source: str) -> CodeType:
    lean = ast.fix_missing_locations(_Lean().visit(_tree(source)))
    # The annotations of classes stay strings, although the statement that says so is not executed.
    flags = __future__.annotations.compiler_flag
    code: CodeType = compile(lean, source, "exec", flags=flags, dont_inherit=True, optimize=2)
    return code


def _tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_bytes())


def _imported(body: Iterable[ast.stmt]) -> Iterator[str]:
    """The names in the import statements that are executed with these statements, packages included."""
    for statement in body:
        match statement:
            case ast.Import(names=names):
                for one in names:
                    yield from _with_packages(one.name)
            case ast.ImportFrom(module=str(module), names=names):
                yield from _with_packages(module)
                yield from (
                    f"{module}.{one.name}" for one in names
                )  # a module, or an attribute: then there is no such module
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=body):
                yield from _imported(body)
            case ast.If(body=body, orelse=otherwise):
                yield from _imported([*body, *otherwise])


class _Lean(ast.NodeTransformer):
    """Leaves out what only people and type checkers read: annotations of functions, and the imports for them."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.Pass()
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node
