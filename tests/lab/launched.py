"""A helper in the guest, and launchers that hand calls over to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.lab.cni import BIN_DIR as INSTALLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.vm import Vm

BIN_DIR = "/run/lab/launched"
SOCKET = "/run/barewire/lab-helper.sock"
SECONDS = 60.0

# The helper writes its first line when it serves.
_SERVE = """
import os, subprocess
QUIET = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
helper = subprocess.Popen([os.environ["PROGRAM"], os.environ["SOCKET"]], stdout=subprocess.PIPE, **QUIET)
line = helper.stdout.readline()
assert b"serves" in line, line
print(helper.pid)
"""


@contextmanager
def helper(vm: Vm) -> Iterator[int]:
    """The process of a helper of the installed bundle; the entry of `sriov` in `BIN_DIR` is its launcher."""
    name = vm.run("sed", "-n", "s/^# barewire-entry: //p", f"{INSTALLED}/sriov").out.strip()
    lines = f"\n# barewire-entry: {name}\nsriov\n{INSTALLED}\n{SOCKET}\n"
    vm.run("mkdir", "-p", "-m", "0700", "/run/barewire", BIN_DIR)
    entry = f"{BIN_DIR}/sriov"
    vm.run("sh", "-c", f"cat {INSTALLED}/{name}/launcher - >{entry} && chmod 0755 {entry}", stdin=lines)
    env = {"PROGRAM": f"{INSTALLED}/{name}/barewire-helper", "SOCKET": SOCKET}
    pid = int(vm.python(_SERVE, env=env, timeout=SECONDS).out)
    try:
        yield pid
    finally:
        vm.run("kill", "-KILL", str(pid), check=False)
        vm.run("rm", "-rf", SOCKET, f"{SOCKET}.lock", BIN_DIR)
