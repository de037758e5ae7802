"""The sidecar as a process, and virt-launcher's folder of hooks.

The bundle is built here, because no other test needs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "dist/barewire-kubevirt"
END_SECONDS = 30.0
Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def program() -> list[str]:
    """The frozen sidecar."""
    subprocess.run([ROOT / "build/freeze_resident.sh", "kubevirt"], check=True, timeout=900)
    return [str(BUNDLE / "barewire-kubevirt")]


@pytest.fixture
def source() -> list[str]:
    return [sys.executable, "-m", "kubevirt"]


@pytest.fixture
def hooks() -> Iterator[Path]:
    """A folder with a short path: that of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="bw") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def start() -> Iterator[Started]:
    """Starts a sidecar as KubeVirt does, with an environment and no arguments."""
    with ExitStack() as ends:

        def started(command: list[str], folder: Path, **environment: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "BAREWIRE_HOOKS": str(folder), **environment},
                stderr=subprocess.PIPE,
                text=True,
            )

            def end() -> None:
                process.kill()
                process.wait(END_SECONDS)
                assert process.stderr
                process.stderr.close()

            ends.callback(end)
            return process

        yield started
