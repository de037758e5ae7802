"""The memory of a port, with a hostile application on the other side."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

import pytest
from hypothesis import given, settings, strategies as st

from driverhost.client.port import ApplicationPort
from driverhost.port import Port
from driverhost.protocol import rings
from driverhost.protocol.rings import Memory, RingBroken

FRAME = bytes(range(60))
WORDS = st.integers(0, (1 << 32) - 1)


@pytest.fixture
def memory():
    memory = Memory.create(16)
    yield memory
    memory.close()


def put(producer, frames):
    for frame in frames:
        producer.put(frame)
    producer.publish()


def test_frames_come_out_as_they_went_in_also_when_the_ring_wraps(memory):
    producer, consumer = memory.of_application()[0], memory.of_driver()[0]
    for start in range(0, 200, 10):
        frames = [bytes([number % 256]) * (14 + number) for number in range(start, start + 10)]
        put(producer, frames)
        assert consumer.peek(64) == frames
        consumer.take(10)
    assert consumer.peek(64) == []


def test_indexes_wrap_at_32_bits(memory):
    producer, consumer = memory.of_application()[0], memory.of_driver()[0]
    producer._own = consumer._own = (1 << 32) - 3
    memory.view[128:132] = struct.pack("<I", (1 << 32) - 3)
    memory.view[64:68] = struct.pack("<I", (1 << 32) - 3)
    put(producer, [FRAME] * 8)
    assert producer.room == 8
    assert consumer.peek(64) == [FRAME] * 8
    consumer.take(8)
    assert producer.room == 16


def test_an_application_cannot_make_the_memory_shorter_or_longer(memory):
    for size in (0, 4096, rings.size_of(16) * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.descriptor, size)


@pytest.mark.parametrize("slots", [0, 8, 17, 100, 8192, -16])
def test_a_wrong_number_of_slots_is_refused(slots):
    with pytest.raises(ValueError, match="power of two"):
        Memory.create(slots)


@given(put=WORDS, taken=WORDS, lengths=st.lists(WORDS, min_size=16, max_size=16), limit=st.integers(0, 100))
def test_whatever_an_application_writes_the_driver_reads_only_its_slots_or_closes_the_port(put, taken, lengths, limit):
    memory = Memory.create(16)
    try:
        consumer, producer = memory.of_driver()
        for number, length in enumerate(lengths):
            struct.pack_into("<I", memory.view, 4096 + number * rings.SLOT_BYTES, length)
        struct.pack_into("<I", memory.view, 64, put)
        struct.pack_into("<I", memory.view, 256, taken)
        if put > 16:
            with pytest.raises(RingBroken, match="claims to have"):
                consumer.peek(limit)
        else:
            frames = consumer.peek(limit)
            assert [frame and len(frame) for frame in frames] == [
                length if rings.SHORTEST_FRAME <= length <= rings.LONGEST_FRAME else None
                for length in lengths[: min(put, limit)]
            ]
        if (-taken) % (1 << 32) > 16:
            with pytest.raises(RingBroken):
                _ = producer.room
        else:
            assert producer.room == 16 - (-taken) % (1 << 32)
    finally:
        memory.close()


@settings(max_examples=50)
@given(data=st.binary(min_size=0, max_size=600), offset=st.integers(0, rings.size_of(16) - 600))
def test_a_port_survives_any_bytes_in_its_memory(data, offset):
    port = Port(16)
    try:
        descriptor, _doorbell = port.descriptors
        os.pwrite(descriptor, data, offset)
        try:
            waiting = port.waiting()
            port.sent(waiting)
            port.deliver([FRAME])
        except RingBroken:
            return
        assert all(frame is None or 14 <= len(frame) <= rings.LONGEST_FRAME for frame in waiting)
    finally:
        port.close()


def test_frames_of_an_impossible_length_are_dropped_and_counted():
    port = Port(16)
    try:
        application = Memory.adopt(os.dup(port.descriptors[0]))
        put(application.of_application()[0], [FRAME] * 3)
        struct.pack_into("<I", application.view, 4096 + rings.SLOT_BYTES, 1 << 31)
        assert port.waiting() == [FRAME, None, FRAME]
        port.sent(port.waiting())
        assert port.counters == {"dropped": 0, "malformed": 1}
        application.close()
    finally:
        port.close()


def test_a_doorbell_that_nobody_answers_does_not_block():
    port = Port(4096)
    try:
        application = socket.socket(fileno=os.dup(port.descriptors[1]))
        for _ in range(20000):
            port._ring()
        assert application.recv(16) == b"\1"
        application.close()
    finally:
        port.close()


# The application does not trust the driver host either.


def doorbell():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.close()
    return one.detach()


def test_an_application_refuses_memory_that_can_be_made_shorter():
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, rings.size_of(16))
    with pytest.raises(RingBroken, match="not sealed"):
        ApplicationPort(descriptor, doorbell())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<8sIII", b"OTHERS01", 1, 16, 2048),
        struct.pack("<8sIII", b"BWRING01", 2, 16, 2048),
        struct.pack("<8sIII", b"BWRING01", 1, 17, 2048),
        struct.pack("<8sIII", b"BWRING01", 1, 32, 2048),
        struct.pack("<8sIII", b"BWRING01", 1, 1 << 31, 2048),
        struct.pack("<8sIII", b"BWRING01", 1, 16, 4096),
    ],
)
def test_an_application_refuses_memory_of_another_layout(head):
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, rings.size_of(16))
    os.pwrite(descriptor, head, 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    with pytest.raises(RingBroken, match="memory of the port"):
        ApplicationPort(descriptor, doorbell())


def test_an_application_refuses_what_is_no_memory():
    descriptor = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(RingBroken, match="cannot be used"):
        ApplicationPort(descriptor, doorbell())
