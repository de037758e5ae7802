"""The libvirt of a virt-launcher pod as a daemon: the source and the target of a migration.

It runs as the pod's user, with its socket where virt-launcher's libvirt has it. QEMU is in the PID namespace of the
daemon and dies with it, as with its pod. Other domains of the tests do without a daemon (tests/ovs/domain.py).
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self
from uuid import uuid4

from tests.ovs.daemon import LEASH, until
from tests.ovs.domain import NAMESPACES, VIRSH_SECONDS, Domain, Interface, as_user
from tests.ovs.guest_image import CACHE
from tests.ovs.launcher_pod import USER, LauncherPod
from tests.ovs.machine import END_SECONDS, MachineError

SOCKET = "run/libvirt/libvirt-sock"
PRIVATE = "/run/kubevirt-private"
# No virtlogd. All else that tests set for libvirt is for a libvirt of root's.
QEMU_CONF = 'stdio_handler = "file"\n'
ACCOUNTS = {"passwd": f"qemu:x:{USER}:{USER}::/:/usr/sbin/nologin\n", "group": f"qemu:x:{USER}:\n"}
# The cache of libvirt contains what QEMU can do, under a key of both versions, and its log. The shell is
# process 1: its wait reaps QEMU, which has detached itself.
INSIDE = """
for file in passwd group; do mount --bind "$0/$file" /etc/$file; done
! tool=$(command -v ovs-vsctl) || mount --bind /dev/null "$tool"
known=$XDG_CACHE_HOME/libvirt/qemu/cache/capabilities
mkdir -p "$known"
chown -R "$(stat -c %u "$1")" "$XDG_CACHE_HOME"
mount --bind "$1" "$known"
shift
"$@" libvirtd --config "$0/libvirtd.conf" &
wait $!
"""


class Libvirtd:
    """Created with `with`, in a pod that runs."""

    def __init__(self, pod: LauncherPod) -> None:
        self.pod = pod

    def __enter__(self) -> Self:
        self._files = tempfile.TemporaryDirectory(prefix="libvirtd-")
        self._folder = Path(self._files.name)
        self._write_files()
        environment = {
            "HOME": PRIVATE,
            "PATH": os.environ["PATH"],
            "XDG_CACHE_HOME": f"{PRIVATE}/cache",
            "XDG_CONFIG_HOME": str(self._folder),
            "XDG_RUNTIME_DIR": "/run",
            "LIBVIRT_LOG_OUTPUTS": f"3:file:{self._folder / 'libvirtd.log'}",
        }
        argv = [*NAMESPACES, "sh", "-ec", INSIDE, str(self._folder), str(_known()), *as_user(USER)]
        with (self._folder / "output.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*LEASH, *self.pod.within, *argv], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            until("libvirtd's answer", self._answers)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        """At once, and its machines with it: as when the pod is deleted."""
        self.process.kill()
        self.process.wait(END_SECONDS)
        self._files.cleanup()

    def virsh(self, *command: str) -> str:
        """The answer to a command. Raises MachineError with libvirt's words."""
        return self.ended(self.start_virsh(*command))

    def start_virsh(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command and does not wait; `ended` does."""
        uri = f"qemu+unix:///session?socket={self.pod.root / SOCKET}"
        return subprocess.Popen(
            [*LEASH, "virsh", "--quiet", "--connect", uri, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str], seconds: float = VIRSH_SECONDS) -> str:
        """The answer to a command that was started. Raises MachineError with libvirt's words."""
        with process:
            try:
                out, err = process.communicate(timeout=seconds)
            finally:
                process.kill()
        if process.returncode:
            raise MachineError(f"virsh: {err}\n{self.log()}")
        return out

    def log(self) -> str:
        """What libvirt and QEMU had to say."""
        of_qemu = self.pod.root / f"{PRIVATE}/cache/libvirt/qemu/log".lstrip("/")
        logs = [*self._folder.glob("*.log"), *of_qemu.glob("*.log")]
        return "\n".join(path.read_text(errors="replace") for path in sorted(logs))

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return bool(self.virsh("version"))
        except MachineError:
            return False

    def _write_files(self) -> None:
        (self._folder / "libvirt").mkdir()
        (self._folder / "libvirt/qemu.conf").write_text(QEMU_CONF)
        # libvirt does not migrate to the host where it is, and knows a host by its UUID.
        (self._folder / "libvirtd.conf").write_text(f'host_uuid = "{uuid4()}"\n')
        for name, line in ACCOUNTS.items():
            (self._folder / name).write_text(Path("/etc", name).read_text() + line)
        for path in (self._folder, self._folder / "libvirt"):
            os.chown(path, USER, USER)


def _known() -> Path:
    folder = CACHE / f"libvirtd-{USER}"
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, USER, USER)
    return folder


class MovableDomain(Domain):
    """A domain of a `Libvirtd`, that can go to another one."""

    def __init__(
        self, libvirtd: Libvirtd, name: str, interfaces: list[Interface], hook: Callable[[bytes], bytes]
    ) -> None:
        super().__init__(name, interfaces, hook=hook, user=USER)
        self.libvirtd = libvirtd

    def virsh(self, command: str) -> str:
        return self.libvirtd.virsh(*command.split())

    def follow(self, libvirtd: Libvirtd) -> None:
        """The domain has migrated: from now on, commands go to the guest there."""
        self.libvirtd, self._process = libvirtd, libvirtd.process
        if self._shell:
            self._shell.close()
            # The target's QEMU connected at its start, and so did those of targets that failed: it is the last one.
            self._shell = self._accept(END_SECONDS)
            while select.select([self._listener], [], [], 0)[0]:
                self._shell.close()
                self._shell = self._accept(END_SECONDS)

    def log(self) -> str:
        return f"{super().log()}\n{self.libvirtd.log()}"

    def _start(self) -> None:
        for path in (self.folder, self.folder / "shell"):
            os.chown(path, USER, USER)
        self._process = self.libvirtd.process
        self._create()

    def _stop(self) -> None:
        """The daemon's end is its machines' end."""
