"""Each changing point of a call with a kill or a refusal, and a recovery, after which everything is as before.

Each point gets one of the recoveries in turn; BAREWIRE_MATRIX=1 (`make matrix`) tests all of them. With a helper, one
point of sixteen is tested, another one each day. Counts are printed.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cli.program import BUNDLE, Program
from tests.kube.apiserver import ApiServer
from tests.launched import Helper, entry
from tests.ovs.faults import Faults, HelperFaults
from tests.ovs.node import changes
from tests.strace import Missed

WHOLE = bool(os.environ.get("BAREWIRE_MATRIX"))
TURN = int(os.environ.get("BAREWIRE_TURN", int(time.time()) // 86_400))
"""Which points a small part of the matrix tries."""
TRIES = 3
"""Attempts at a point that the call does not reach."""
INTERNAL_ERROR = 999
SETTINGS = {
    "cniVersion": "1.0.0",
    "vlan": 100,
    "mtu": 1400,
    "createBridge": True,
    "bandwidth": {"ingressRate": 8000000, "egressRate": 2000000},
    "socketDirectory": {"acl": ["user:107:rwx"], "mode": "0770"},
    "ipam": {"type": "host-local", "subnet": "192.0.2.0/24", "dataDir": "/var/lib/cni/networks"},
    "runtimeConfig": {"CNIDeviceInfoFile": "/var/run/k8s.cni.cncf.io/devinfo/cni/net-info"},
}


ROWS = ("in a directory of ours", "in the pod's volume, annotated")


class Stage:
    """A pod of the node, with all settings on a bridge that the plugin creates."""

    def __init__(self, node, faults, folder, api):
        self.node = node
        self.api = api
        self.faults = faults
        self.conf = node.conf(**SETTINGS)
        self.conf["host"] = {**self.conf["host"], "bridge": {"bridgeName": "made0"}}
        if api:
            self.conf["kubeconfig"] = node.kubeconfig(api.kubeconfig(folder / "kubeconfig"))
        # The first attachment creates folders and is left out: later ones make the same system calls each time.
        self.pod = self.new_pod()
        self.before = self.seen()

    def new_pod(self):
        self.node.end_pods()
        self.pod = self.node.pod("shared-dir") if self.api else self.node.pod()
        if self.api:
            self.api.add_pod("default", self.pod.name, uid=self.pod.uid, annotations={"theirs": "1"})
        self.node.add(self.conf, self.pod)
        self.node.delete(self.conf, self.pod)
        return self.pod

    def seen(self):
        leases = [
            name for name in sorted(os.listdir(f"{self.node.root}/var/lib/cni/networks/net")) if name[:3] == "192"
        ]
        annotations = self.api.annotations("default", self.pod.name) if self.api else {}
        litter = sorted(os.listdir(f"{self.node.root}/run/barewire/lock"))
        return {**self.node.snapshot(), "leases": leases, "litter": litter, "annotations": annotations}

    def left(self):
        return changes(self.before, self.seen())

    def prepared(self, command):
        if command == "DEL":
            self.node.add(self.conf, self.pod)

    def points(self, command):
        self.prepared(command)
        found = self.faults.points(command, self.conf, self.pod)
        self.node.delete(self.conf, self.pod)
        return found

    def gc(self):
        self.node.call(
            "GC", {**self.conf, "cniVersion": "1.1.0", "ipam": {}, "cni.dev/valid-attachments": []}, self.pod
        ).required()
        self.node.delete(self.conf, self.pod)

    def again(self):
        outcome = self.node.call("ADD", self.conf, self.pod)
        assert outcome.code == 0 or outcome.document["code"] in (11, 100), outcome
        self.node.delete(self.conf, self.pod)

    def delete(self):
        self.node.delete(self.conf, self.pod)


WAYS = {"DEL": Stage.delete, "GC": Stage.gc, "ADD again": Stage.again}
COMMANDS = ["ADD", "DEL"]


WAYS_TO_CALL = ("stand-alone", "with a helper")
STAGES = [(call, row) for call in WAYS_TO_CALL for row in ROWS if WHOLE or call == WAYS_TO_CALL[0] or row == ROWS[0]]


@contextmanager
def helped(node, tmp_path):
    """The node with a helper and its launcher in the place of the program."""
    alone, socket = node.program, Path("/run/barewire/test-helper.sock")
    node.program = Program((str(entry(BUNDLE / "launcher", tmp_path / "userspace", BUNDLE, "userspace", socket)),))
    try:
        with Helper(socket, [*node.within, str(BUNDLE / "barewire-helper")]) as helper:
            yield HelperFaults(node, tmp_path / "trace", helper)
    finally:
        node.program = alone
        node.run("rm", "-f", str(socket), f"{socket}.lock")


@pytest.fixture(params=STAGES, ids=", ".join)
def stage(request, node, tmp_path):
    call, row = request.param
    with ExitStack() as stack:
        alone = call == WAYS_TO_CALL[0]
        faults = Faults(node, tmp_path / "trace") if alone else stack.enter_context(helped(node, tmp_path))
        api = stack.enter_context(ApiServer()) if row == ROWS[1] else None
        yield Stage(node, faults, tmp_path, api)


def cases(stage, points, ways):
    for number, point in enumerate(points):
        if WHOLE:
            yield from ((point, way) for way in ways)
        elif (number - TURN) % stage.faults.one_of == 0:
            yield point, ways[number % len(ways)]


def tried(stage, command, ways, attempt):
    """Tests all cases; a case that fails does not end the matrix."""
    told, count = [], 0
    for point, way in cases(stage, stage.points(command), ways):
        count += 1
        for number in range(TRIES):
            stage.prepared(command)
            try:
                attempt(point, way)
                assert stage.left() == []
                break
            except AssertionError as failure:
                stage.delete()
                stage.new_pod()
                stage.before = stage.seen()
                # Two threads load modules, and either may open a library: the numbers of `openat` can differ by some.
                if not isinstance(failure, Missed) or number == TRIES - 1:
                    told.append(f"{command} at {point}, {way}: {failure}")
                    break
    print(f"{command}: {count} cases, turn {TURN}")
    assert count * stage.faults.one_of > 10
    return told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_that_is_killed_at_any_change_is_mended_by_del_by_gc_and_by_the_next_add(stage, command):
    def attempt(point, way):
        stage.faults.killed_at(point, command, stage.conf, stage.pod)
        WAYS[way](stage)

    told = tried(stage, command, list(WAYS), attempt)
    assert not told, "\n".join(told)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_that_is_refused_any_change_says_so_and_the_node_is_as_before_or_is_after_del(stage, command):
    def attempt(point, error):
        outcome = stage.faults.refused_at(point, error, command, stage.conf, stage.pod)
        if outcome.code and outcome.out:
            assert outcome.document["code"] != INTERNAL_ERROR, outcome.out
        if command == "ADD" and outcome.code:
            recorded = any("/var/lib/cni/barewire/net/" in line for line in stage.left())
            assert recorded or stage.left() == []
        stage.delete()

    told = tried(stage, command, ["EIO", "ENOSPC", "EBUSY"], attempt)
    assert not told, "\n".join(told)
