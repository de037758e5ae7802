"""Each change of ADD and DEL is killed, refused, or hit by the loss of the pod's namespace: nothing is left behind.

The numbers of points and cases are printed.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from tests.lab.attaching import changes, conf
from tests.lab.launched import helper
from tests.lab.matrix import TURN, WHOLE, Known, Matrix, Row, Stage, counted
from tests.lab.snapshot import host_snapshot
from tests.strace import named

STATE = "/var/lib/cni/barewire"
RESULT = "memfd:out"
INTERNAL_ERROR = 999

HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.56.30.0/24"}]]}
VF_SETTINGS = {"vlan": 100, "trust": "on", "mac": "02:00:00:00:1e:01", "spoofchk": "off", "max_tx_rate": 500}
SETTINGS = {**VF_SETTINGS, "mtu": 1400, "ipam": HOST_LOCAL}

BIND = """
cd /sys/bus/pci/devices/$0
echo vfio-pci >driver_override
echo $0 >driver/unbind
echo $0 >/sys/bus/pci/drivers_probe
"""


@contextmanager
def for_user_space(lab, vf):
    """The VF with vfio-pci. Its own driver gives it another MAC address later, which only a boot reverts."""
    lab.vm.run("bash", "-c", BIND, vf.address)
    yield
    lab.start_over()


ROWS = {
    "every setting": Row(SETTINGS, always=True),
    "plain": Row({}),
    "driver on request": Row({"driver": "vfio-pci", "vlan": 100}, without=frozenset({"setns"})),
    "for user space": Row({"vlan": 100, "trust": "on"}, for_user_space, without=frozenset({"setns"})),
}

KINDS = {
    "ADD": {"fsync", "link", "mkdir", "openat", "rename", "sendto", "setns", "symlink", "unlink", "write"},
    "DEL": {"mkdir", "openat", "sendto", "setns", "unlink"},
}
"""The kinds of changes that a command of any row makes, except those in the row's `without`."""

KNOWN: tuple[Known, ...] = ()


def pytest_generate_tests(metafunc):
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", [name for name, row in ROWS.items() if WHOLE or row.always])


@pytest.fixture
def stage(lab, row):
    with Stage(lab, ROWS[row]) as stage:
        yield stage


@pytest.fixture
def points(stage, row, command):
    found = stage.points(command)
    counts = counted(found)
    print(f"{row}: {command} has {len(found)} points:", dict(counts))
    assert counts.keys() >= KINDS[command] - ROWS[row].without
    return found


# kill -9.


def by_del(stage):
    stage.until_done("DEL", stage.pod)


def by_gc(stage):
    # host-local supports neither GC nor the version that has it.
    document = {key: value for key, value in stage.document.items() if key != "ipam"}
    stage.lab.runtime.gc({**document, "cniVersion": "1.1.0"}, []).required()


def by_the_next_pod(stage):
    first = stage.pod
    first.delete()
    second = stage.new_pod()
    for command, pod in (("ADD", second), ("DEL", second), ("DEL", first)):
        stage.until_done(command, pod)


RECOVERIES = {"then DEL": by_del, "then GC": by_gc, "then the next pod": by_the_next_pod}


def killed(stage, call, point, recovery):
    call.killed_at(point)
    RECOVERIES[recovery](stage)
    assert stage.left() == []


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_call_that_is_killed_at_any_change_is_mended_by_del_by_gc_and_by_the_next_pod(stage, row, command, points):
    matrix = Matrix("killed", killed, tuple(RECOVERIES), KNOWN)
    told = matrix.failures(stage, row, command, points)
    assert not told, "\n".join(told)


# Refusals.


def refused(stage, call, point, error):
    outcome = call.refused_at(point, error)
    if outcome.rc and RESULT not in point.what:
        assert outcome.error is not None, outcome.stdout
        assert outcome.error["code"] != INTERNAL_ERROR, outcome.stdout
        assert named(error, f"{outcome.error['msg']} {outcome.error.get('details')}"), outcome.stdout
    if call.command == "ADD" and outcome.rc:
        recorded = any(line.startswith(f"files.{STATE}/net/") for line in stage.left())
        assert recorded or stage.left() == []
    elif call.command == "ADD":
        stage.lab.runtime.check({**call.document, "prevResult": outcome.result}, call.pod).required()
    stage.until_done("DEL", call.pod)
    assert stage.left() == []


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_call_that_is_refused_any_change_says_why_and_the_host_is_as_before_or_is_after_del(
    stage, row, command, points
):
    matrix = Matrix("refused", refused, ("EIO", "EBUSY", "ENOSPC"), KNOWN, one_of=4)
    told = matrix.failures(stage, row, command, points)
    assert not told, "\n".join(told)


# With a helper.

WORDS = ("memfd:barewire-output", "frame")
"""Points of the child's answer to its launcher, which reports that the child is gone if it cannot be given."""
SHARE = {"killed": 20, "refused": 32}


@pytest.fixture
def helped(lab, row):
    lab.runtime  # noqa: B018 - installs the bundle
    with helper(lab.vm) as pid, Stage(lab, ROWS[row], pid) as stage:
        yield stage
        assert lab.vm.run("test", "-d", f"/proc/{pid}", check=False).rc == 0


def refused_in_the_child(stage, call, point, error):
    if any(word in point.what for word in WORDS):
        outcome = call.refused_at(point, error)
        assert outcome.rc == 0 or outcome.error is not None, outcome.stdout
        stage.until_done("DEL", call.pod)
        assert stage.left() == []
    else:
        refused(stage, call, point, error)


FAULTS_OF_A_CHILD = {
    "killed": (killed, tuple(RECOVERIES)),
    "refused": (refused_in_the_child, ("EIO", "EBUSY", "ENOSPC")),
}


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_call_by_the_helper_that_is_killed_or_refused_a_change_is_mended_as_a_stand_alone_one(helped, row, command):
    points = helped.points(command)
    print(f"{row}: {command} has {len(points)} points with a helper, turn {TURN}")
    told = []
    for fault, (attempt, ways) in FAULTS_OF_A_CHILD.items():
        matrix = Matrix(f"{fault}, with helper", attempt, ways, KNOWN, one_of=SHARE[fault], turn=TURN)
        told += matrix.failures(helped, row, command, points)
    assert not told, "\n".join(told)


# The pod's namespace.


def lost(stage, call, point, _way):
    with call.stopped_at(point) as stopped:
        stage.lab.vm.run("ip", "netns", "del", call.pod.name)
    stage.new_pod()
    assert stopped.outcome.rc == 0 or stopped.outcome.error is not None, stopped.outcome.stdout
    stage.until_done("DEL", call.pod)
    assert stage.left() == []


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_namespace_that_is_deleted_during_a_call_keeps_nothing(stage, row, command, points):
    matrix = Matrix("bereft of its namespace", lost, ("then DEL",), KNOWN, one_of=3)
    told = matrix.failures(stage, row, command, points)
    assert not told, "\n".join(told)


# The disk.

FULL = {
    "blocks": "dd if=/dev/zero of=$0/filler bs=4096 status=none || true",
    "inodes": "i=0; while : 2>/dev/null >$0/filler$i; do i=$((i + 1)); done",
}


@pytest.fixture
def small_disk(lab):
    """Puts the state directory on a disk of its own, with 64 KiB and 32 files."""
    options = "size=64k,nr_inodes=32,mode=0700"
    lab.vm.sh(f"mkdir -p -m 0700 {STATE} && mount -t tmpfs -o {options} tmpfs {STATE}")
    yield
    lab.vm.run("umount", STATE)


@pytest.mark.parametrize("full", FULL)
def test_on_a_full_disk_add_says_so_and_changes_nothing_and_del_restores(lab, small_disk, full):
    one, other = lab.vfs[:2]
    early, late = lab.pod(), lab.pod()
    lab.runtime.add(conf(one, **SETTINGS), early).required()
    lab.vm.run("bash", "-c", FULL[full], STATE)
    before = host_snapshot(lab.vm)
    error = lab.runtime.add(conf(other, **SETTINGS), late).error
    assert error["code"] == 5
    assert named("ENOSPC", error["msg"])
    assert changes(lab, before) == []
    lab.runtime.delete(conf(other, **SETTINGS), late).required()
    assert changes(lab, before) == []
    lab.runtime.delete(conf(one, **SETTINGS), early).required()
    lab.vm.sh(f"rm {STATE}/filler*")
    assert changes(lab) == []


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_the_points_of_a_call_are_the_same_each_time(stage, row, command, points):
    assert stage.points(command) == points
