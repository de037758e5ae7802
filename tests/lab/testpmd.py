"""DPDK's testpmd in the lab's machine: the program of the host's package, with drivers for a VF and for vhost-user."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.vm import Vm

PROGRAM = Path("/usr/bin/dpdk-testpmd")
DRIVERS = ("librte_net_e1000.so", "librte_mempool_ring.so", "librte_net_vhost.so", "librte_net_virtio.so")
FOLDER = "/run/testpmd"


def put_testpmd(vm: Vm) -> list[str]:
    """Copies the program and its libraries, 18 MB. Returns the command line, to which the options of EAL are added."""
    drivers = [next(Path("/usr/lib").glob(f"*/dpdk/pmds-*/{name}")) for name in DRIVERS]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in {PROGRAM, *drivers, *_libraries([PROGRAM, *drivers])}:
            tar.add(path.resolve(), arcname=path.name)
    vm.run("mkdir", "-p", FOLDER)
    vm.run("tar", "-C", FOLDER, "-xf", "-", stdin=archive.getvalue())
    # EAL's own option refuses drivers below a directory that all may write to, as the guest's /run is.
    loaded = ":".join(f"{FOLDER}/{name}" for name in DRIVERS)
    return ["env", f"LD_LIBRARY_PATH={FOLDER}", f"LD_PRELOAD={loaded}", f"{FOLDER}/{PROGRAM.name}"]


def _libraries(programs: list[Path]) -> set[Path]:
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    return {Path(path) for path in re.findall(r"=> (/\S+)", listed)}
