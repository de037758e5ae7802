"""build/lanes.py: parts of the tests run at the same time, and the output of each stays together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from lanes import EVERYTHING

from tests.ovs.daemon import until

TOP = Path(__file__).parents[2]
BUILD = TOP / "build"
TESTS = "test_*.py"
RUN = """
import sys
from pathlib import Path
from lanes import main
parts = {name: (sys.executable, "-c", code) for name, code in zip(sys.argv[2::2], sys.argv[3::2])}
raise SystemExit(main(parts, 2, Path(sys.argv[1])))
"""
SECONDS = 30


@pytest.fixture
def started(tmp_path):
    """Starts lanes with these parts, each a piece of Python code; their current directory is the test's folder."""
    running = []

    def start(**parts):
        words = [word for name, code in parts.items() for word in (name, code)]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", RUN, str(tmp_path / "logs"), *words],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(BUILD)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


def test_two_parts_run_at_the_same_time_and_each_prints_in_one_piece(started, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    code, out, _err = ended(
        started(
            reads="print('reads 1', flush=True); print(open('fifo').read()); print('reads 2')",
            writes="print('writes 1', flush=True); open('fifo', 'w').write('met'); print('writes 2')",
            last="print('last')",
        )
    )
    assert code == 0
    assert "reads 1\nmet\nreads 2\n== reads: ok" in out
    assert "writes 1\nwrites 2\n== writes: ok" in out
    assert "last\n== last: ok" in out


def test_a_part_that_fails_is_named_and_the_others_run_all_the_same(started):
    code, out, err = ended(
        started(good="print('1 passed')", bad="print('1 failed'); raise SystemExit(3)", more="print('2 passed')")
    )
    assert code == 1
    assert "1 failed\n== bad: failed (3)" in out
    assert "1 passed\n== good: ok" in out
    assert "2 passed\n== more: ok" in out
    assert err == "tests: failed: bad\n"


def test_a_part_that_cannot_be_started_fails(started):
    code, _out, err = ended(started(killed="import os; os.kill(os.getpid(), 9)", good=""))
    assert (code, err) == (1, "tests: failed: killed\n")


WAITS = """
import os
print(os.getpid(), flush=True)
try:
    open(f"started{os.getpid()}", "w").close()
    import time
    time.sleep(60)
except KeyboardInterrupt:
    print("cleaned up")
    raise SystemExit(2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_parts_with_their_clean_up_and_starts_no_other(started, tmp_path, number):
    lanes = started(one=WAITS, other=WAITS, never="print('never')")
    until("the start of two parts", lambda: len(list(tmp_path.glob("started*"))) == 2)
    lanes.send_signal(number)
    code, out, err = ended(lanes)
    assert code == 128 + number
    assert out.count("cleaned up") == 2
    assert "never" not in out
    assert err == "tests: interrupted, not passed: one, other, never\n"
    for pid in re.findall(r"^\d+$", out, re.MULTILINE):
        assert not Path(f"/proc/{pid}").exists()


def files_of(command):
    """The test files that a part's command runs."""
    runner = next((word for word in ("pytest", "build/unit.py") if word in command), None)
    if runner is None:
        return set()
    words = command[command.index(runner) + 1 :]
    left_out = {word.removeprefix("--ignore=") for word in words if word.startswith("--ignore=")}
    paths = [TOP / word for word in words if not word.startswith("-")]
    found = {str(file.relative_to(TOP)) for path in paths for file in ([path] if path.is_file() else path.rglob(TESTS))}
    assert left_out <= found
    return found - left_out


OF_A_RELEASE = TOP / "tests/floor"
"""`make floor` runs them on the bundles of a release, whose interpreter is compiled first."""


def test_each_file_of_tests_is_run_by_one_part_only():
    run = Counter(file for command in EVERYTHING.values() for file in files_of(command))
    files = [file for file in (TOP / "tests").rglob(TESTS) if OF_A_RELEASE not in file.parents]
    assert run == Counter(str(file.relative_to(TOP)) for file in files)
