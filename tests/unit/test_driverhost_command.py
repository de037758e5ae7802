"""The command `driverhost`, on driver hosts of a card that is a program."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from driverhost.client import connect
from driverhost.command import devices_of_container, parser, run
from driverhost.contract import CONTRACT
from driverhost.drivers.igbvf.driver import IgbVf
from driverhost.errors import DeviceUnavailable, NoDriver
from driverhost.finding import find
from driverhost.serve import listening
from tests.drivers.igbvf_card import Card
from tests.drivers.served import Served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path) as served:
        yield served


def test_devices_are_listed_for_people_and_as_json(served, capsys):
    assert run(["list", "--socket", served.paths[0]]) == 0
    assert capsys.readouterr().out == "0000:02:10.0 up IgbVf 02:00:00:00:00:a0 1000 Mbit/s\n"
    assert run(["list", "--socket", served.paths[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["device"] == "0000:02:10.0"


def test_counters_are_shown(served, capsys):
    assert run(["stats", "--socket", served.paths[0]]) == 0
    assert "rx_packets           0\n" in capsys.readouterr().out
    assert run(["stats", "--socket", served.paths[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tx_packets"] == 0


def test_a_capture_is_a_pcap_file_of_the_frames(served, tmp_path):
    one, other = served.macs
    target = tmp_path / "trace.pcap"
    frames = [other + one + bytes([0x88, 0xB5, number]) + bytes(60) for number in range(5)]
    with connect(served.paths[0]) as client, client.open() as port:
        capturing = threading.Thread(
            target=run, args=(["capture", str(target), "--socket", served.paths[1], "--count", "5"],)
        )
        capturing.start()
        while not served.do(lambda: served.hosts[1].info()["captures"]):
            assert capturing.is_alive()
        port.send(frames)
        capturing.join(10)
    content = target.read_bytes()
    assert struct.unpack_from("<IHH", content) == (0xA1B2C3D4, 2, 4)
    offset, seen = 24, []
    while offset < len(content):
        _seconds, _micro, size, whole = struct.unpack_from("<IIII", content, offset)
        assert size == whole
        seen.append(content[offset + 16 : offset + 16 + size])
        offset += 16 + size
    assert seen == frames


def test_a_driver_host_that_is_not_there_is_an_error_with_a_remedy(tmp_path, capsys):
    assert run(["list", "--socket", str(tmp_path / "none"), "--timeout", "0"]) == 1
    assert capsys.readouterr().err.startswith(f"driverhost: no driver host at {tmp_path / 'none'}: ")


def test_without_a_device_nothing_is_served(monkeypatch, capsys):
    monkeypatch.delenv("PCIDEVICE_INTEL_COM_VF", raising=False)
    assert run(["serve"]) == 1
    assert "no device is given" in capsys.readouterr().err


def test_devices_are_those_of_the_device_plugin():
    variables = {
        "PCIDEVICE_INTEL_COM_A": "0000:02:10.0,0000:02:10.2",
        "PCIDEVICE_INTEL_COM_A_INFO": '{"0000:02:10.0": {}}',
        "PCIDEVICE_INTEL_COM_B": "0000:02:10.0",
        "HOME": "/root",
    }
    assert devices_of_container(variables) == ["0000:02:10.0", "0000:02:10.2"]
    with pytest.raises(DeviceUnavailable, match="PCIDEVICE_X: 'junk' is not a PCI address"):
        devices_of_container({"PCIDEVICE_X": "junk"})


class Entry:
    """An entry point of a package that the image has installed."""

    name = "other"

    def load(self):
        return type("Other", (IgbVf,), {"IDS": frozenset({(0x1AF4, 0x1041)})})


def test_a_driver_is_found_by_the_device_s_ids_among_ours_and_those_of_packages():
    assert find((0x8086, 0x10CA), []) is IgbVf
    assert find((0x1AF4, 0x1041), [Entry()]).__name__ == "Other"  # type: ignore[list-item]
    with pytest.raises(NoDriver, match="no driver for a device 1af4:1000; there are: IgbVf, VirtioNet"):
        find((0x1AF4, 0x1000), [])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["test", "--target", "garbage"], "'garbage' is not the address of one interface"),
        (["test", "--target", "02:00"], "'02:00' is not the address of one interface"),
        (["test", "--count", "0"], "'0' is not a number of at least 1"),
        (["capture", "-", "--count", "x"], "'x' is not a number of at least 1"),
        (["serve", "--device", "garbage"], "'garbage' is not a PCI address"),
        (["serve", "--device", "../../../.."], "'../../../..' is not a PCI address"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_reason(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        run(arguments)
    assert reason in capsys.readouterr().err


def test_a_capture_leaves_an_earlier_file_when_there_is_no_driver_host_and_names_a_file_that_cannot_be_written(
    served, tmp_path, capsys
):
    old = tmp_path / "trace.pcap"
    old.write_bytes(b"old")
    assert run(["capture", str(old), "--socket", str(tmp_path / "none"), "--timeout", "0"]) == 1
    assert old.read_bytes() == b"old"
    capsys.readouterr()
    assert run(["capture", str(tmp_path / "none/x"), "--socket", served.paths[0]]) == 1
    assert capsys.readouterr().err == f"driverhost: {tmp_path / 'none/x'}: No such file or directory\n"


def test_a_test_of_a_device_that_is_down_says_so(served, monkeypatch, capsys):
    monkeypatch.setattr("driverhost.drivers.igbvf.mailbox.ANSWER_SECONDS", 0.01)
    with connect(served.paths[0]) as client:
        client.subscribe()
        served.vfs[0].pf_answers = False
        served.do(served.vfs[0].reset_pf)
        client.event(10)
        assert run(["test", "--socket", served.paths[0]]) == 1
    assert "the driver of 0000:02:10.0 is not running" in capsys.readouterr().err


class Broken(Entry):
    name = "broken"

    def load(self):
        raise ModuleNotFoundError("no module named missing")


class Ours(Entry):
    """A package's driver with the same name as our driver."""

    name = "IgbVf"

    def load(self):
        return type("IgbVf", (IgbVf,), {"replaces": True})


def test_a_package_that_cannot_be_loaded_keeps_no_device_from_its_driver_and_is_named_where_one_is_missing():
    entries: Any = [Broken(), Entry()]
    assert find((0x8086, 0x10CA), entries) is IgbVf
    assert find((0x1AF4, 0x1041), entries).__name__ == "Other"
    with pytest.raises(NoDriver, match="broken cannot be loaded: ModuleNotFoundError: no module named missing"):
        find((1, 2), entries)


def test_a_driver_of_a_package_comes_before_ours():
    entries: Any = [Ours()]
    assert find((0x8086, 0x10CA), entries) is not IgbVf


def test_a_file_that_is_no_socket_is_not_removed_and_a_path_that_is_too_long_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(DeviceUnavailable, match="it exists and is no socket"):
        listening(str(file))
    assert file.read_text() == "kept"
    with pytest.raises(DeviceUnavailable, match="too long"):
        listening(str(tmp_path / ("x" * 120)))


def test_a_new_driver_is_found_and_its_tests_wait_for_a_device(tmp_path, capsys):
    assert run(["create-driver", "my_card", "8086:10d3", str(tmp_path)]) == 0
    files = capsys.readouterr().out.split()
    assert [path.removeprefix(f"{tmp_path}/my_card/") for path in files] == [
        "pyproject.toml",
        "my_card/__init__.py",
        "my_card/driver.py",
        "tests/test_my_card.py",
    ]
    project = tomllib.loads((tmp_path / "my_card/pyproject.toml").read_text())["project"]
    place = project["entry-points"]["barewire.drivers"]["my_card"]
    program = "import sys; from importlib.metadata import EntryPoint as E; from driverhost.finding import find\n"
    program += f"print(find((0x8086, 0x10D3), [E('my_card', {place!r}, 'barewire.drivers')]))"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/my_card:{os.getcwd()}"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "<class 'my_card.driver.MyCard'>\n"
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), files[-1]]
    tested = subprocess.run(
        tests, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (tested.returncode, "8 skipped" in tested.stdout) == (0, True), tested.stdout + tested.stderr


def test_a_new_driver_replaces_nothing_and_has_a_name_that_python_imports(tmp_path, capsys):
    for name in ("My-Card", "9card", "../up", ""):
        assert run(["create-driver", name, "8086:10d3", str(tmp_path)]) == 1
        assert "is no name for a package" in capsys.readouterr().err
    (tmp_path / "card").mkdir()
    assert run(["create-driver", "card", "8086:10d3", str(tmp_path)]) == 1
    assert f"cannot write {tmp_path / 'card'}: File exists" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(["create-driver", "card", "8086", str(tmp_path)])
    assert "'8086' is not a vendor and a device" in capsys.readouterr().err


def test_a_driver_is_verified_on_two_devices(monkeypatch, capsys):
    card = Card()
    vfs = {vf.address: vf for vf in (card.vf(), card.vf())}

    class Opened:
        def __init__(self, place):
            self._vf = vfs[place.address]

        def __enter__(self):
            return self._vf

        def __exit__(self, *_exc):
            self._vf.close()

    monkeypatch.setattr("driverhost.verify.Place", lambda address: vfs[address])
    monkeypatch.setattr("driverhost.verify.VfioDevice", Opened)
    assert run(["verify", *vfs]) == 0
    assert capsys.readouterr().out.count("kept") == len(CONTRACT)
    monkeypatch.setattr("driverhost.contract.SECONDS", 0.01)
    monkeypatch.setattr(IgbVf, "receive", lambda _driver, _limit: [])
    assert run(["verify", *vfs]) == 1
    shown = capsys.readouterr()
    assert "broken  a frame arrives as it was sent\n        a frame of 46 bytes does not arrive\n" in shown.out
    assert "promises are broken" in shown.err


def test_the_example_of_a_pod_uses_commands_that_exist_and_grants_no_more_than_the_page_names():
    pod = yaml.safe_load((ROOT / "conf-examples/pod-driverhost.yaml").read_text())["spec"]
    [driver], [application] = pod["initContainers"], pod["containers"]
    probe = driver["startupProbe"]["exec"]["command"]
    for command in (driver["command"], application["command"], probe):
        assert command[0] == "driverhost"
        parser().parse_args(command[1:])
    assert driver["restartPolicy"] == "Always"
    assert driver["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert application["securityContext"]["runAsUser"] == int(driver["command"][-1])
