"""Prints information about the container as JSON: `python -m cni.podinfo [interfaces|hugepages|cpus]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import PodInfoError, cpus, hugepages, interfaces
from .cpuset import CGROUPS, PROCESS
from .merging import FOLDER
from .reading import read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

QUESTIONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "interfaces": lambda asked: interfaces(
        asked.folder, environment=_environment(asked.environ), shared_dir=asked.shared_dir
    ),
    "hugepages": lambda asked: hugepages(asked.folder, environment=_environment(asked.environ)),
    "cpus": lambda asked: cpus(asked.process, cgroups=asked.cgroups),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 1 if the information is not available, with the reason on stderr."""
    asked = _options(argv)
    try:
        print(json.dumps(QUESTIONS[asked.question](asked), indent=2))
    except PodInfoError as error:
        # A file name in the message may contain line ends.
        print(f"podinfo: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="podinfo", description="Tells a container what the pod gave to it, as JSON.")
    parser.add_argument("question", nargs="?", choices=QUESTIONS, default="interfaces")
    parser.add_argument("--folder", default=FOLDER, help="mount of the downward API volume (%(default)s)")
    parser.add_argument("--shared-dir", help="mount of the vhost-user sockets (as annotated)")
    parser.add_argument("--environ", help="environment in a file such as /proc/7/environ (the command's own)")
    parser.add_argument("--process", default=PROCESS, help="folder of the process in /proc (%(default)s)")
    parser.add_argument("--cgroups", default=CGROUPS, help="mount of the control groups (%(default)s)")
    return parser.parse_args(argv)


def _environment(path: str | None) -> Mapping[str, str]:
    if path is None:
        return os.environ
    content = read(Path(path))
    if content is None:
        raise PodInfoError(f"there is no {path}")
    pairs = (variable.partition("=") for variable in content.split("\0"))
    return {name: value for name, sign, value in pairs if sign}


if __name__ == "__main__":
    sys.exit(main())
