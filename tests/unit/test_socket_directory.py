"""Names and locations of sockets: the accepted ones, and a record's description of a directory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni.errors import InvalidEnvironment, SocketDirUnfit
from cni.host.acl import encoded
from cni.userspace.sockets.directory import (
    SocketDirectory,
    acl_entry,
    entry,
    kubelet_volumes,
    own,
    permissions,
)

DIRECTORY = SocketDirectory(root="/run", path="/run/pods/one", mount="/run/v/p", mode=0o750, acl=("user:107:rwx",))


def test_a_record_keeps_the_whole_directory():
    read = json.loads(json.dumps(DIRECTORY.as_document()))
    assert SocketDirectory.from_document(read) == DIRECTORY


def test_the_root_of_an_older_record_is_the_folder_that_it_is_in():
    """A pod could write to the root itself."""
    document: Any = DIRECTORY.as_document()
    del document["since"], document["of_pod"]
    for root, parent in (("/run/shared", "/run"), ("/run", "/"), ("/k/pods/u/volumes/e/", "/k/pods/u/volumes")):
        older: Any = {**document, "root": root, "path": f"{root}/x"}
        read = SocketDirectory.from_document(older)
        assert (read.root, read.since) == (parent, 0)
    document["root"] = 5  # of a damaged record; its reader validates it
    assert SocketDirectory.from_document(document).root == "/"


@pytest.mark.parametrize(
    ("root", "path", "names"),
    [
        ("/run", "/run/pods/one", ["pods", "one"]),
        ("/run/", "/run/pods//one/", ["pods", "one"]),
        ("/run", "/run", []),
        ("/run", "/run/a\nb", ["a\nb"]),
    ],
)
def test_the_way_from_root_to_path_is_a_list_of_names(root, path, names):
    assert DIRECTORY.replace(root=root, path=path).below == names


@pytest.mark.parametrize("path", ["/run/..", "/run/../etc", "/run/a/../../etc", "/run/./a"])
def test_a_way_that_leads_up_is_refused(path):
    with pytest.raises(SocketDirUnfit, match="is no file's name"):
        _ = DIRECTORY.replace(path=path).below


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "../a", "a\0b"])
def test_what_is_no_name_in_a_directory_is_refused(name):
    with pytest.raises(SocketDirUnfit):
        entry(name)


@pytest.mark.parametrize("name", ["net1", "...", "..a", "a b", "a\nb", "é"])
def test_whatever_can_only_be_a_name_is_one(name):
    assert entry(name) == name


def test_our_own_directory_is_made_by_us_in_a_place_of_ours():
    directory = own("0123456789ab-net1")
    assert directory.made
    assert directory.below == ["0123456789ab-net1"]


def test_the_volumes_of_a_pod_are_where_the_kubelet_makes_them():
    uid = "2f1bd4ae-7a9c-4e0b-9a55-0f3f1f0c9d11"
    expected = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir"
    assert kubelet_volumes("/var/lib/kubelet", uid) == kubelet_volumes("/var/lib/kubelet/", uid) == expected


@pytest.mark.parametrize("uid", ["", ".", "..", "a/b", "a\nb", "a" * 65, "é", "a\0"])
def test_what_is_no_uid_of_a_pod_makes_no_path(uid):
    with pytest.raises(InvalidEnvironment):
        kubelet_volumes("/var/lib/kubelet", uid)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("user:107:rwx", ("user", 107, 7)),
        ("group:42:r-x", ("group", 42, 5)),
        ("user:0:---", ("user", 0, 0)),
        ("user:4294967294:-w-", ("user", 4294967294, 2)),
    ],
)
def test_an_entry_of_an_access_control_list_is_read(text, meaning):
    assert acl_entry(text) == meaning


@pytest.mark.parametrize(
    "text",
    "other:1:rwx user:qemu:rwx user::rwx user:-1:rwx user:4294967295:rwx user:1:xwr user:1:rw user:1:rwxx user:1"
    " user:²:rwx".split(),
)
def test_what_is_no_entry_is_refused(text):
    with pytest.raises(ValueError, match=r"user:|permissions"):
        acl_entry(text)


def test_permissions_are_octal_digits():
    assert (permissions("770"), permissions("2770"), permissions("0000")) == (0o770, 0o2770, 0)
    for text in ("", "77", "77777", "778", "0o77", "-770", " 770"):
        with pytest.raises(ValueError, match="octal"):
            permissions(text)


def test_an_access_control_list_has_the_kernels_order_and_a_mask_that_hides_nothing():
    given = [("group", 9, 6), ("user", 107, 7), ("user", 5, 4)]
    rows = (
        b"\x01\0\x07\0\xff\xff\xff\xff"  # the owner
        b"\x02\0\x04\0\x05\0\0\0"
        b"\x02\0\x07\0\x6b\0\0\0"
        b"\x04\0\x05\0\xff\xff\xff\xff"  # the group
        b"\x08\0\x06\0\x09\0\0\0"
        b"\x10\0\x07\0\xff\xff\xff\xff"  # the mask
        b"\x20\0\x00\0\xff\xff\xff\xff"  # the others
    )
    assert encoded(0o40750, given) == b"\x02\0\0\0" + rows
