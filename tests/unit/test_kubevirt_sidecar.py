"""The sidecar as a process: its socket's name, its error messages, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from cni.errors import InvalidConfig
from kubevirt.sidecar import NAME, reason, socket_name

ROOT = Path(__file__).parents[2]
HEADER = 8192
"""Bytes of all headers that gRPC accepts."""


def test_a_socket_has_the_name_of_the_container_or_the_binding():
    assert socket_name("hook-sidecar-0", "vhostuser") == "hook-sidecar-0-vhu.sock"
    assert socket_name("", "vhostuser") == "vhostuser-vhu.sock"
    assert socket_name("", "") != socket_name("", "")


@pytest.mark.parametrize("names", [("a" * 50 + "1", "a" * 50 + "2"), ("a_b", "a-b"), ("a/b", "a_b")])
def test_names_that_are_the_same_after_they_were_cut_give_two_sockets(names):
    made = {socket_name("", name) for name in names}
    assert len(made) == 2
    assert all(len(name) < 64 and "/" not in name for name in made)


@pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f600", "\udc80"])
def test_a_reason_of_any_characters_is_no_longer_than_a_header(character):
    text = reason(InvalidConfig(character * 3000))
    assert text.startswith(f"{NAME}: ")
    assert len(quote(text)) < HEADER


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_imports_ends_the_sidecar(tmp_path, number):
    """The signal is sent during the import of gRPC. Without a handler it ends this process, but not PID 1 of a
    container.
    """
    (tmp_path / "grpc.py").write_text(f"import os; os.kill(os.getpid(), {int(number)}); raise SystemExit(9)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kubevirt"], env=environment, cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
