"""A virtual machine with SR-IOV: real igb PFs and igbvf VFs of a real kernel, emulated by QEMU, driven from the host.

    with Vm(pfs=1, vfs=7) as vm:
        print(vm.run("ip", "-br", "link").out)

It takes about 6 s until the first command. All methods may be called from several threads at the same time.
"""

from __future__ import annotations

import io
import shlex
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab import qemu
from tests.lab.channel import Answer, Call, Channel
from tests.lab.errors import GuestFailed, GuestTimeout, LabError, VmFailed, VmGone, VmStuck
from tests.lab.image import Image, image as current_image
from tests.lab.progress import Say, silent
from tests.lab.wire import Wire

BOOT_S = 180.0
"""A boot takes 6 s on an idle processor, and ten times as long on one that ten processes share."""

BOOT_TRIES = 3
ANSWER_S = 30.0
KILL_S = 10.0


@dataclass(frozen=True)
class Completed:
    """A command that has ended. `rc` is minus the signal's number if a signal ended it; `seconds` were measured in the
    guest.
    """

    rc: int
    out: str
    err: str
    seconds: float


class Running:
    """A command that runs in the guest."""

    def __init__(self, vm: Vm, what: str, call: Call) -> None:
        self._vm = vm
        self._call = call
        self.what = what
        self.pid: int = vm.answer(call.first)[0]["pid"]

    def poll(self) -> Completed | None:
        """Its outcome; None while it runs."""
        return self.wait() if self._call.last.done() else None

    def ended(self, timeout: float) -> Completed | None:
        """Its outcome; None, and it continues, if it has not ended within that time (seconds)."""
        try:
            return _completed(self._vm.answer(self._call.last, timeout))
        except FutureTimeout:
            return None

    def wait(self, timeout: float = 60, *, check: bool = False) -> Completed:
        """Waits for its end. Raises GuestTimeout after `timeout` seconds, and kills it and its children."""
        try:
            done = _completed(self._vm.answer(self._call.last, timeout))
        except FutureTimeout:
            self.kill()
            out, err = self._split(self._vm.answer(self._call.last, KILL_S))
            raise GuestTimeout(self.what, timeout, out, err) from None
        if check and done.rc:
            raise GuestFailed(self.what, done.rc, done.out, done.err)
        return done

    def output(self) -> tuple[str, str]:
        """Its output so far on stdout and stderr."""
        if not self._call.last.done():
            answer = self._vm.ask("output", job=self._call.id)
            if "out" in answer[0]:
                return self._split(answer)
        return self._split(self._vm.answer(self._call.last))

    def wait_for_output(self, text: str, timeout: float = 10) -> None:
        """Waits until it has printed the text. Raises GuestTimeout after `timeout` seconds, and kills it."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self._call.last.done()
            if any(text in output for output in self.output()):
                return
            if ended or time.monotonic() > deadline:
                self.kill()
                raise GuestTimeout(f"{self.what} did not print {text!r}; it", timeout, *self.output())
            time.sleep(0.01)  # a memory file sends no event when it grows

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends the signal to it and to all processes of its session; does nothing if it has ended."""
        self._vm.ask("signal", job=self._call.id, signal=int(number))

    @staticmethod
    def _split(answer: Answer) -> tuple[str, str]:
        head, body = answer
        return body[: head["out"]].decode(errors="replace"), body[head["out"] :].decode(errors="replace")


def _completed(answer: Answer) -> Completed:
    out, err = Running._split(answer)
    return Completed(rc=answer[0]["rc"], out=out, err=err, seconds=answer[0]["seconds"])


class Console:
    """The output of the guest's kernel and its first programs."""

    def __init__(self, line: socket.socket, say: Say) -> None:
        self._line = line
        self._say = say
        self._text = bytearray()
        self._reader = threading.Thread(target=self._read, name="lab console", daemon=True)
        self._reader.start()

    def text(self) -> str:
        return self._text.decode(errors="replace").replace("\r\n", "\n")

    def close(self) -> None:
        self._reader.join(timeout=5)
        self._line.close()

    def _read(self) -> None:
        rest = b""
        try:
            while data := self._line.recv(65536):
                self._text += data
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._say(line.decode(errors="replace").strip())
        except OSError:
            pass


class Vm:
    """The machine runs inside the `with` block. `say` receives its progress during the boot.

    `disk` is a folder whose content at the start of the block is on a disk of the machine: see `mount_disk`.
    """

    def __init__(
        self,
        pfs: int = 1,
        vfs: int = 7,
        *,
        memory: int = 1024,
        cpus: int = 1,
        append: str = "",
        disk: Path | None = None,
        say: Say = silent,
    ) -> None:
        # With two emulated processors one in a hundred boots lost the second one's timer interrupts, and never ended.
        self.pfs, self.vfs = pfs, vfs
        self._shape = {"pfs": pfs, "vfs": vfs, "memory": memory, "cpus": cpus}
        self._append = append
        self.disk = disk
        self._say = say
        self.boots = 0
        self._folder: Path
        self._image: Image
        self._qemu: qemu.Qemu
        self._channel: Channel
        self._console: Console
        self.wires: tuple[Wire, ...] = ()

    # Life

    def __enter__(self) -> Self:
        self._image = current_image(self._say)
        self._folder = Path(tempfile.mkdtemp(prefix="lab-"))
        self._disk_image = erofs(self.disk, self._folder / "disk.erofs") if self.disk else None
        self._boot()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._halt()
        shutil.rmtree(self._folder)

    def _boot(self) -> None:
        """Boots; again if QEMU ends by itself or hangs, as its emulation rarely does."""
        for tries_left in reversed(range(BOOT_TRIES)):
            try:
                self._boot_once()
            except (VmGone, VmStuck) as failure:
                if not tries_left:
                    raise
                self._say(f"booting again: {failure}")
            else:
                return

    def _boot_once(self) -> None:
        folder = self._folder
        self.boots += 1
        self.wires = tuple(Wire(folder, pf) for pf in range(self.pfs))
        with _listener(folder / "ctl") as control, _listener(folder / "console") as console:
            argv = qemu.command(self._image, folder, append=self._append, disk=self._disk_image, **self._shape)
            self._qemu = qemu.Qemu(argv, folder / "qemu.log")
            try:
                self._console = Console(console.accept()[0], self._say)
                self._channel = Channel(control.accept()[0])
            except TimeoutError:
                self._qemu.end()
                raise VmFailed("QEMU did not start", self._qemu.messages()) from None
        try:
            self._wait_until_ready()
        except BaseException:
            self._halt()
            raise

    def _wait_until_ready(self) -> None:
        try:
            self.answer(self._channel.hello.last, BOOT_S)
            verdict = self.run("cat", "/run/lab/ready", timeout=BOOT_S).out.strip()
        except VmGone:
            raise
        except (GuestTimeout, FutureTimeout) as error:
            raise VmStuck(f"the machine did not boot: {error!r}", self._last_words()) from error
        except LabError as error:
            raise VmFailed(f"the machine did not boot: {error!r}", self._last_words()) from error
        if verdict != "ready":
            raise VmFailed("the PFs did not come up", self.console())
        self._say("the machine is ready")

    def _halt(self) -> None:
        self._qemu.end()
        self._channel.close()
        self._console.close()
        for wire in self.wires:
            wire.close()

    def reboot(self, keep: tuple[str, ...] = ("/var/lib", "/opt", "/etc/cni")) -> None:
        """Cuts the power and boots again: another boot ID, an empty /run; only the kept folders are as before.

        They are lost if the machine has already ended.
        """
        if self.gone or not keep:
            self._halt()
            self._boot()
            return
        self.run("tar", "-C", "/", "-cf", "/run/lab/keep.tar", *(path.lstrip("/") for path in keep))
        archive = self.get("/run/lab/keep.tar")
        self._halt()
        self._boot()
        self.run("rm", "-rf", *keep)
        self.run("tar", "-C", "/", "-xf", "-", stdin=archive)

    @property
    def gone(self) -> bool:
        """Whether the machine or the guest's agent has ended; then only `reboot` helps."""
        return self._channel.broken

    def console(self) -> str:
        """The output on the console since the last boot."""
        return self._console.text()

    def _last_words(self) -> str:
        words = self._qemu.messages()  # ends it, so that the console is complete
        return f"{self.console()}\n{words}"

    # Commands

    def run(
        self,
        *argv: str,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> Completed:
        """Runs a program of the guest and waits for it, at most `timeout` seconds.

        Raises GuestFailed if it ends with a code other than 0 and `check` is set, GuestTimeout, and LabError if it
        cannot be started.
        """
        return self.start(*argv, stdin=stdin, env=env).wait(timeout, check=check)

    def plug_cable(self, *, plugged: bool, pf: int = 0) -> None:
        """Plugs in, or pulls, the cable of a PF."""
        qemu.plug_cable(self._folder, pf, plugged=plugged)

    def sh(
        self,
        script: str,
        *,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> Completed:
        """`run` for a bash script."""
        return self.run("bash", "-c", script, stdin=stdin, env=env, timeout=timeout, check=check)

    def python(
        self,
        code: str,
        *,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> Completed:
        """`run` for Python code, in a process that has already loaded pyroute2 and pydantic."""
        return self.start_python(code, stdin=stdin, env=env).wait(timeout, check=check)

    def start(self, *argv: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> Running:
        """Starts a program of the guest and does not wait."""
        call = self._channel.call("run", _bytes(stdin), argv=argv, env=dict(env or {}))
        return Running(self, shlex.join(argv), call)

    def start_python(self, code: str, *, stdin: str | bytes = b"", env: Mapping[str, str] | None = None) -> Running:
        """`start` for Python code."""
        call = self._channel.call("python", _bytes(stdin), code=code, env=dict(env or {}))
        return Running(self, f"python: {code.strip()[:60]!r}", call)

    # Files

    def put(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Writes a file of the guest, and creates its folders."""
        self.ask("put", _bytes(data), path=path, mode=mode)

    def get(self, path: str) -> bytes:
        """The content of a file of the guest. Raises LabError if it cannot be read."""
        return self.ask("get", path=path)[1]

    def put_tree(self, host_folder: Path, guest_folder: str) -> None:
        """Copies a folder's contents with modes and symlinks, owned by root."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(host_folder, arcname=".", filter=_owned_by_root)
        self.run("mkdir", "-p", guest_folder)
        self.run("tar", "-C", guest_folder, "-xf", "-", stdin=archive.getvalue())

    def mount_disk(self, guest_folder: str) -> None:
        """Mounts the machine's disk there, read-only, until the next boot."""
        self.run("mkdir", "-p", guest_folder)
        self.run("mount", "-t", "erofs", "-o", "ro", "/dev/vdb", guest_folder)

    # The line to the agent

    def ask(self, op: str, body: bytes = b"", **arguments: object) -> Answer:
        return self.answer(self._channel.call(op, body, **arguments).last)

    def answer(self, future: Future[Answer], timeout: float = ANSWER_S) -> Answer:
        """Raises LabError if the guest refused, VmGone if it has ended, and TimeoutError."""
        try:
            head, body = future.result(timeout)
        except LabError as error:
            raise VmGone(str(error), self._last_words()) from None
        if head["event"] == "refused":
            raise LabError(f"the guest refused: {head['error']}")
        return head, body


def erofs(folder: Path, to: Path) -> Path:
    """A disk image with a folder's contents, owned by root."""
    subprocess.run(["mkfs.erofs", "--all-root", str(to), str(folder)], check=True, stdout=subprocess.DEVNULL)
    return to


def _listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(10)
    return listener


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
