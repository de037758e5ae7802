"""The backend `local` on its own directory; tests/contract tests it together with Go's host-local."""

from __future__ import annotations

import os

import pytest

from cni.errors import AddressesExhausted, AddressTaken, IoFailure, NotAvailable, TryAgainLater
from cni.host.files import Lock
from ipam import address
from ipam.local import index
from ipam.local.bitmap import Used
from ipam.local.directory import Directory
from ipam.local.store import Local
from ipam.ranges import Range
from ipam.store import Owner


def ranges(cidr, first, last, gateway=None, excluded=()):
    """One set of one range; numbers count from the subnet's address."""
    subnet, prefix = address.parse_cidr(cidr, "test")
    start = subnet.number
    return (
        Range(
            subnet=subnet,
            prefix=prefix,
            first=start + first,
            last=start + last,
            gateway=None if gateway is None else start + gateway,
            excluded=tuple((start + a, start + b) for a, b in excluded),
        ),
    )


V4 = ranges("10.0.0.0/29", 1, 6, 1)
V6 = ranges("fd00::/64", 1, (1 << 64) - 1, 1)
SMALL = ranges("10.1.0.0/30", 2, 2)


def owner(name, ifname="net1"):
    return Owner(network="wire", container_id=name, ifname=ifname)


def parse(text):
    return address.parse(text, "test")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "data" / "wire"


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def store(place, run):
    return Local(str(place), str(run), lock_seconds=0.05)


def take(store, name, *sets, requested=None, ifname="net1"):
    asked = requested or [None] * len(sets or (V4,))
    claims = store.allocate(owner(name, ifname), sets or (V4,), tuple(one and parse(one) for one in asked))
    return [str(claim.address) for claim in claims]


def held(store, name, ifname="net1"):
    return sorted(str(one) for one in store.addresses(owner(name, ifname)))


def files(place):
    return {
        path.name: path.read_bytes()
        for path in place.iterdir()
        if path.name != "lock" and not path.name.startswith("last_reserved_ip")
    }


def plant(place, name, content):
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(content)


def test_addresses_go_round_and_a_freed_one_comes_last(store):
    assert take(store, "a") == ["10.0.0.2"]
    store.release(owner("a"))
    assert [take(store, name) for name in "bcdef"] == [[f"10.0.0.{i}"] for i in (3, 4, 5, 6, 2)]


def test_one_address_of_each_set_is_leased_and_kept_in_go_s_files(store, place):
    assert take(store, "a", V4, V6) == ["10.0.0.2", "fd00::2"]
    assert files(place) == {"10.0.0.2": b"a\r\nnet1", "fd00::2": b"a\r\nnet1"}
    assert (place / "last_reserved_ip.0").read_bytes() == b"10.0.0.2"
    assert (place / "last_reserved_ip.1").read_bytes() == b"fd00::2"


def test_a_repeated_add_is_given_the_same_and_moves_nothing(store, place):
    first = take(store, "a", V4, V6)
    take(store, "b", V4, V6)
    assert take(store, "a", V4, V6) == first
    assert take(store, "a", V4, V6, requested=first) == first
    assert (place / "last_reserved_ip.0").read_bytes() == b"10.0.0.3"


def test_an_add_is_given_what_it_lacks_beside_what_it_has(store):
    assert [*take(store, "a", V4), "fd00::2"] == take(store, "a", V4, V6)


def test_another_interface_of_the_container_gets_another_address(store):
    assert take(store, "a") != take(store, "a", ifname="net2")
    store.release(owner("a"))
    assert held(store, "a") == []
    assert held(store, "a", "net2") == ["10.0.0.3"]


def test_a_requested_address_is_leased_and_the_next_one_follows_it(store):
    assert take(store, "a", requested=["10.0.0.4"]) == ["10.0.0.4"]
    assert take(store, "b") == ["10.0.0.5"]


@pytest.mark.parametrize("wish", ["10.0.0.1", "10.0.0.3", "10.0.0.7", "10.0.1.2"])
def test_a_requested_address_that_cannot_be_leased_is_refused(store, place, wish):
    with pytest.raises(AddressTaken, match=f"{wish} is the gateway, excluded, or outside of 10.0.0.1-10.0.0.6"):
        take(store, "a", ranges("10.0.0.0/29", 1, 6, 1, [(3, 3)]), requested=[wish])
    assert files(place) == {}


def test_a_requested_address_of_another_owner_is_refused_by_name(store):
    (taken,) = take(store, "a", ifname="eth0")
    with pytest.raises(AddressTaken, match=f"{taken} is in use by container a eth0"):
        take(store, "b", requested=[taken])
    assert held(store, "b") == []


def test_an_add_that_fails_in_a_later_set_leaves_nothing_of_an_earlier_one(store, place):
    take(store, "other", V4, SMALL)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(AddressesExhausted, match=r"no address is free in 10\.1\.0\.2-10\.1\.0\.2"):
        take(store, "a", V4, SMALL)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_every_address_of_a_set_is_found_and_then_no_more(store):
    sets = ranges("10.0.0.0/29", 1, 6, 1, [(3, 4)]) + ranges("10.1.0.0/31", 0, 1) + ranges("10.2.0.9/32", 0, 0)
    got = [take(store, str(i), sets)[0] for i in range(6)]
    assert got == ["10.0.0.2", "10.0.0.5", "10.0.0.6", "10.1.0.0", "10.1.0.1", "10.2.0.9"]
    with pytest.raises(AddressesExhausted):
        take(store, "late", sets)
    store.release(owner("3"))
    assert take(store, "late", sets) == ["10.1.0.0"]


def test_a_range_behind_half_of_an_ipv6_subnet_is_served(store, place):
    far = ranges("fd00::/64", (1 << 63) + 5, (1 << 64) - 1, excluded=[((1 << 63) + 6, (1 << 64) - 2)])
    assert take(store, "a", far) == ["fd00::8000:0:0:5"]
    assert take(store, "b", far) == ["fd00::ffff:ffff:ffff:ffff"]
    assert set(files(place)) == {"fd00::8000:0:0:5", "fd00::ffff:ffff:ffff:ffff"}


@pytest.mark.parametrize("content", [b"", b"nonsense", b"10.0.0.99", b"fd00::1", b"\xff\xfe", b"10.0.0."])
def test_a_last_address_that_is_none_of_the_set_s_starts_from_the_first(store, place, content):
    plant(place, "last_reserved_ip.0", content)
    assert take(store, "a") == ["10.0.0.2"]


def test_release_needs_no_ranges_and_frees_all_sets(store, place):
    take(store, "a", V4, V6)
    take(store, "b", V4, V6)
    store.release(owner("a"))
    store.release(owner("a"))
    assert files(place) == {"10.0.0.3": b"b\r\nnet1", "fd00::3": b"b\r\nnet1"}


def test_a_directory_that_is_not_there_is_not_made_by_looking_and_freeing(store, place):
    store.release(owner("a"))
    store.gc(set())
    assert held(store, "a") == []
    assert list(store.leases()) == []
    store.status((V4,))
    assert not place.exists()
    assert not place.parent.exists()


def test_an_entry_without_interface_name_is_the_container_s(store, place):
    plant(place, "10.0.0.4", b"old\n")
    assert held(store, "old") == ["10.0.0.4"]
    assert take(store, "old") == ["10.0.0.4"]
    store.release(owner("old"))
    assert files(place) == {}


def test_an_entry_without_interface_name_outlives_the_del_of_one_that_has_its_own(store, place):
    plant(place, "10.0.0.4", b"old")
    plant(place, "10.0.0.5", b"old\r\nnet1")
    store.release(owner("old"))
    assert files(place) == {"10.0.0.4": b"old"}


def test_gc_keeps_what_is_valid_and_frees_the_rest(store, place):
    for name in ("keep", "leak"):
        take(store, name, V4, V6)
    take(store, "keep", ifname="gone")
    plant(place, "10.0.0.5", b"keep")
    plant(place, "10.0.0.6", b"leak")
    plant(place, "fd00::99", b"")
    plant(place, "fd00::98", b"\0\0\0\0\0\0\0\0")
    store.gc({("keep", "net1")})
    assert files(place) == {"10.0.0.2": b"keep\r\nnet1", "fd00::2": b"keep\r\nnet1", "10.0.0.5": b"keep"}
    assert held(store, "keep") == ["10.0.0.2", "10.0.0.5", "fd00::2"]


def test_what_is_not_host_local_s_is_left_alone_and_its_address_passed_over(store, place, tmp_path):
    (tmp_path / "secret").write_bytes(b"a\r\nnet1")
    plant(place, "notes", b"a\r\nnet1")
    plant(place, "10.0.0.02", b"a\r\nnet1")
    plant(place, "FD00::5", b"a\r\nnet1")
    plant(place, "10.0.0.2", b"a file that somebody left here\n")
    plant(place, "10.0.0.6", b"a" * 5000)
    (place / "10.0.0.3").symlink_to(tmp_path / "secret")
    (place / "10.0.0.4").mkdir()
    os.mkfifo(place / "fd00::7")
    assert held(store, "a") == []
    assert take(store, "a") == ["10.0.0.5"]
    before = set(os.listdir(place))
    store.release(owner("a"))
    store.gc(set())
    assert before - set(os.listdir(place)) == {"10.0.0.5"}
    assert (tmp_path / "secret").read_bytes() == b"a\r\nnet1"


@pytest.mark.parametrize("name", ["lock", "last_reserved_ip.0"])
def test_a_symlink_is_not_written_through(store, place, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    place.mkdir(parents=True)
    (place / name).symlink_to(tmp_path / "secret")
    with pytest.raises(IoFailure, match=name):
        take(store, "a")
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert "10.0.0.2" not in os.listdir(place)


def test_a_directory_that_others_may_write_to_is_refused(store, place):
    place.mkdir(parents=True)
    place.chmod(0o777)
    with pytest.raises(IoFailure, match="writable by others"):
        take(store, "a")


def test_a_lock_that_lasts_is_reported(store, place):
    take(store, "a")
    calls = [
        lambda: take(store, "b"),
        lambda: store.release(owner("a")),
        lambda: store.gc(set()),
        lambda: held(store, "a"),
    ]
    with Lock(str(place / "lock"), "test"):
        for call in calls:
            with pytest.raises(TryAgainLater, match=str(place)):
                call()
    assert held(store, "a") == ["10.0.0.2"]


def test_status_reports_what_is_exhausted(store):
    store.status((V4, V6))
    for i in range(5):
        take(store, str(i))
    with pytest.raises(NotAvailable, match=r"no address is free in 10\.0\.0\.1-10\.0\.0\.6"):
        store.status((V6, V4))
    store.release(owner("3"))
    store.status((V6, V4))


def test_status_reports_that_the_directory_cannot_be_made(store, place):
    place.parent.write_bytes(b"a file")
    with pytest.raises(NotAvailable, match=f"{place} cannot be written"):
        store.status((V4,))


def test_leases_are_in_the_order_of_their_numbers_with_or_without_an_owner(store, place):
    for name in "abc":
        take(store, name, ranges("10.0.0.0/24", 8, 12), V6)
    plant(place, "10.0.0.2", b"")
    found = [(str(lease.address), lease.owner.container_id, lease.owner.ifname) for lease in store.leases()]
    v4 = [("10.0.0.2", "", ""), ("10.0.0.8", "a", "net1"), ("10.0.0.9", "b", "net1"), ("10.0.0.10", "c", "net1")]
    assert found == v4 + [(f"fd00::{i}", name, "net1") for i, name in ((2, "a"), (3, "b"), (4, "c"))]
    assert {lease.owner.network for lease in store.leases()} == {"wire"}


@pytest.fixture
def no_reading(monkeypatch):
    """Forbids reading files, except those of the call's own container."""

    def refuse(_directory):
        raise AssertionError("all files of the directory are read")

    return lambda: monkeypatch.setattr(Directory, "lease_files", refuse)


def test_while_the_directory_is_unchanged_only_the_owners_files_are_read(store, no_reading):
    take(store, "a", V4, V6)
    no_reading()
    take(store, "b", V4, V6)
    with pytest.raises(AddressesExhausted):
        take(store, "c", V6, ranges("10.0.0.0/30", 2, 3))
    assert take(store, "a", V4, V6) == ["10.0.0.2", "fd00::2"]
    store.release(owner("a"))
    store.release(owner("nobody"))
    assert held(store, "a") == []
    assert held(store, "b") == ["10.0.0.3", "fd00::3"]


def test_what_another_owner_makes_removes_or_rewrites_is_seen(store, place):
    take(store, "a")
    plant(place, "10.0.0.5", b"b\r\nnet1")
    assert held(store, "b") == ["10.0.0.5"]
    (place / "10.0.0.5").unlink()
    assert held(store, "b") == []
    plant(place, "10.0.0.2", b"c\r\nnet1")
    assert held(store, "a") == []
    store.release(owner("a"))
    assert files(place) == {"10.0.0.2": b"c\r\nnet1"}


def test_the_directory_s_time_stays_near_the_change_s(store, place):
    take(store, "a")
    change = (place / "10.0.0.2").stat().st_mtime
    assert change - 2 < place.stat().st_mtime < change


def damaged_files(run):
    return [path for path in run.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: path.write_bytes(b"\xff" * 600),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/dev/null")),
    ],
    ids=["gone", "empty", "short", "nonsense", "directory", "link"],
)
def test_a_damaged_index_costs_only_a_look_at_the_files(store, run, place, damage):
    take(store, "a", V4, V6)
    damaged = damaged_files(run)
    assert len(damaged) == 4
    for i, path in enumerate(damaged):
        damage(path)
        assert held(store, "a") == ["10.0.0.2", "fd00::2"]
        assert take(store, f"b{i}", V4, V6) == [f"10.0.0.{i + 3}", f"fd00::{i + 3}"]
    store.release(owner("a"))
    assert take(store, "c") == ["10.0.0.2"]
    assert len(files(place)) == 9


def test_without_a_place_for_the_index_everything_works(tmp_path, place):
    (tmp_path / "file").write_bytes(b"")
    store = Local(str(place), str(tmp_path / "file" / "run"))
    assert take(store, "a", V4, V6) == take(store, "a", V4, V6) == ["10.0.0.2", "fd00::2"]
    store.gc({("a", "net1")})
    store.release(owner("a"))
    assert files(place) == {}


def test_an_index_that_has_grown_is_recreated_with_more_parts(store, run, monkeypatch, no_reading):
    monkeypatch.setattr(index, "_SHARD_BYTES", 400)
    monkeypatch.setattr(index, "_SHARD_ENTRIES", 10)
    got = {f"c{i}": take(store, f"c{i}", V6) for i in range(60)}
    assert len(list(run.rglob("shard*"))) > 1
    no_reading()
    assert {name: held(store, name) for name in got} == got


def test_a_hint_that_is_wrong_costs_no_address(store, monkeypatch):
    take(store, "a")
    monkeypatch.setattr(Used, "next_free", lambda _used, _version, _number, last: last + 1)
    assert take(store, "b") == ["10.0.0.3"]
    monkeypatch.setattr(Used, "next_free", lambda _used, _version, number, _last: number)
    assert [take(store, name) for name in "cde"] == [["10.0.0.4"], ["10.0.0.5"], ["10.0.0.6"]]


def test_the_hint_finds_what_is_free_across_its_parts(tmp_path):
    start = parse("10.0.0.0").number
    used = Used(str(tmp_path))
    used.restart(str(address.Address(version=4, number=start + i)) for i in range(16_000, 40_000))
    assert used.save()
    assert len(os.listdir(tmp_path)) == 3
    again = Used(str(tmp_path))
    assert again.next_free(4, start, start + 65535) == start
    assert again.next_free(4, start + 16_000, start + 65535) == start + 40_000
    assert again.next_free(4, start + 16_000, start + 39_999) > start + 39_999
    again.mark(str(address.Address(version=4, number=start + 33_333)), used=False)
    assert again.next_free(4, start + 16_000, start + 65535) == start + 33_333


@pytest.mark.parametrize("lacking", ["open", "link"])
def test_where_files_cannot_be_without_a_name_they_are_made_as_go_makes_them(store, place, monkeypatch, lacking):
    real = getattr(os, lacking)

    def refuse(path, *rest, **named):
        if lacking == "link" or rest[0] & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return real(path, *rest, **named)

    monkeypatch.setattr(os, lacking, refuse)
    plant(place, "10.0.0.2", b"other")
    assert take(store, "a") == ["10.0.0.3"]
    assert files(place)["10.0.0.3"] == b"a\r\nnet1"
    assert oct((place / "10.0.0.3").stat().st_mode) == "0o100644"


def test_no_descriptor_stays_open(store):
    before = os.listdir("/proc/self/fd")
    take(store, "a")
    with pytest.raises(AddressesExhausted):
        take(store, "b", ranges("10.0.0.2/32", 0, 0))
    store.gc(set())
    store.status((V4,))
    assert os.listdir("/proc/self/fd") == before
