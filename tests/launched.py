"""Launchers and helpers of tests: a launcher is compiled in a second, and gets its four lines as from install.sh."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
BUILD = "source"
"""What the helper from the sources calls its build."""
SECONDS = 20.0
RECVMSG = {"x86_64": "47", "aarch64": "212"}[os.uname().machine]
_WAITING = 2
FROM_SOURCE = (sys.executable, "-E", "-s", "-m", "tests.contract.probe_helper")


PATIENT, IMPATIENT = 30, 1
"""Seconds that a launcher waits: a busy machine must not look like a helper that is stopped, unless it is."""


def compiled(folder: Path, build: str = BUILD, ready_seconds: int = PATIENT) -> Path:
    file = folder / f"launcher-{build}-{ready_seconds}"
    subprocess.run([ROOT / "build/launcher.sh", build, file, f"-DREADY_SECONDS={ready_seconds}"], check=True)
    return file


def entry(launcher: Path, file: Path, bundle: Path, plugin: str, socket: Path) -> Path:
    """An entry as install.sh makes it: in `file`, for a bundle that may stand elsewhere."""
    lines = f"\n# barewire-entry: {bundle.name}\n{plugin}\n{bundle.parent}\n{socket}\n"
    return _executable(file, launcher.read_bytes() + lines.encode())


def _executable(file: Path, content: bytes) -> Path:
    # A file that is written cannot be executed at the same time.
    if not file.exists() or file.read_bytes() != content:
        file.write_bytes(content)
        file.chmod(0o755)
    return file


def _waits(pid: int) -> bool:
    """Whether the process is in recvmsg, as a child of a helper is only while it waits for a connection."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] == RECVMSG
    except OSError:
        return False


class Called(NamedTuple):
    code: int
    out: bytes
    err: bytes


class Helper:
    """A helper process; the context ends when it has ended."""

    def __init__(self, socket: Path, command: Sequence[str] = FROM_SOURCE) -> None:
        self.socket = socket
        self.process = subprocess.Popen([*command, str(socket)], stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdout
        first = self.process.stdout.readline()
        if b"serves" not in first:
            self.__exit__()
            raise RuntimeError(f"the helper does not serve: {first.decode()}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()
        assert self.process.stdout
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def next_child(self) -> int:
        """The child that serves the next call: the one that has waited longest, once both wait."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            waiting = [pid for pid in self.children() if _waits(pid)]
            if len(waiting) == _WAITING:
                return waiting[0]
        raise AssertionError("the helper's children do not come to rest")


CONF = {"cniVersion": "1.0.0", "name": "net", "type": "probe"}
ENV = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "net1", "CNI_PATH": "/"}
FALLBACK = '#!/bin/sh\nprintf "stand-alone %s:" "$*"\ncat\n'


class World(NamedTuple):
    """An entry of the plugin `probe` and its bundle, whose program only says that it was executed."""

    folder: Path
    launcher: Path

    @property
    def socket(self) -> Path:
        return self.folder / "helper.sock"

    def probe(self) -> Path:
        bundle = self.folder / "bundle"
        bundle.mkdir(exist_ok=True)
        _executable(bundle / "probe", FALLBACK.encode())
        return entry(self.launcher, self.folder / "probe", bundle, "probe", self.socket)

    def start(self, do: str = "", *, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """Starts a call, and gives it its stdin."""
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [*options.pop("prefix", []), self.probe()],
            env={**ENV, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        assert process.stdin
        with contextlib.suppress(BrokenPipeError):  # a call can end without a look at its stdin
            process.stdin.write(json.dumps({**CONF, "do": do, "folder": str(self.folder)}).encode())
            process.stdin.close()
        process.stdin = None
        return process

    def call(self, do: str = "", *, env: dict[str, str] | None = None, **options: Any) -> Called:
        with self.start(do, env=env, **options) as process:
            out, err = process.communicate(timeout=SECONDS)
        return Called(process.returncode, out, err)

    def pipes(self) -> None:
        for name in ("at", "go"):
            os.mkfifo(self.folder / name)

    def await_call(self) -> int:
        """The process of a call that has come to its wait."""
        return int((self.folder / "at").read_text())

    def let_go(self) -> None:
        (self.folder / "go").write_text("")

    def deleted(self) -> list[str]:
        path = self.folder / "deleted"
        return path.read_text().split() if path.exists() else []


def is_ended(pid: int) -> bool:
    """Waits for the end of a process that is not ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(fd, "rb", closefd=True) as file:
        return bool(select.select([file], [], [], SECONDS)[0])


def stand_alone(called: Called) -> bool:
    return called.out.startswith(b"stand-alone :{") and called.code == 0


def by_helper(called: Called) -> bool:
    return called.code == 0 and called.out.startswith(b'{"cniVersion": "1.0.0"')


def refusal(called: Called) -> Any:
    assert called.code == 1, called
    return json.loads(called.out)
