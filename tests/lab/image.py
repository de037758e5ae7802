"""The files from which the lab's virtual machine boots: a kernel, a small initramfs and a read-only root image.

They are made once from the host's installed Debian packages and the project's Python, and kept in `.cache/lab` under a
key of all inputs: another package version, script or kernel makes new ones. `python -m tests.lab.image` makes them
ahead of time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab import kernel as kernels, packages
from tests.lab.kernel import Kernel
from tests.lab.progress import Say, timed

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / ".cache" / "lab"

# Modules for mounting the root image; all others are loaded from it.
BOOT_MODULES = ("virtio_blk", "erofs", "overlay")
# NICs and VFIO, the modules of pods' networks, and those that Debian's CNI plugins require.
GUEST_MODULES = (
    *("igb", "igbvf", "e1000", "iavf", "sfc", "vfio-pci", "vfio_iommu_type1"),
    *("8021q", "veth", "dummy", "bonding", "bridge", "br_netfilter", "macvlan", "ipvlan", "tun", "vrf", "vxlan", "ifb"),
    *("virtio_net", "af_packet", "nf_tables", "nft_chain_nat", "nft_compat", "ip_tables", "iptable_nat", "sch_tbf"),
)
BOOT_SCRIPTS = ("init", "boot", "agent.py", "frames.py")
# The project's Python packages that only the host runs.
HOST_ONLY = frozenset(
    "_pyinstaller_hooks_contrib PyInstaller coverage google grimp grpc grpc_tools hypothesis importlinter mypy mypyc pip "
    "prometheus_client pygments _pytest ruff setuptools".split()
)
STDLIB_LEFT_OUT = frozenset(
    "__phello__ ensurepip idlelib lib2to3 pydoc_data site-packages test tests tkinter turtledemo".split()
)
FOLDERS = "dev etc/cni/net.d mnt opt/cni/bin proc root run sys tmp var/cache var/lib/cni var/log var/tmp".split()
ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\ntcpdump:x:101:101::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nkvm:x:104:\ndisk:x:6:\ntty:x:5:\ntcpdump:x:101:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost lab\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


@dataclass(frozen=True)
class Image:
    """`python` is the project's interpreter in the guest: with pydantic, pyroute2 and ovs."""

    release: str
    vmlinux: Path
    initramfs: Path
    root: Path
    python: str


def image(say: Say | None = None, cache: Path = CACHE) -> Image:
    """The image for the installed packages; makes parts that are not in the cache. Raises LabError with the remedy."""
    say = say or timed("lab image")
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache):
        kernel = kernels.kernel(cache, say)
        initramfs = _cached(cache, "initramfs", ".cpio", _initramfs_key(kernel), say, lambda to: _initramfs(kernel, to))
        names = packages.closure(packages.guest_packages())
        root = _cached(cache, "root", ".erofs", _root_key(kernel, names), say, lambda to: _root(kernel, names, to, say))
    return Image(kernel.release, kernel.vmlinux, initramfs, root, python=str(_venv() / "bin" / "python"))


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cached(cache: Path, name: str, suffix: str, key: str, say: Say, make: Callable[[Path], None]) -> Path:
    """The file of this key. If it has to be made, those of earlier keys are removed."""
    path = cache / f"{name}-{key}{suffix}"
    if not path.exists():
        say(f"making the {name} image")
        partial = cache / f"{name}.partial"
        make(partial)
        for old in cache.glob(f"{name}-*{suffix}"):
            old.unlink()
        partial.rename(path)
        say(f"{path.name}: {path.stat().st_size >> 20} MiB")
    return path


def _digest(parts: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]


# initramfs


def _initramfs_key(kernel: Kernel) -> str:
    scripts = [(HERE / name).read_text() for name in BOOT_SCRIPTS]
    return _digest([kernel.release, BOOT_MODULES, *scripts, Path("/bin/busybox").stat().st_mtime_ns])


def _initramfs(kernel: Kernel, to: Path) -> None:
    with _stage(to) as stage:
        for folder in ("bin", "modules", "lower", "writable", "newroot", "dev", "proc", "sys"):
            (stage / folder).mkdir()
        shutil.copy("/bin/busybox", stage / "bin/busybox")
        for name in BOOT_SCRIPTS:
            shutil.copy(HERE / name, stage / name)
        (stage / "init").chmod(0o755)
        (stage / "boot").chmod(0o755)
        modules = kernel.module_files(*BOOT_MODULES)
        (stage / "modules.order").write_text("".join(f"/modules/{_unpacked(path)}\n" for path in modules))
        for path in modules:
            _unpack(path, stage / "modules" / _unpacked(path))
        files = subprocess.run(["find", "."], cwd=stage, stdout=subprocess.PIPE, check=True).stdout
        pack = ["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"]
        with to.open("wb") as out:
            subprocess.run(pack, cwd=stage, input=files, stdout=out, check=True)


@contextmanager
def _stage(to: Path) -> Iterator[Path]:
    """An empty folder next to the file that is made from it."""
    stage = to.with_suffix(".stage")
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    yield stage
    shutil.rmtree(stage)


def _unpacked(module: Path) -> str:
    return module.name.removesuffix(".xz")


def _unpack(module: Path, to: Path) -> None:
    # Unpacked once, here: under emulation, decompression costs more than reading the larger file.
    if module.suffix != ".xz":
        shutil.copy(module, to)
        return
    with to.open("wb") as out:
        subprocess.run(["xz", "-dc", str(module)], stdout=out, check=True)


# Root image


def _venv() -> Path:
    """Copied under its real path, which it also has in the guest."""
    return (REPOSITORY / ".venv").resolve()


def _site_packages() -> Path:
    return next((_venv() / "lib").glob("python3*/site-packages"))


def _root_key(kernel: Kernel, names: dict[str, str]) -> str:
    sources = [Path(module.__file__ or "").read_text() for module in (packages, sys.modules[__name__])]
    config = (_venv() / "pyvenv.cfg").read_text()
    return _digest(
        [kernel.release, sorted(names.items()), _venv(), config, sorted(os.listdir(_site_packages())), *sources]
    )


def _root(kernel: Kernel, names: dict[str, str], to: Path, say: Say) -> None:
    with _stage(to) as stage:
        _make_folders(stage)
        say(f"copying {len(names)} Debian packages")
        _copy(packages.files_of(names), stage)
        say("copying the project's Python")
        _copy(_python_files(), stage)
        say("copying kernel modules")
        _modules(kernel, stage)
        for name, text in ACCOUNTS.items():
            (stage / name).write_text(text)
        subprocess.run(["ldconfig", "-r", str(stage)], check=True)
        say("packing the root image")
        subprocess.run(["mkfs.erofs", str(to), str(stage)], check=True, stdout=subprocess.DEVNULL)


def _make_folders(stage: Path) -> None:
    for folder in FOLDERS:
        (stage / folder).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (stage / "usr" / name).mkdir(parents=True)
        (stage / name).symlink_to(f"usr/{name}")
    (stage / "var/run").symlink_to("/run")


def _copy(files: Iterable[str], stage: Path) -> None:
    """Copies these files and symlinks of the host with their times, because bytecode is valid only with its source's
    time.
    """
    names = "\0".join(sorted(path.lstrip("/") for path in files)).encode()
    pack = subprocess.Popen(["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "-cf", "-"], stdin=-1, stdout=-1)
    assert pack.stdin
    assert pack.stdout
    unpack = subprocess.Popen(["tar", "-C", str(stage), "-xf", "-"], stdin=pack.stdout)
    pack.stdout.close()
    pack.stdin.write(names)
    pack.stdin.close()
    if pack.wait() or unpack.wait():
        raise OSError(f"copying {len(names)} bytes of names into {stage} failed")


def _python_files() -> set[str]:
    """The project's environment without the host's tools, and its base Python."""
    site = _site_packages()
    files = set(_walk(site, leave_out=HOST_ONLY)) | {str(_venv() / "pyvenv.cfg")}
    files |= {str(path) for path in (_venv() / "bin").glob("python*")}
    files |= set(_base_python())
    binaries = [path for path in files if ".so" in path or os.path.basename(path).startswith("python")]
    return {packages.real(path) for path in files} | packages.libraries_of(binaries)


def _base_python() -> Iterator[str]:
    """Debian's own Python, although its packages are copied: they do not list the bytecode, which saves seconds."""
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    yield from (str(path) for path in (base / "bin").glob("python*"))
    yield from (str(path) for path in (base / "lib").glob("libpython*.so*"))
    yield from _walk(base / "lib" / version, leave_out=STDLIB_LEFT_OUT)


def _walk(top: Path, leave_out: frozenset[str]) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in leave_out and not name.startswith("config-")]
        yield from (os.path.join(folder, name) for name in names if not name.endswith(".a") and "__mypyc." not in name)


def _modules(kernel: Kernel, stage: Path) -> None:
    source = kernel.tree / "lib/modules" / kernel.release
    target = stage / "usr/lib/modules" / kernel.release
    for path in kernel.module_files(*BOOT_MODULES, *GUEST_MODULES):
        to = (target / path.relative_to(source)).with_name(_unpacked(path))
        to.parent.mkdir(parents=True, exist_ok=True)
        _unpack(path, to)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, target)
    subprocess.run(["depmod", "-b", str(stage), kernel.release], check=True)


if __name__ == "__main__":
    made = image()
    print(f"lab image: kernel {made.release}, {made.root.name}, {made.initramfs.name}")
