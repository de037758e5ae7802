"""Parent folders that an ADD creates for a socket's directory are removed with their last attachment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cni.userspace.vswitch import ovs
from tests.alone import alone
from tests.contract.hostile_host import Host
from tests.fake_vswitch import FakeVswitch

PLACE = Path("/run/vhostuser")
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def vswitch(monkeypatch: pytest.MonkeyPatch) -> FakeVswitch:
    fake = FakeVswitch()
    fake.add_bridge("br0", "netdev")
    monkeypatch.setattr(ovs, "OvsDpdk", lambda _remote, **_how: fake)
    monkeypatch.setattr("cni.userspace.sockets.visibility.require_visible", lambda _folder, _remote: None)
    return fake


def call(host: Host, command: str, container: str, shared: Path, code: int = 0) -> None:
    conf: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "userspace",
        "host": {"engine": "ovs-dpdk"},
        "sharedDir": str(shared),
    }
    told = host.call("userspace", command, conf, CNI_CONTAINERID=container, CNI_ARGS="")
    assert told.get("code", 0) == code, told


@alone
def test_folders_that_an_add_made_go_with_the_last_attachment_in_them_and_older_ones_stay(vswitch):
    host = Host()
    (PLACE / "older").mkdir()
    for order in ((ONE, TWO), (TWO, ONE)):
        places = {ONE: PLACE / "older/made/a", TWO: PLACE / "older/made/b/c"}
        for container, place in places.items():
            call(host, "ADD", container, place)
        call(host, "DEL", order[0], places[order[0]])
        assert not places[order[0]].exists()
        assert places[order[1]].exists()
        call(host, "DEL", order[1], places[order[1]])
        assert os.listdir(PLACE / "older") == []


@alone
def test_a_failed_add_leaves_no_folder_and_takes_none_from_another_attachment(vswitch):
    host = Host()
    vswitch.refuse(1)
    call(host, "ADD", ONE, PLACE / "made/a", code=110)
    assert os.listdir(PLACE) == []
    call(host, "ADD", ONE, PLACE / "made/a")
    vswitch.refuse(1)
    call(host, "ADD", TWO, PLACE / "made/b", code=110)
    assert os.listdir(PLACE / "made") == ["a"]


@alone
def test_a_folder_in_which_another_owner_has_put_something_stays(vswitch):
    host = Host()
    call(host, "ADD", ONE, PLACE / "made/a")
    (PLACE / "made/theirs").write_text("")
    call(host, "DEL", ONE, PLACE / "made/a")
    assert os.listdir(PLACE / "made") == ["theirs"]


@alone
def test_a_damaged_record_takes_no_folder_that_is_not_above_its_directory(vswitch):
    host = Host()
    (PLACE / "theirs").mkdir()
    call(host, "ADD", ONE, PLACE / "made/a")
    record = next(Path("/var/lib/cni/barewire").rglob("*11*"))
    record.write_text(record.read_text().replace('"/run/vhostuser/made"]', '"/run/vhostuser/theirs"]'))
    call(host, "DEL", ONE, PLACE / "made/a")
    assert sorted(os.listdir(PLACE)) == ["made", "theirs"]
