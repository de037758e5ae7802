"""The helper with an additional plugin `probe`, which does in `folder` what the key `do` of the configuration says."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni.errors import CheckFailed
from cni.helper.start import PROGRAMS, main
from cni.protocol.result import IpConfig, Result

if TYPE_CHECKING:
    from cni.protocol.request import Request


class Probe:
    def __init__(self, request: Request) -> None:
        self.folder = Path(str(request.config.get("folder", "/nowhere")))
        self.do = str(request.config.get("do", ""))

    def add(self, request: Request) -> Result:
        if self.do == "report":
            raise CheckFailed(json.dumps(surroundings()))
        if self.do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.do == "exhaust":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        if self.do == "large":
            return Result(ips=tuple(IpConfig(address=f"10.{n >> 8 & 255}.{n & 255}.1/24") for n in range(20_000)))
        if self.do == "wait":
            self.wait()
        return Result()

    def delete(self, request: Request) -> None:
        if self.do == "wait" and request.command == "DEL":
            self.wait()
        with (self.folder / "deleted").open("a") as file:
            file.write(f"{request.container_id}\n")

    def undo(self, request: Request) -> None:
        self.delete(request)

    def wait(self) -> None:
        """Two pipes: the first one shows the test that the call has arrived, and the test writes to the second one to
        continue it.
        """
        (self.folder / "at").write_text(f"{os.getpid()}\n")
        (self.folder / "go").read_text()

    def check(self, request: Request) -> None:
        pass

    def gc(self, request: Request) -> None:
        pass

    def status(self, request: Request) -> None:
        pass


def surroundings() -> dict[str, Any]:
    mask = os.umask(0)
    return {
        "umask": mask,
        "directory": os.getcwd(),
        "root": os.stat("/").st_ino,
        "net": os.stat("/proc/self/ns/net").st_ino,
        "mnt": os.stat("/proc/self/ns/mnt").st_ino,
        "uts": os.stat("/proc/self/ns/uts").st_ino,
        "environment": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
        "descriptors": sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and is_open(fd)),
        "listening": [link for link in map(link_of, os.listdir("/proc/self/fd")) if link.endswith(".lock")],
        "session": os.getsid(0) == os.getpid(),
    }


def is_open(fd: int) -> bool:
    """Excludes the descriptor of the directory that is being listed."""
    return "/proc/" not in link_of(str(fd))


def link_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "/proc/"


if __name__ == "__main__":
    main(sys.argv[1:], {**PROGRAMS, "probe": Probe})
