"""The memory of a port, with a hostile application on the other side."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
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


@pytest.fixture
def port():
    port = Port(Memory.create(16).descriptor)
    yield port
    port.close()


@settings(max_examples=50)
@given(data=st.binary(min_size=0, max_size=600), offset=st.integers(0, rings.size_of(16) - 600))
def test_a_port_survives_any_bytes_in_its_memory(data, offset):
    descriptor = Memory.create(16).descriptor
    port = Port(descriptor)
    try:
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
    memory = Memory.create(16)
    port = Port(os.dup(memory.descriptor))
    try:
        put(memory.of_application()[0], [FRAME] * 3)
        struct.pack_into("<I", memory.view, 4096 + rings.SLOT_BYTES, 1 << 31)
        assert port.waiting() == [FRAME, None, FRAME]
        port.sent(port.waiting())
        assert port.counters == {"dropped": 0, "malformed": 1}
    finally:
        port.close()
        memory.close()


def test_a_doorbell_that_nobody_answers_does_not_block(port):
    for _ in range(70000):
        port._ring()
    assert os.read(port.descriptors[0], 16) == b"\1" * 16


def test_a_flood_of_an_application_is_read_in_parts_and_its_flags_are_its_own(port):
    """Other work has its turn in between. A flag of the application's end must not make ours block."""
    hearing, ringing = port.descriptors
    for descriptor in (hearing, ringing):
        os.set_blocking(descriptor, True)
    os.write(ringing, bytes(60000))
    assert port.answer()
    assert select.select([port.doorbell], [], [], 0)[0]
    for _ in range(20):
        assert port.answer()
    for _ in range(70000):
        port._ring()


def test_a_port_without_descriptors_leaves_none_open(monkeypatch):
    memory = Memory.create(16)
    before = os.listdir("/proc/self/fd")
    pairs = [os.pipe2]

    def pipe2(flags):
        if not pairs:
            raise OSError(errno.EMFILE, "Too many open files")
        return pairs.pop()(flags)

    monkeypatch.setattr(os, "pipe2", pipe2)
    duplicate = os.dup(memory.descriptor)
    with pytest.raises(OSError, match="Too many open files"):
        Port(duplicate)
    assert os.listdir("/proc/self/fd") == before
    memory.close()


def test_a_frame_that_is_no_frame_is_refused_and_those_before_it_are_sent():
    memory = Memory.create(16)
    port = Port(os.dup(memory.descriptor))
    application = ApplicationPort(memory, *[os.dup(descriptor) for descriptor in port.descriptors])
    try:
        for bad in (b"", bytes(13), bytes(rings.LONGEST_FRAME + 1)):
            with pytest.raises(ValueError, match="14 to 2040 are possible"):
                application.send([FRAME, bad, FRAME])
            assert port.waiting() == [FRAME]
            port.sent(port.waiting())
    finally:
        application.close()
        port.close()


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200, reason="the limit of descriptors is lower")
def test_a_program_with_many_descriptors_can_wait(port):
    opened = fcntl.fcntl(port.descriptors[0], fcntl.F_DUPFD_CLOEXEC, 1100)
    memory = Memory.create(16)
    application = ApplicationPort(memory, opened, os.dup(port.descriptors[1]))
    assert not application.wait(0)
    port._ring()
    assert application.wait(10)
    application.close()


# What an application offers as memory.


def refused(descriptor, reason):
    with pytest.raises(RingBroken, match=reason):
        Port(descriptor)
    os.close(descriptor)


def test_memory_that_can_be_made_shorter_is_refused():
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, rings.size_of(16))
    refused(descriptor, "not sealed")


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
def test_memory_of_another_layout_is_refused(head):
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, rings.size_of(16))
    os.pwrite(descriptor, head, 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    refused(descriptor, "memory of the port")


def test_memory_of_huge_pages_is_refused():
    """An access fails with SIGBUS when there are no more of them."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    refused(descriptor, "not of normal pages")


def test_what_is_no_memory_is_refused():
    refused(os.open("/dev/null", os.O_RDWR), "cannot be used")
    refused(os.open(__file__, os.O_RDONLY), "cannot be used")
