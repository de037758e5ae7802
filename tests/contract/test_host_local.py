"""The backend `local` and Debian's Go host-local on one directory: equal files and equal choices, without
communication.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest

from cni.errors import AddressesExhausted, AddressTaken, IoFailure
from ipam import address
from ipam.ranges import range_of
from tests.alone import alone
from tests.contract.host_local import (
    DUAL_STACK,
    NETWORK,
    ROOT,
    SECONDS,
    Go,
    Refused,
    contents,
    leased,
    ours,
    owner,
    range_of_subnet,
    start_worker,
)

SINGLE = ((range_of_subnet("10.9.0.0/29"),),)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / "claims").mkdir(parents=True)
    return str(tmp_path / "data")


@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def store(data, run):
    return ours(data, run)


@pytest.fixture
def go(data):
    return Go(data)


def texts(claims):
    return [str(claim.address) for claim in claims]


def random_set(choice, version):
    """One or two ranges of two to a few dozen addresses, with the gateway anywhere in the subnet, as Go allows."""
    ranges = []
    for i in range(choice.randint(1, 2)):
        length = choice.randint(27, 30) if version == 4 else choice.randint(122, 126)
        cidr = f"10.9.{i}.0/{length}" if version == 4 else f"fd00:9:0:{i}::/{length}"
        size = 1 << (32 if version == 4 else 128) - length
        first = choice.randint(1, size - 3)
        ranges.append(range_of_subnet(cidr, first, choice.randint(first + 1, size - 2), choice.randint(1, size - 2)))
    return tuple(ranges)


class Both:
    """Makes the same calls for Go in one directory and for ours in another."""

    def __init__(self, tmp_path, sets):
        self.places = tmp_path / "go", tmp_path / "ours"
        self.go = Go(str(self.places[0]))
        self.ours = ours(str(self.places[1]), str(tmp_path / "run"))
        self.sets = sets

    def add(self, one, requested=None):
        """The responses of both: addresses, or None for a refusal. A requested address applies to the set that contains
        it.
        """
        asked = tuple(
            requested if requested is not None and range_of(ranges, requested) else None for ranges in self.sets
        )
        try:
            theirs = self.go.add(one, self.sets, tuple(str(requested) for each in asked if each))
        except Refused:
            theirs = None
        try:
            mine = texts(self.ours.allocate(one, self.sets, asked))
        except (AddressesExhausted, AddressTaken):
            mine = None
        return theirs, mine

    def delete(self, one):
        self.go.delete(one, self.sets)
        self.ours.release(one)

    def contents(self):
        return tuple(contents(place / NETWORK) for place in self.places)


def require_equal(both):
    theirs, mine = both.contents()
    assert theirs == mine


def forget_refused_advance(both):
    # The one difference: Go's refused ADD has advanced in the sets before the exhausted one.
    for path in (both.places[0] / NETWORK).glob("last_reserved_ip.*"):
        (both.places[1] / NETWORK / path.name).write_bytes(path.read_bytes())
        (both.places[1] / NETWORK / path.name).chmod(0o644)


@pytest.mark.parametrize("seed", range(12))
def test_the_same_calls_leave_equal_directories_after_each_of_them(tmp_path, seed):
    choice = random.Random(seed)
    versions = choice.choice([(4,), (6,), (4, 6)])
    both = Both(tmp_path, tuple(random_set(choice, version) for version in versions))
    alive = []
    refused = 0
    for i in range(60):
        one = owner(f"container{i}", choice.choice(["eth0", "net1"]))
        ranges = choice.choice(choice.choice(both.sets))
        wish = ranges.address(choice.randint(ranges.first, ranges.last)) if choice.random() < 0.2 else None
        theirs, mine = both.add(one, wish)
        assert theirs == mine
        if mine is None:
            refused += 1
            forget_refused_advance(both)
        else:
            alive.append(one)
        require_equal(both)
        if alive and choice.random() < 0.4:
            both.delete(alive.pop(choice.randrange(len(alive))))
            require_equal(both)
    assert refused < 60
    for one in alive:
        both.delete(one)
    assert leased(both.places[0] / NETWORK) == leased(both.places[1] / NETWORK) == {}


def test_the_first_add_makes_the_directory_as_go_does(tmp_path):
    both = Both(tmp_path, DUAL_STACK)
    theirs, mine = both.add(owner("first"))
    assert theirs == mine == ["10.9.0.2", "fd00:9::2"]
    require_equal(both)
    modes = [oct((place / NETWORK).stat().st_mode) for place in both.places]
    assert modes == ["0o40755"] * 2
    assert [oct(place.stat().st_mode) for place in both.places] == ["0o40755"] * 2


@pytest.mark.parametrize("text", ["2001:db8::", "2001:db8:0:0:1::", "2001:db8::1:0:0:1", "2001:db8:0:1::a:0"])
def test_an_ipv6_address_has_the_file_that_go_gives_it(tmp_path, text):
    ranges = range_of_subnet("2001:db8::/32", 0, -1, 7)
    both = Both(tmp_path, ((ranges,),))
    theirs, mine = both.add(owner("one"), address.parse(text, "test"))
    assert theirs == mine == [text]
    require_equal(both)


def test_each_deletes_what_the_other_has_added(data, store, go):
    got = go.add(owner("go"), DUAL_STACK)
    mine = texts(store.allocate(owner("ours"), DUAL_STACK, (None, None)))
    assert not set(got) & set(mine)
    go.check(owner("ours"), DUAL_STACK)
    assert sorted(texts_of(store, "go")) == sorted(got)
    go.delete(owner("ours"), DUAL_STACK)
    store.release(owner("go"))
    assert leased(f"{data}/{NETWORK}") == {}
    with pytest.raises(Refused):
        go.check(owner("ours"), DUAL_STACK)


def texts_of(store, name):
    return [str(one) for one in store.addresses(owner(name))]


def test_what_go_gave_an_owner_it_is_given_again_where_go_refuses(store, go):
    got = go.add(owner("one"), DUAL_STACK)
    assert texts(store.allocate(owner("one"), DUAL_STACK, (None, None))) == got
    with pytest.raises(Refused, match="duplicate allocation"):
        go.add(owner("one"), DUAL_STACK)


def test_entries_of_go_from_before_the_index_and_after_it_are_seen(store, go):
    for i in range(3):
        go.add(owner(f"go{i}"), SINGLE)
        store.allocate(owner(f"ours{i}"), SINGLE, (None,)) if i < 2 else None
        assert texts_of(store, f"go{i}")
    with pytest.raises(AddressesExhausted):
        store.allocate(owner("ours2"), SINGLE, (None,))
    go.delete(owner("ours0"), SINGLE)
    assert texts_of(store, "ours0") == []
    assert texts(store.allocate(owner("ours2"), SINGLE, (None,)))


def test_gc_frees_what_go_has_left_behind(data, store, go):
    for name in ("keep", "leak"):
        go.add(owner(name), DUAL_STACK)
    store.gc({("keep", "net1")})
    assert set(leased(f"{data}/{NETWORK}").values()) == {b"keep\r\nnet1"}


def test_a_request_for_what_go_has_given_is_refused_with_its_owners_name(store, go):
    (got,) = go.add(owner("go"), SINGLE)
    with pytest.raises(AddressTaken, match=rf"{got} is in use by container go net1"):
        store.allocate(owner("ours"), SINGLE, (address.parse(got, "test"),))


@pytest.fixture
def start(data, run):
    """Starts workers, and ends those that the test has not awaited."""
    workers = []

    def start(seed, cycles):
        workers.append(start_worker(data, run, seed, cycles))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.returncode is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()


def finish(worker):
    _out, errors = worker.communicate(timeout=300)
    assert worker.returncode == 0, errors.decode()[-3000:]


def test_thousands_of_operations_of_both_at_once_give_no_address_twice_and_leak_none(data, start):
    for worker in [start(seed, 600) for seed in range(4)]:
        finish(worker)
    assert leased(f"{data}/{NETWORK}") == {}
    assert os.listdir(f"{data}/claims") == []


def forget_victim(data, store, name):
    """Deletes what a killed ADD had begun. The claims go first, because then the addresses are free."""
    for claim in os.listdir(f"{data}/claims"):
        with suppress(FileNotFoundError):  # a claim of another worker, which is still running
            if os.readlink(f"{data}/claims/{claim}").startswith(name):
                os.unlink(f"{data}/claims/{claim}")
    for one in {lease.owner for lease in store.leases() if lease.owner.container_id.startswith(name)}:
        store.release(one)


def test_processes_killed_at_any_time_leave_no_duplicate_and_nothing_that_gc_does_not_free(data, store, start):
    choice = random.Random(1)
    steady = [start(seed, 200) for seed in range(2)]
    for seed in range(10, 22):
        victim = start(seed, 1_000_000)
        with pytest.raises(subprocess.TimeoutExpired):
            victim.wait(timeout=0.3 + choice.random() * 0.5)
        os.killpg(victim.pid, signal.SIGKILL)
        assert victim.communicate()[1] == b""
        forget_victim(data, store, f"worker{seed}-")
    for worker in steady:
        finish(worker)
    store.gc(set())
    assert leased(f"{data}/{NETWORK}") == {}


CHANGING = "mkdir openat write linkat unlinkat utimensat".split()
"""System calls that change something; openat also creates and truncates files."""

STEP_PROGRAM = """
import os, sys
from tests.contract.host_local import DUAL_STACK, ours, owner
data, run, step = sys.argv[1:]
store = ours(data, run)
os.mkdir(f"{data}/begun")
if step == "add": store.allocate(owner("victim"), DUAL_STACK, (None, None))
if step == "del": store.release(owner("victim"))
if step == "gc": store.gc({("other", "net1")})
"""


def traced(data, run, step, *options):
    """Runs the step in a process under strace, whose output is on its stderr."""
    return subprocess.run(
        [
            *("strace", "-e", f"trace={','.join(CHANGING)}", *options),
            *(sys.executable, "-B", "-c", STEP_PROGRAM, data, run, step),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def points(data, run, step):
    """The changing system calls of the step: the name, and the number of the call among those of that name."""
    done = traced(data, run, step)
    assert done.returncode == 0, done.stderr[-2000:]
    count: Counter[str] = Counter()
    found = []
    for line in done.stderr.splitlines():
        name = line.partition("(")[0]
        if name in CHANGING:
            count[name] += 1
            found.append((name, count[name], "begun" in line))
    begin = next(i for i, (_name, _number, begun) in enumerate(found) if begun)
    return [(name, number) for name, number, _begun in found[begin + 1 :]]


def kill_at(data, run, step, point):
    """Runs the step up to that call, which is not executed."""
    name, number = point
    os.rmdir(f"{data}/begun")
    done = traced(data, run, step, "-e", f"inject={name}:signal=KILL:when={number}")
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, done.stderr[-2000:])
    assert os.path.isdir(f"{data}/begun")


def require_whole(data):
    """Requires that only host-local's files exist, and that each address's file has its complete content."""
    files = leased(f"{data}/{NETWORK}")
    assert all(content in (b"victim\r\nnet1", b"other\r\nnet1") for content in files.values()), files
    assert all(address.parse(name, "test") for name in files)


@pytest.mark.parametrize("first", ["the first call of all", "one of many"])
def test_after_a_kill_at_any_change_of_add_the_next_one_and_del_put_it_right(data, run, go, store, first):
    if first == "one of many":
        texts(store.allocate(owner("other"), DUAL_STACK, (None, None)))
    killed = points(data, run, "add")
    assert {name for name, _number in killed} >= {"openat", "write", "linkat", "utimensat"}
    store.release(owner("victim"))
    for point in killed:
        if first == "the first call of all":
            shutil.rmtree(f"{data}/{NETWORK}")
            shutil.rmtree(run)
        kill_at(data, run, "add", point)
        require_whole(data)
        got = texts(store.allocate(owner("victim"), DUAL_STACK, (None, None)))
        assert sorted(texts_of(store, "victim")) == sorted(got)
        assert not set(got) & set(texts_of(store, "other")), point
        assert len(leased(f"{data}/{NETWORK}")) == len(got) + len(texts_of(store, "other")), point
        go.delete(owner("victim"), DUAL_STACK)
        assert texts_of(store, "victim") == []


@pytest.mark.parametrize("step", ["del", "gc"])
def test_after_a_kill_at_any_change_of_del_or_gc_the_next_one_finishes_it(data, run, go, store, step):
    def fill():
        for name in ("other", "victim"):
            store.allocate(owner(name), DUAL_STACK, (None, None))

    fill()
    killed = points(data, run, step)
    assert {name for name, _number in killed} >= {"openat", "write", "unlinkat", "utimensat"}
    for point in killed:
        fill()
        kill_at(data, run, step, point)
        require_whole(data)
        assert set(texts_of(store, "victim")) == {
            name for name, content in leased(f"{data}/{NETWORK}").items() if content.startswith(b"victim")
        }
        if step == "del":
            store.release(owner("victim"))
        else:
            store.gc({("other", "net1")})
        assert set(leased(f"{data}/{NETWORK}").values()) == {b"other\r\nnet1"}, point
        assert len(texts_of(store, "other")) == 2


@alone
def test_a_full_disk_is_reported_and_an_add_that_got_half_of_its_addresses_keeps_none():
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", "/mnt"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    with pytest.raises(IoFailure, match=r"cannot write /mnt/.*: No space left on device"):
        ours("/mnt", "/run").allocate(owner("one"), DUAL_STACK, (None, None))
    assert leased(f"/mnt/{NETWORK}") == {}
    assert ours("/mnt", "/run").allocate(owner("one"), DUAL_STACK[:1], (None,))


def test_the_empty_file_of_a_killed_go_is_taken_until_gc(data, store, go):
    (got,) = go.add(owner("go"), SINGLE)
    os.truncate(f"{data}/{NETWORK}/{got}", 0)
    with pytest.raises(AddressTaken, match="in use by an unknown owner"):
        store.allocate(owner("ours"), SINGLE, (address.parse(got, "test"),))
    store.gc(set())
    assert leased(f"{data}/{NETWORK}") == {}
