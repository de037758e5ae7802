"""The catalogue of errors: numbers, texts and details."""

from __future__ import annotations

import pytest

from cni import errors

SPECIFIED = {1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51}
"""Codes of the CNI specification that our plugins may use."""

NAMES = {
    1: "IncompatibleVersion",
    2: "UnsupportedField",
    3: "ContainerUnknown",
    4: "InvalidEnvironment",
    5: "IoFailure",
    6: "DecodeFailure",
    7: "InvalidConfig",
    8: "InvalidNetns",
    11: "TryAgainLater",
    50: "NotAvailable",
    51: "LimitedConnectivity",
    100: "DeviceBusy",
    101: "DeviceNotFound",
    104: "InterfaceExists",
    105: "KernelRefused",
    106: "DelegateFailed",
    107: "CheckFailed",
    108: "AddressConflict",
    110: "VswitchRefused",
    111: "BridgeUnfit",
    112: "PortTaken",
    113: "KubeRefused",
    114: "PodNotFound",
    115: "SocketDirUnfit",
    999: "InternalError",
}
"""The permanent meaning of each number: users' tools contain them. Add lines, but never change one."""


def test_no_two_errors_share_a_code():
    codes = [cls.code for cls in errors.catalogue()]
    assert codes == sorted(set(codes))


def test_no_code_has_changed_its_meaning():
    assert {code: name for code, name in NAMES.items() if name not in vars(errors)} == {}
    assert {cls.code: cls.__name__ for cls in errors.catalogue() if cls.code in NAMES} == NAMES


def test_codes_below_100_are_those_of_the_specification():
    assert {cls.code for cls in errors.catalogue() if cls.code < 100} == SPECIFIED


@pytest.mark.parametrize("cls", errors.catalogue(), ids=lambda cls: cls.__name__)
def test_every_error_says_cause_and_remedy_in_one_line(cls):
    for text in (cls.cause, cls.remedy):
        assert text.endswith(".")
        assert "\n" not in text
        assert "|" not in text, "it would end a cell of docs/errors.md"


def test_the_message_is_what_the_error_reads_as():
    assert str(errors.DeviceBusy("0000:01:10.0 is in use")) == "0000:01:10.0 is in use"


def test_details_are_the_hint_and_then_the_notes():
    error = errors.KernelRefused("vlan: EINVAL", hint="remove it")
    error.add_note("clean-up incomplete: no")
    error.add_note("more")
    assert error.details == "remove it\nclean-up incomplete: no\nmore"


def test_without_hint_and_notes_there_are_no_details():
    assert errors.KernelRefused("vlan: EINVAL").details == ""


def test_notes_alone_are_details():
    error = errors.KernelRefused("vlan: EINVAL")
    error.add_note("clean-up incomplete: no")
    assert error.details == "clean-up incomplete: no"
