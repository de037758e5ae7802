"""What every frozen program begins with: from here on, modules come from the one file that build/archive.py wrote.

It takes the place of PyInstaller's bootstrap, which prepares for archives, eggs and libraries that a plugin does not
have (docs/adr/0031-modules-in-one-file.md). What is not in the file, such as an encoding, Python finds in `sys.path`.

A unit of the file holds modules that are always needed together. They are executed in the order in which the `import`
statements would come to them, so that those statements find them in `sys.modules`, which is far quicker than a search.
"""

import _thread
import gc
import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

FILE = "barewire.modules"
# The index and the modules of every call are within: they take one read.
HEAD = 131_072
# A call ends before this many objects are in use: no collection would find anything. A longer command still collects.
COLLECT_AFTER = 100_000

_Module = type(sys)


class Archive:
    """Finds and loads modules: the interpreter asks it first for each name that is not imported yet."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        # It stays open, so that a process finds its modules in whatever mount namespace it is.
        self._file = _above_stderr(posix.open(f"{folder}/{FILE}", posix.O_RDONLY | posix.O_CLOEXEC))
        self._head = posix.read(self._file, HEAD)
        # The unit of each module, the place of each unit, and the file of each library that is a module.
        self._modules, self._units, self._libraries = marshal.loads(self._head)
        self._waiting: dict[str, tuple[CodeType, bool]] = {}
        self._codes: dict[str, CodeType] = {}

    def __repr__(self) -> str:
        return FILE

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> "ModuleSpec | None":
        unit = self._modules.get(name)
        if unit is None:
            return self._library(name)
        if name in sys.modules:
            return sys.modules[name].__spec__
        if _thread._count():  # noqa: SLF001 - the only way to know, and it is what `threading` counts with
            # importlib calls this with its global lock held. A module that is executed here can wait for a module of
            # another thread, which waits for that lock: such an ADD never ended. `exec_module` executes it without it.
            return self._deferred(name, *self._units[unit])
        self._load(name, *self._units[unit])
        return sys.modules[name].__spec__

    def create_module(self, spec: ModuleSpec) -> "ModuleType | None":
        return sys.modules.get(spec.name)

    def exec_module(self, module: "ModuleType") -> None:
        """Executes the module while other threads run. Otherwise `find_spec` has done it, as for the whole unit."""
        code = self._codes.pop(module.__name__, None)
        if code is not None:
            exec(code, module.__dict__)
            _report(module.__name__)

    def _library(self, name: str) -> "ModuleSpec | None":
        file = self._libraries.get(name)
        if file is None:
            return None
        path = f"{self._folder}/{file}"
        return ModuleSpec(name, ExtensionFileLoader(name, path), origin=path)

    def _deferred(self, name: str, offset: int, size: int) -> ModuleSpec:
        if name not in self._waiting:
            self._waiting.update(self._unit(offset, size))
        code, is_package = self._waiting.pop(name)
        self._codes[name] = code
        return ModuleSpec(name, self, origin=code.co_filename, is_package=is_package)  # type: ignore[arg-type] # as below

    def _load(self, name: str, offset: int, size: int) -> None:
        if name in self._waiting:  # its unit is being executed, and a module before it needs it
            self._execute(name)
            return
        unit = self._unit(offset, size)
        self._waiting.update(unit)
        for each in unit:
            if each in self._waiting and each not in sys.modules:
                self._execute(each)

    def _unit(self, offset: int, size: int) -> "dict[str, tuple[CodeType, bool]]":
        within = offset + size <= len(self._head)
        unit: dict[str, tuple[CodeType, bool]] = marshal.loads(
            self._head[offset : offset + size] if within else posix.pread(self._file, size, offset)
        )
        return unit

    def _execute(self, name: str) -> None:
        code, is_package = self._waiting.pop(name)
        parent, _, child = name.rpartition(".")
        if parent and parent not in sys.modules:
            __import__(parent)
        module = _Module(name)
        spec = ModuleSpec(name, self, origin=code.co_filename)  # type: ignore[arg-type] # it has what the interpreter calls
        module.__spec__, module.__loader__ = spec, spec.loader
        module.__package__ = name if is_package else parent
        if is_package:
            module.__path__ = spec.submodule_search_locations = []
        spec._initializing = True  # type: ignore[attr-defined] # noqa: SLF001 - other threads wait for the lock then
        sys.modules[name] = module
        try:
            exec(code, module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            spec._initializing = False  # type: ignore[attr-defined] # noqa: SLF001 - as above
        if parent:
            setattr(sys.modules[parent], child, module)
        _report(name)


def _report(name: str) -> None:
    if sys.flags.verbose:
        sys.stderr.write(f"import '{name}' # {FILE}\n")


def _above_stderr(fd: int) -> int:
    """The same file; whoever starts us with a closed stdin, say, must not get an archive for a request."""
    if fd > 2:
        return fd
    try:
        return _above_stderr(posix.dup(fd))
    finally:
        posix.close(fd)


gc.set_threshold(COLLECT_AFTER)
sys.meta_path.insert(0, Archive(vars(sys)["_MEIPASS"]))  # the bootloader says so where `_internal` is
