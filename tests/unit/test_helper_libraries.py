"""The libraries that a helper has set up before it forks keep nothing that could be out of date, or be shared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
START = "import cni.helper.start; from cni.helper import libraries, warm; warm.load_all(); "
FORKED = """
import os, ssl
libraries.prepare()
for number in range(2):
    pid = os.fork()
    if pid == 0:
        os.write(1, ssl.RAND_bytes(16).hex().encode() + b" ")
        os._exit(0)
    os.waitpid(pid, 0)
"""


def python(program: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", START + program],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_file_or_connection_is_opened_for_the_libraries(tmp_path):
    trace = tmp_path / "trace"
    strace = ("strace", "-f", "-o", str(trace), "-e", "trace=open,openat,openat2,socket,connect,getcwd")
    python("import os; os.getcwd(); libraries.prepare(); os.getcwd()", *strace)
    _before, _mark, rest = trace.read_text().rpartition("getcwd(")[0].rpartition("getcwd(")
    assert [line for line in rest.splitlines()[1:] if "open" in line or "socket" in line or "connect" in line] == []


def test_children_have_random_numbers_of_their_own():
    first, second = python(FORKED).stdout.split()
    assert first != second


def test_a_prepared_helper_has_no_descriptor_more():
    program = "import os; n = len(os.listdir('/proc/self/fd')); libraries.prepare(); print(len(os.listdir('/proc/self/fd')) - n)"
    assert python(program).stdout == "0\n"
