"""The messages between helper and launcher: arbitrary input is a call, or is refused."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given, settings, strategies as st

from cni.helper import descriptors, protocol
from cni.helper.protocol import Call, NotACall

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
NAME = TEXT.filter(lambda name: "=" not in name)


def encoded(build: str, plugin: str, umask: int, variables: list[str]) -> bytes:
    """As `protocol.encode`, of any variables."""
    return b"".join(part.encode() + b"\0" for part in [build, plugin, f"{umask:03o}", *variables])


@settings(max_examples=25)
@given(TEXT, TEXT, st.integers(0, 0o777), st.dictionaries(NAME, TEXT, max_size=3))
def test_a_call_is_read_as_it_was_written(build: str, plugin: str, umask: int, environment: dict[str, str]) -> None:
    datagram = protocol.encode(build, plugin, umask, environment)
    assert protocol.decode(datagram) == Call(build=build, plugin=plugin, umask=umask, environment=environment)


@given(st.binary() | st.lists(st.binary(), max_size=6).map(b"\0".join))
def test_any_bytes_are_a_call_or_refused(datagram: bytes) -> None:
    with contextlib.suppress(NotACall):
        call = protocol.decode(datagram)
        assert call.build
        assert call.plugin
        assert 0 <= call.umask <= 0o777
        assert "" not in call.environment


@given(st.integers(1, 40))
def test_a_call_that_is_cut_off_is_refused(cut: int) -> None:
    datagram = encoded("build", "sriov", 0o22, ["CNI_COMMAND=ADD", "CNI_IFNAME=net1"])
    if datagram[-cut - 1 : -cut] != b"\0":
        with pytest.raises(NotACall):
            protocol.decode(datagram[:-cut])


def test_variables_are_those_that_an_interpreter_would_see() -> None:
    call = protocol.decode(encoded("b", "p", 0, ["A=1", "A=2", "none", "=x", "B=", "C=a=b"]))
    assert call.environment == {"A": "1", "B": "", "C": "a=b"}


def test_descriptors_beyond_those_of_a_call_are_closed() -> None:
    ours, theirs = descriptors.pair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        before = os.listdir("/proc/self/fd")
        descriptors.send(ours, b"x", [0] * 100)
        datagram, fds = descriptors.receive(theirs, 10, len(protocol.INHERITED))
        assert (datagram, len(fds)) == (b"x", len(protocol.INHERITED))
        for fd in fds:
            os.close(fd)
        assert os.listdir("/proc/self/fd") == before
