"""Parts of the lab that need no machine: frames, differences, and a runtime's configurations from a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab import packages
from tests.lab.cni import plugin_conf
from tests.lab.errors import LabError, VmFailed, VmGone, VmStuck
from tests.lab.frames import Frames, frame
from tests.lab.progress import silent
from tests.lab.session import Machines
from tests.lab.snapshot import difference
from tests.lab.vm import Vm
from tests.lab.wire import Wire, parse
from tests.strace import Point, named, points

UNTAGGED = bytes.fromhex("ffffffffffff 020000000001 0806") + b"payload"
TAGGED = bytes.fromhex("ffffffffffff 020000000001 8100 6064 0806") + b"payload"


def test_messages_survive_any_cutting_of_the_stream() -> None:
    stream = frame({"id": 1}, b"body\0\n") + frame({"id": 2, "text": "\N{SNOWMAN}"}) + frame({"id": 3}, bytes(3))
    wanted = [({"id": 1}, b"body\0\n"), ({"id": 2, "text": "\N{SNOWMAN}"}, b""), ({"id": 3}, bytes(3))]
    for size in (1, 2, 7, len(stream)):
        frames = Frames()
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert [message for piece in pieces for message in frames.feed(piece)] == wanted


def test_a_tag_is_read_and_taken_off_the_payload() -> None:
    plain, tagged = parse(UNTAGGED), parse(TAGGED)
    assert (plain.destination, plain.source) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01")
    assert (plain.tag, plain.vlan, plain.qos) == (None, None, None)
    assert (tagged.tag, tagged.vlan, tagged.qos) == (0x8100, 100, 3)
    assert plain.ethertype == tagged.ethertype == 0x0806
    assert plain.payload == tagged.payload == b"payload"


def test_a_wire_closes_without_traffic(tmp_path: Path) -> None:
    wire = Wire(tmp_path, 0)
    capture = wire.capture()
    with pytest.raises(LabError, match="of 0:"):
        capture.wait_for(lambda _frame: True, timeout=0.01)
    wire.close()


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    (
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, ["a.b: 1 -> 3"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}, ["a.b: [1, 2] -> [2, 1]"]),
        ({"a": {}}, {"a": {"new": None}}, ["a.new: absent -> null"]),
        ({"a": {"old": {"x": 1}}}, {"a": {}}, ['a.old: {"x": 1} -> absent']),
        ({"a": 1, "b": False}, {"a": 1, "b": 0}, ["b: false -> 0"]),
    ),
)
def test_a_difference_names_the_path_and_both_values(
    before: dict[str, Any], after: dict[str, Any], lines: list[str]
) -> None:
    assert difference(before, after) == lines


def test_a_plugin_of_a_list_gets_name_version_result_and_the_values_of_its_capabilities() -> None:
    conf = {"type": "tuning", "capabilities": {"mac": True, "ips": True, "portMappings": False}}
    conflist = {"name": "net", "cniVersion": "1.0.0", "plugins": [conf]}
    made = plugin_conf(conflist, conf, {"mac": "02:00:00:00:00:01", "portMappings": []}, {"ips": []})
    assert made == {
        **conf,
        "name": "net",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"mac": "02:00:00:00:00:01"},
        "prevResult": {"ips": []},
    }


def test_the_first_plugin_of_a_list_gets_no_result() -> None:
    conf = {"type": "sriov"}
    made = plugin_conf({"name": "net", "cniVersion": "1.0.0", "plugins": [conf]}, conf, {}, None)
    assert made == {"type": "sriov", "name": "net", "cniVersion": "1.0.0"}


def test_the_packages_of_the_guest_are_a_part_of_the_list() -> None:
    names = packages.guest_packages()
    assert {"kmod", "iproute2", "containernetworking-plugins"} <= set(names)
    assert not {"qemu-system-x86/bookworm-backports", "erofs-utils"} & set(names)


class Dying(Vm):
    """A machine whose first boots end early, or fail in another way."""

    def __init__(self, failures: list[VmFailed]) -> None:
        super().__init__()
        self.failures = failures

    def _boot_once(self) -> None:
        if self.failures:
            raise self.failures.pop()


def test_a_machine_that_ends_or_hangs_while_it_boots_is_booted_again_at_most_twice() -> None:
    machine = Dying([VmGone("gone", ""), VmStuck("stuck", "")])
    machine._boot()
    assert machine.failures == []
    with pytest.raises(VmGone):
        Dying([VmGone("gone", "")] * 3)._boot()


def test_a_machine_that_fails_to_boot_is_not_booted_again() -> None:
    machine = Dying([VmGone("gone", ""), VmFailed("the PFs did not come up", "")])
    with pytest.raises(VmFailed, match="the PFs"):
        machine._boot()
    assert len(machine.failures) == 1


def test_the_state_after_a_test_is_the_one_before_the_next_unless_the_machine_booted_between() -> None:
    machine, machines = Vm(), Machines(silent)
    assert machines.take_state(machine) is None
    machines.keep_state(machine, {"netns": {}})
    assert machines.take_state(machine) == {"netns": {}}
    assert machines.take_state(machine) is None, "the test that took it did not come to its end"
    machines.keep_state(machine, {"netns": {}})
    machine.boots += 1
    assert machines.take_state(machine) is None


def test_a_package_that_is_not_installed_is_named_with_what_to_do() -> None:
    with pytest.raises(LabError, match=r"(?s)no-such-package.*bootstrap"):
        packages.closure(["bash", "no-such-package"])


TRACE = r"""
openat(AT_FDCWD</root>, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3</etc/ld.so.cache>
openat(AT_FDCWD</root>, "/run/lock/a", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3</run/lock/a>
setns(3</run/netns/pod7>, CLONE_NEWNET) = 0
sendto(5<socket:[77]>, [{nlmsg_len=32, nlmsg_type=0x12 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|NLM_F_ACK, nlmsg_seq=1, nlmsg_pid=0}, "\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"], 32, 0, NULL, 0) = 32
sendto(5<socket:[77]>, [{nlmsg_len=40, nlmsg_type=0x13 /* NLMSG_??? */, nlmsg_flags=NLM_F_REQUEST|NLM_F_ACK, nlmsg_seq=2, nlmsg_pid=0}, "\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x04\x00\x78\x05\x00\x00"], 40, 0, NULL, 0) = 40
sendto(8<socket:[78]>, "\377\2\0"..., 42, 0, {sa_family=AF_PACKET, sll_ifindex=3}, 20) = 42
write(2</dev/null>, "a warning\n", 10) = 10
--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
write(6</var/a/pod7-0123456789ab:net1.json.364.tmp>, "{}", 2) = -1 EIO (Input/output error) (INJECTED)
rename("/var/a/x.364.tmp", "/var/a/x")  = ?
+++ killed by SIGKILL +++
"""


def test_changing_and_reading_calls_are_distinguished_but_numbers_count_both() -> None:
    assert points(TRACE.splitlines()) == [
        Point("openat", 2, "/run/lock/a"),
        Point("setns", 1, "/run/netns/POD"),
        Point("sendto", 2, "RTM_SETLINK IFLA_MTU"),
        Point("sendto", 3, "frame, AF_PACKET"),
        Point("write", 2, "/var/a/POD:net1.json.tmp"),
        Point("rename", 1, "/var/a/x"),
    ]


@pytest.mark.parametrize("text", ("EIO (Input/output error)", "cannot write: Input/output error", "answer: EIO"))
def test_an_error_is_named_by_its_symbol_or_in_words(text: str) -> None:
    assert named("EIO", text)
    assert not named("EBUSY", text)
