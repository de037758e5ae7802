"""An undelivered ADD is undone, and nothing else: the runtime may have repeated it meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni.errors import TryAgainLater
from tests.node import EVERYTHING, Node
from tests.port_node import port_node


@pytest.fixture
def node(tmp_path):
    return Node(tmp_path)


def test_an_add_is_undone_by_the_call_that_made_it(node):
    request, call = node.request("ADD", **EVERYTHING), node.plugin()
    call.add(request)
    call.undo(request)
    node.assert_as_before()


def test_after_del_and_a_second_add_nothing_of_the_second_one_is_undone(node):
    request, call = node.request("ADD", **EVERYTHING), node.plugin()
    call.add(request)
    node.delete(**EVERYTHING)
    node.add(**EVERYTHING)
    second = node.kernel.snapshot(), node.files(), dict(node.ipam.leases)
    call.undo(request)
    assert (node.kernel.snapshot(), node.files(), node.ipam.leases) == second
    node.delete(**EVERYTHING)
    node.assert_as_before()


def test_after_del_there_is_nothing_to_undo(node):
    request, call = node.request("ADD"), node.plugin()
    call.add(request)
    node.delete()
    call.undo(request)
    node.assert_as_before()


def test_an_undoing_that_cannot_finish_is_on_record_for_later_calls(node):
    request, call = node.request("ADD"), node.plugin()
    call.add(request)
    node.kernel.refuse_from(1)
    with pytest.raises(TryAgainLater):
        call.undo(request)
    node.kernel.refuse_nothing()
    node.delete()
    node.assert_as_before()


def test_a_record_of_the_same_content_and_time_in_a_file_of_its_own_is_another_ones(node):
    """Some file systems have times of whole seconds, and the inode of a removed file is used again."""
    request, call = node.request("ADD"), node.plugin()
    call.add(request)
    (record,) = (path for path in node.files() if path.endswith("net1.json"))
    written, when = Path(record).read_bytes(), os.stat(record).st_mtime_ns
    os.unlink(record)
    Path(record).write_bytes(written)
    os.utime(record, ns=(when, when))
    before = node.files()
    call.undo(request)
    assert node.files() == before


def test_a_port_is_undone_by_the_call_that_made_it_and_not_after_a_second_add(monkeypatch):
    with port_node(monkeypatch) as node:
        pod = node.pod("a", "shared-dir")
        before = node.snapshot()
        request, call = node.request("ADD", pod), node.plugin()
        call.add(request)
        call.undo(request)
        assert node.snapshot() == before
        call = node.plugin()
        call.add(request)
        node.delete(pod)
        node.add(pod)
        second = node.snapshot()
        call.undo(request)
        assert node.snapshot() == second
