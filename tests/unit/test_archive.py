"""build/archive.py and build/boot.py: the modules of a bundle in one file, and a process that imports them from it."""

from __future__ import annotations

import inspect
import marshal
import os
import subprocess
import sys
from pathlib import Path

import archive
import pytest

ROOT = Path(__file__).parents[2]
BOOT = ROOT / "build" / "boot.py"
PROGRAMS = ("cni/sriov/__main__.py", "cni/userspace/__main__.py", "ipam/__main__.py")
SOURCES = sorted(path.relative_to(ROOT) for top in ("cni", "ipam") for path in (ROOT / top).rglob("*.py"))
NOT_IN_THE_FOLDER = {"pydantic", "yaml"}
"""Libraries. A bundle contains PyYAML in addition to our modules, and no pydantic."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an archive of all our modules, and of `struct`, as a bundle has it."""
    made = tmp_path_factory.mktemp("bundle")
    struct = compile(inspect.getsource(sys.modules["struct"]), "struct.py", "exec", optimize=2)
    (made / "struct.pyc").write_bytes(bytes(archive.PYC_HEADER) + marshal.dumps(struct))
    compiled = [(f"{source}c", "it is compiled anew") for source in SOURCES]
    modules = archive.packed([*compiled, ("struct.pyc", str(made / "struct.pyc"))])
    archive.write(made / "barewire.modules", modules, {}, PROGRAMS)
    return made


def in_the_bundle(folder, program):
    """Runs the program as a frozen one: boot.py first, and nothing of ours in `sys.path`."""
    boot = f"import sys\nsys._MEIPASS = {str(folder)!r}\nexec(compile(open({str(BOOT)!r}).read(), 'boot.py', 'exec'))\n"
    command = [sys.executable, "-I", "-S", "-c", boot + program]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60, check=False)


def test_every_module_is_imported_from_the_archive(folder):
    names = [str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__") for path in SOURCES]
    program = f"""
import importlib
for name in {names!r}:
    try:
        module = importlib.import_module(name)
        assert module is sys.modules[name] and repr(module.__spec__.loader) == "barewire.modules", name
    except ModuleNotFoundError as error:
        print(error.name.partition(".")[0])
"""
    done = in_the_bundle(folder, program)
    assert done.returncode == 0, done.stderr
    # Modules of the standard library are missing if Python has a library of its own for them, which is not visible
    # here.
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == NOT_IN_THE_FOLDER


def test_a_traceback_names_file_and_line(folder):
    done = in_the_bundle(folder, "from cni.value import Value\nValue(unknown=1)")
    (line,) = [
        n for n, text in enumerate((ROOT / "cni/value.py").read_text().splitlines(), 1) if "unknown fields" in text
    ]
    assert f'File "cni/value.py", line {line}, in __init__' in done.stderr


def test_what_an_add_imports_takes_a_few_reads(folder):
    program = f"""
import posix
reads, pread = [], posix.pread
posix.pread = lambda *arguments: reads.append(arguments) or pread(*arguments)
before = set(sys.modules)
for name in {archive._loaded_by("cni/sriov/__main__.py")!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass  # an attribute of a module
print(len(reads), len(set(sys.modules) - before))
"""
    reads, modules = in_the_bundle(folder, program).stdout.split()
    assert int(modules) > 50
    assert int(reads) <= 6


LEAN_OS = """
sys.modules.pop("os", None)  # that of the interpreter's -c
import os
lean = {name: value for name, value in vars(os).items() if not name.startswith("_")}
"""


def test_the_lean_os_has_what_the_whole_one_has(folder):
    program = f"""{LEAN_OS}
assert "walk" not in lean and "open" in lean
odd = [b"a\\xff", "a\\udcff", "b"]
texts = [(os.fsencode(one), os.fsdecode(one)) for one in odd]
del sys.modules["os"]
sys.meta_path.pop(0)
import os as whole
assert "walk" in vars(whole)
assert texts == [(whole.fsencode(one), whole.fsdecode(one)) for one in odd]
assert lean.pop("environ") == dict(whole.environ)
print(*(name for name, value in lean.items() if name not in ("fsencode", "fsdecode", "sys") and value is not getattr(whole, name, lean)))
"""
    done = in_the_bundle(folder, program)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"TYPE_CHECKING", "posix"}


def test_the_lean_os_becomes_the_whole_one_when_anything_else_is_used(folder):
    program = f"""{LEAN_OS}
assert not hasattr(os, "__path__") and "walk" not in vars(os)
try:
    os.no_such_function
except AttributeError as error:
    print(error)
from os import PathLike
print(*dir(os))
"""
    done = in_the_bundle(folder, program)
    assert done.returncode == 0, done.stderr
    message, names = done.stdout.splitlines()
    assert message == "module 'os' has no attribute 'no_such_function'"
    assert set(dir(os)) - {"__file__", "__cached__"} <= set(names.split())


def test_an_import_that_failed_is_tried_again(tmp_path):
    code = compile(
        "sys = __import__('sys')\nsys.tries.append(1)\nif len(sys.tries) == 1: raise OSError", "flaky.py", "exec"
    )
    flaky = archive.Module("flaky", "flaky.pyc", is_package=False, code=code, imports=())
    archive.write(tmp_path / "barewire.modules", [flaky], {}, ())
    program = """
sys.tries = []
try:
    import flaky
except OSError:
    assert "flaky" not in sys.modules
import flaky
print(len(sys.tries))
"""
    done = in_the_bundle(tmp_path, program)
    assert done.stdout.strip() == "2", done.stderr


def test_a_module_that_another_thread_is_executing_is_waited_for(tmp_path):
    """Even one that comes first in a unit, for which the interpreter holds no lock: it looks for the last one."""
    slow = compile("import sys\nsys.begun.release()\nsys.never.acquire(True, 0.3)\nlate = 1", "slow.py", "exec")
    last = compile("import slow", "last.py", "exec")
    modules = [
        archive.Module("slow", "slow.pyc", is_package=False, code=slow, imports=()),
        archive.Module("last", "last.pyc", is_package=False, code=last, imports=("slow",)),
    ]
    archive.write(tmp_path / "barewire.modules", modules, {}, ())
    program = """
import _thread
sys.begun, sys.never = _thread.allocate_lock(), _thread.allocate_lock()
sys.begun.acquire(), sys.never.acquire()
_thread.start_new_thread(__import__, ("last",))
sys.begun.acquire()
from slow import late
import last
print(late, last.slow.late)
"""
    done = in_the_bundle(tmp_path, program)
    assert done.stdout.strip() == "1 1", done.stderr


def test_two_threads_whose_imports_need_each_other_do_not_block(tmp_path):
    """The main thread has the lock of `inner` and waits for importlib's global lock; the other one imports `outer`."""
    outer = compile("import sys\nsys.begun.release()\nimport inner", "outer.py", "exec")
    modules = [
        archive.Module("outer", "outer.pyc", is_package=False, code=outer, imports=("inner",)),
        archive.Module("inner", "inner.pyc", is_package=False, code=compile("a = 1", "inner.py", "exec"), imports=()),
    ]
    archive.write(tmp_path / "barewire.modules", modules, {}, ())
    program = """
import _frozen_importlib, _thread
sys.begun, ended, waited = _thread.allocate_lock(), _thread.allocate_lock(), []
sys.begun.acquire(), ended.acquire()

def imports():
    import outer
    ended.release()

class Context(_frozen_importlib._ImportLockContext):
    def __enter__(self):
        if not waited:
            waited.append(1)
            _thread.start_new_thread(imports, ())
            sys.begun.acquire()
        super().__enter__()

_frozen_importlib._ImportLockContext = Context
import inner
print(ended.acquire(True, 20), inner.a)
"""
    done = in_the_bundle(tmp_path, program)
    assert done.stdout.strip() == "True 1", done.stderr


def test_a_module_comes_after_those_that_it_imports():
    imports = {"top": ("middle", "bottom"), "bottom": (), "middle": ("bottom", "sys")}
    code = compile("", "empty.py", "exec")
    modules = {
        name: archive.Module(name, name, is_package=False, code=code, imports=some) for name, some in imports.items()
    }
    assert archive._closure(["top"], modules) == ["bottom", "middle", "top"]
