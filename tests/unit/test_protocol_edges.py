"""Edge cases of the protocol in which a call could end without an error object, with a wrong one, or too late."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cni import jsontext
from cni.config.validation import parse
from cni.errors import DecodeFailure
from cni.serve import serve
from cni.sriov.conf_table import REQUIRED, TABLE
from cni.sriov.rules import cross_check

ROOT = Path(__file__).parents[2]
ENV = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c", "CNI_IFNAME": "net1", "CNI_PATH": "/"}
VERSION_CALL = [sys.executable, "-m", "cni.sriov"]


class FailingPlugin:
    """A plugin whose every command raises."""

    def __init__(self, failure):
        self.failure = failure

    def delete(self, request):
        raise self.failure

    add = check = gc = status = undo = delete


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_ends_a_process_ends_a_call_with_an_error_object(failure):
    out: list[bytes] = []
    code = serve(
        "fake",
        lambda _request: FailingPlugin(failure),
        ENV,
        lambda _seconds: b'{"name": "n"}',
        out.append,
        lambda _text: None,
    )
    document = json.loads(b"".join(out))
    assert (code, document["code"]) == (1, 999)
    assert type(failure).__name__ in document["msg"]


@pytest.mark.parametrize("command", ["VERSION", "DEL"])
def test_a_reader_that_is_gone_is_a_failure_and_no_exception(command):
    def gone(_text):
        raise BrokenPipeError(32, "Broken pipe")

    assert (
        serve(
            "fake",
            lambda _request: FailingPlugin(KeyError()),
            {**ENV, "CNI_COMMAND": command},
            lambda _seconds: b"{}",
            gone,
            gone,
        )
        == 1
    )


def test_an_answer_that_cannot_be_written_is_reported_by_the_exit_code():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            VERSION_CALL,
            cwd=ROOT,
            env={"CNI_COMMAND": "VERSION"},
            input=b"{}",
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_closed_stderr_does_not_fail_a_call():
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m cni.sriov 2>&-"],
        cwd=ROOT,
        env={},
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("depth", [900, 5000, 100_000])
def test_half_a_surrogate_pair_in_deep_nesting_is_read_or_refused(depth):
    text = b"[" * depth + b'"\\ud800"' + b"]" * depth
    # The depth that is too deep depends on the interpreter.
    try:
        value = jsontext.loads(text)
    except DecodeFailure:
        return
    for _ in range(depth):
        (value,) = value
    assert value == "\ufffd"


def test_the_length_of_a_key_does_not_slow_a_call_down():
    before = time.process_time()
    parse(TABLE, REQUIRED, {"deviceID": "0000:01:10.0", "k" * 1_000_000: 1}, cross_check)
    assert time.process_time() - before < 1
