"""The start of the helper: it loads the plugins and everything that they could import, and listens."""

from __future__ import annotations

import os
import signal
import sys

from cni.errors import IoFailure
from cni.helper import libraries, service, surroundings, warm
from cni.helper.call import House
from cni.host.files import make_directory, require_private
from cni.sriov.__main__ import load as load_sriov
from cni.userspace.__main__ import load as load_userspace
from ipam.__main__ import load as load_ipam

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from cni.helper.call import Load

PROGRAMS = {"sriov": load_sriov, "userspace": load_userspace, "barewire-ipam": load_ipam}
_INTERRUPTED = 130
_STDERR = 2


def main(arguments: list[str], programs: Mapping[str, Load] = PROGRAMS) -> NoReturn:
    """Runs the helper. It ends by a signal, or with a message if it cannot serve."""
    if len(arguments) != 1 or not arguments[0].startswith("/"):
        sys.exit(
            "usage: barewire-helper SOCKET\n  the unit that install.sh --helper makes says which socket the launchers use"
        )
    path = arguments[0]
    _start_afresh()
    try:
        build = build_of(os.path.dirname(sys.executable))
        warm.load_all()
        libraries.prepare()
        folder = os.path.dirname(path)
        make_directory(folder)
        require_private(folder)
        listener, lock = service.listen(path)
        os.write(1, f"barewire-helper: serves {path} (build {build})\n".encode())
        service.run(listener, House(build=build, programs=programs, namespaces=surroundings.own()), lock)
    except IoFailure as error:
        sys.exit(f"barewire-helper: {error.msg}\n  what to do: {error.hint}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _start_afresh() -> None:
    """Resets signals and closes inherited descriptors: a child must not take them for those of its launcher."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > _STDERR and _is_inherited(fd):
            os.close(fd)
    # A child would overwrite a descriptor of ours that has the number of a closed standard descriptor.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(fd)


def _is_inherited(fd: int) -> bool:
    """Whether the descriptor was open when the program started: our own are closed on exec."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False  # It was the descriptor of the listing, which is closed by now.


def build_of(bundle: str) -> str:
    """The build in the description of the bundle; `source` outside of a bundle. Raises `IoFailure`."""
    try:
        with open(f"{bundle}/bundle.info", encoding="utf-8") as file:
            return dict(line.rstrip("\n").split("=", 1) for line in file)["build"]
    except FileNotFoundError:
        return "source"
    except (OSError, ValueError, KeyError) as error:
        raise IoFailure(f"cannot read {bundle}/bundle.info: {error}", hint="run install.sh again") from error
