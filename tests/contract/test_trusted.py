"""Files named in a configuration, on the real file system: who could redirect a path, which files are never opened."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from cni.errors import InvalidConfig
from cni.host.trusted import NotThere, Roots, reserved

NOBODY = 65534


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "conf").mkdir(mode=0o755)
    (tmp_path / "conf" / "file").write_bytes(b"content")
    return Roots(allowed=(f"{tmp_path}/conf",), key="kubernetes.kubeconfigs", start=str(tmp_path))


def refusal(roots: Roots, path: object, read: str = "content") -> InvalidConfig:
    with pytest.raises(InvalidConfig) as raised:
        getattr(roots, read)(str(path), "resolvConf")
    assert raised.value.msg.startswith("resolvConf: ")
    return raised.value


def test_a_file_of_root_below_an_allowed_root_is_read(roots, tmp_path):
    assert roots.content(f"{tmp_path}/conf/file", "resolvConf") == b"content"
    assert roots.content(f"{tmp_path}/conf//./file", "resolvConf") == b"content"
    assert roots.replace(allowed=(f"{tmp_path}/conf/file",)).content(f"{tmp_path}/conf/file", "it") == b"content"


def test_the_machine_s_own_files_are_read_from_its_root():
    assert Roots(allowed=("/etc",)).content("/etc/passwd", "it").startswith(b"root:")
    assert Roots(allowed=("/var/run",)).resolved("/var/run", "it") == os.path.realpath("/var/run")


@pytest.mark.parametrize("path", ("relative", "", "/a\0b"))
def test_what_is_no_absolute_path_is_refused(roots, path):
    assert "is not an absolute path" in refusal(roots, path).msg


def test_what_is_not_below_an_allowed_root_is_refused_with_the_key_that_allows_it(roots, tmp_path):
    (tmp_path / "conf-other").write_bytes(b"secret")
    for path in (f"{tmp_path}/conf-other", f"{tmp_path}/conf/../conf-other"):
        error = refusal(roots, path)
        assert f"is not below {tmp_path}/conf" in error.msg
        assert error.hint == "the node's administrator can allow it: kubernetes.kubeconfigs in /etc/barewire/node.json"


def test_a_missing_file_is_reported_as_such(roots, tmp_path):
    with pytest.raises(
        NotThere, match=f"resolvConf: {tmp_path}/conf/a does not exist .on the way to {tmp_path}/conf/a/b"
    ):
        roots.content(f"{tmp_path}/conf/a/b", "resolvConf")


def test_an_owner_other_than_root_is_refused_by_name_of_the_component(roots, tmp_path):
    (tmp_path / "conf" / "theirs").mkdir()
    (tmp_path / "conf" / "theirs" / "file").write_bytes(b"planted")
    os.chown(tmp_path / "conf" / "theirs", NOBODY, 0)
    error = refusal(roots, tmp_path / "conf" / "theirs" / "file")
    assert f"{tmp_path}/conf/theirs belongs to user 65534" in error.msg
    assert f"chown root {tmp_path}/conf/theirs" in error.hint
    os.chown(tmp_path / "conf" / "file", NOBODY, 0)
    assert f"{tmp_path}/conf/file belongs to user 65534" in refusal(roots, tmp_path / "conf" / "file").msg


@pytest.mark.parametrize("mode", (0o775, 0o757, 0o1777))
def test_a_directory_to_which_others_may_write_is_refused_sticky_or_not(roots, tmp_path, mode):
    (tmp_path / "conf" / "open").mkdir()
    (tmp_path / "conf" / "open" / "file").write_bytes(b"planted")
    (tmp_path / "conf" / "open").chmod(mode)
    error = refusal(roots, tmp_path / "conf" / "open" / "file")
    assert f"others may write to {tmp_path}/conf/open" in error.msg
    assert f"chmod go-w {tmp_path}/conf/open" in error.hint
    assert "others may write" in refusal(roots, tmp_path / "conf" / "open", "resolved").msg


def test_a_file_to_which_others_may_write_is_refused(roots, tmp_path):
    (tmp_path / "conf" / "file").chmod(0o664)
    assert "others may write" in refusal(roots, tmp_path / "conf" / "file").msg


def test_owners_that_are_trusted_may_own_what_is_named_and_write_to_it(roots, tmp_path):
    trusting = roots.replace(owners=(NOBODY,))
    folder = tmp_path / "conf" / "theirs"
    folder.mkdir()
    (folder / "file").write_bytes(b"theirs")
    os.chown(folder, NOBODY, 0)
    assert "add 65534 to trustedOwners in /etc/barewire/node.json" in refusal(roots, folder / "file").hint
    assert trusting.content(f"{folder}/file", "it") == b"theirs"
    os.chown(folder, 0, NOBODY)
    folder.chmod(0o770)
    assert "add 65534 to trustedOwners in /etc/barewire/node.json" in refusal(roots, folder / "file").hint
    assert trusting.content(f"{folder}/file", "it") == b"theirs"


@pytest.mark.parametrize(("owner", "group", "mode"), ((1234, NOBODY, 0o755), (0, 0, 0o775), (NOBODY, NOBODY, 0o777)))
def test_no_other_authority_is_trusted(roots, tmp_path, owner, group, mode):
    trusting = roots.replace(owners=(NOBODY,))
    folder = tmp_path / "conf" / "theirs"
    folder.mkdir()
    os.chown(folder, owner, group)
    folder.chmod(mode)
    error = refusal(trusting, folder, "resolved")
    assert "belongs to user 1234" in error.msg or "others may write" in error.msg
    assert "add 0 " not in error.hint


@pytest.mark.parametrize("target", ("real/file", "../conf/real/file", "{top}/conf/real/file"))
def test_a_symlink_of_root_is_followed_as_far_as_it_stays_below_an_allowed_root(roots, tmp_path, target):
    (tmp_path / "conf" / "real").mkdir()
    (tmp_path / "conf" / "real" / "file").write_bytes(b"behind the link")
    (tmp_path / "conf" / "link").symlink_to(target.format(top=tmp_path))
    assert roots.content(f"{tmp_path}/conf/link", "it") == b"behind the link"
    (tmp_path / "conf" / "way").symlink_to(os.path.dirname(target.format(top=tmp_path)))
    assert roots.resolved(f"{tmp_path}/conf/way", "it") == f"{tmp_path}/conf/real"


def test_a_symlink_out_of_the_allowed_roots_is_refused(roots, tmp_path):
    (tmp_path / "shadow").write_bytes(b"secret")
    (tmp_path / "conf" / "link").symlink_to("../shadow")
    assert (
        f"{tmp_path}/shadow (on the way to {tmp_path}/conf/link) is not below"
        in refusal(roots, tmp_path / "conf" / "link").msg
    )


def test_a_symlink_of_another_owner_is_not_followed(roots, tmp_path):
    (tmp_path / "conf" / "link").symlink_to("file")
    os.chown(tmp_path / "conf" / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert "link belongs to user 65534" in refusal(roots, tmp_path / "conf" / "link").msg


def test_what_is_entrusted_to_another_user_is_read_and_leads_nowhere_else(roots, tmp_path):
    folder = tmp_path / "conf" / "resolver"
    folder.mkdir()
    for name, target in (("file", ""), ("out", "../../secret"), ("in", "file")):
        (folder / name).symlink_to(target) if target else (folder / name).write_bytes(b"theirs")
        os.chown(folder / name, NOBODY, NOBODY, follow_symlinks=False)
    os.chown(folder, NOBODY, NOBODY)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "conf" / "way").symlink_to("resolver/file")
    entrusted = roots.replace(entrusted=(str(folder),))
    for name in ("resolver/file", "resolver/in", "way"):
        assert entrusted.content(f"{tmp_path}/conf/{name}", "it") == b"theirs"
        assert "belongs to user" in refusal(roots, tmp_path / "conf" / name).msg
    assert "is not below" in refusal(entrusted, folder / "out").msg


def test_links_without_an_end_are_refused(roots, tmp_path):
    (tmp_path / "conf" / "a").symlink_to("b")
    (tmp_path / "conf" / "b").symlink_to("a")
    assert "too many symbolic links" in refusal(roots, tmp_path / "conf" / "a").msg


def test_a_path_without_an_end_is_refused(roots, tmp_path):
    deep = tmp_path / "conf"
    for _ in range(70):
        deep /= "d"
    deep.mkdir(parents=True)
    assert "too many components" in refusal(roots, deep, "resolved").msg


def opened_by_read(tmp_path, path: str) -> str:
    """The files that a process opens when it reads the path, according to strace."""
    program = (
        "from cni.host.trusted import Roots\n"
        f"try: Roots(allowed=('/',), start={str(tmp_path)!r}).content({path!r}, 'it')\n"
        "except Exception as error: print(error)\n"
    )
    return subprocess.run(
        ["strace", "-f", "-e", "trace=open,openat,openat2", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stderr


def test_neither_a_device_nor_a_fifo_is_ever_opened(roots, tmp_path):
    # 1:3 is null, and opening it has no effect; opening 10:130, a watchdog, would reset the machine.
    os.mknod(tmp_path / "conf" / "character", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tmp_path / "conf" / "block", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    os.mkfifo(tmp_path / "conf" / "fifo", 0o600)
    for name in ("character", "block", "fifo"):
        assert f"{tmp_path}/conf/{name} is not a regular file" in refusal(roots, tmp_path / "conf" / name).msg
        calls = [
            line for line in opened_by_read(tmp_path, f"{tmp_path}/conf/{name}").splitlines() if f'"{name}"' in line
        ]
        assert calls
        assert all("O_PATH" in line for line in calls)


def test_a_directory_is_no_file_and_a_file_no_directory(roots, tmp_path):
    assert "is not a regular file" in refusal(roots, tmp_path / "conf").msg
    assert "is not a directory" in refusal(roots, tmp_path / "conf" / "file", "resolved").msg
    assert "is not a directory" in refusal(roots, tmp_path / "conf" / "file" / "below").msg


def test_a_large_file_is_refused_before_it_is_read(roots, tmp_path):
    with open(tmp_path / "conf" / "large", "wb") as file:
        file.truncate(1 << 40)
    assert "is larger than" in refusal(roots, tmp_path / "conf" / "large").msg


def test_an_opened_directory_is_the_one_that_was_judged(roots, tmp_path):
    fd = roots.opened(f"{tmp_path}/conf", "it")
    try:
        assert os.listdir(fd) == ["file"]
    finally:
        os.close(fd)


def test_missing_directories_are_made_below_an_allowed_root_only(roots, tmp_path):
    assert roots.resolved(f"{tmp_path}/conf/a/b", "it", make=0o700) == f"{tmp_path}/conf/a/b"
    assert stat.S_IMODE((tmp_path / "conf" / "a").stat().st_mode) == 0o700
    (tmp_path / "conf" / "way").symlink_to("../elsewhere")
    for path in ("elsewhere/b", "conf/way/b", "conf/x/../../elsewhere/b"):
        with pytest.raises(InvalidConfig):
            roots.resolved(f"{tmp_path}/{path}", "it", make=0o700)
    assert sorted(os.listdir(tmp_path)) == ["conf"]
    assert not (tmp_path / "conf" / "x").exists()


def test_the_allowed_root_itself_is_made_where_it_is_missing(roots, tmp_path):
    others = roots.replace(allowed=(f"{tmp_path}/cni/networks",))
    assert others.resolved(f"{tmp_path}/cni/networks", "it", make=0o755) == f"{tmp_path}/cni/networks"


def test_the_start_is_not_judged_and_nothing_leads_out_of_it(tmp_path):
    (tmp_path / "start").mkdir(mode=0o700)
    (tmp_path / "start" / "file").write_bytes(b"content")
    (tmp_path / "start").chmod(0o1777)
    roots = Roots(allowed=("/",), start=f"{tmp_path}/start")
    assert roots.content(f"{tmp_path}/start/file", "it") == b"content"
    (tmp_path / "start" / "out").symlink_to("/etc/passwd")
    (tmp_path / "start" / "up").symlink_to("../../../../../../../../etc/passwd")
    with pytest.raises(InvalidConfig, match="is not below"):
        roots.content(f"{tmp_path}/start/out", "it")
    with pytest.raises(InvalidConfig, match=f"leads by a symbolic link to {tmp_path}/start/etc"):
        roots.content(f"{tmp_path}/start/up", "it")


def test_no_descriptor_is_left_open(roots, tmp_path):
    os.mkfifo(tmp_path / "conf" / "fifo")
    (tmp_path / "conf" / "link").symlink_to("../gone")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("file", "fifo", "link", "missing/x", "file/x", ".", "../other"):
        for read in (roots.content, roots.resolved):
            try:
                read(f"{tmp_path}/conf/{name}", "it")
            except InvalidConfig:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_destination_of_a_path_is_known_before_it_exists_and_nothing_is_made(roots, tmp_path):
    assert roots.destination(f"{tmp_path}/conf", "it") == f"{tmp_path}/conf"
    assert roots.destination(f"{tmp_path}/conf/a//b", "it") == f"{tmp_path}/conf/a/b"
    (tmp_path / "conf" / "way").symlink_to("../elsewhere")
    for path in ("elsewhere", "conf/way/b", "conf/a/../../elsewhere", "conf/file", "conf/file/b"):
        with pytest.raises(InvalidConfig):
            roots.destination(f"{tmp_path}/{path}", "it")
    assert sorted(os.listdir(tmp_path / "conf")) == ["file", "way"]


@pytest.mark.parametrize("target", ("gone", "gone/deeper", "{top}/conf/gone", "real/../gone"))
def test_nothing_is_made_where_a_symlink_leads_nowhere(roots, tmp_path, target):
    (tmp_path / "conf" / "real").mkdir()
    (tmp_path / "conf" / "way").symlink_to(target.format(top=tmp_path))
    (tmp_path / "conf" / "other").symlink_to("way")
    for name in ("way", "way/a", "other", "other/a"):
        for call in (roots.destination, lambda *said: roots.resolved(*said, make=0o700)):
            with pytest.raises(InvalidConfig, match=r"leads by a symbolic link to .*/gone, which does not exist"):
                call(f"{tmp_path}/conf/{name}", "it")
    assert not (tmp_path / "conf" / "gone").exists()
    (tmp_path / "conf" / "good").symlink_to("real")
    assert roots.resolved(f"{tmp_path}/conf/good/a/b", "it", make=0o700) == f"{tmp_path}/conf/real/a/b"


def test_what_belongs_to_another_program_is_refused_below_an_allowed_root(roots, tmp_path):
    (tmp_path / "conf" / "theirs").mkdir()
    (tmp_path / "conf" / "way").symlink_to("theirs")
    others = roots.replace(reserved=((f"{tmp_path}/conf", ("theirs", "not-yet")),))
    for name in ("theirs", "theirs/x", "way", "not-yet", "not-yet/x"):
        with pytest.raises(InvalidConfig, match="belongs to another program"):
            others.destination(f"{tmp_path}/conf/{name}", "it")
    assert others.destination(f"{tmp_path}/conf/theirs-not", "it")


def test_a_reserved_directory_that_a_link_leads_to_is_reserved_by_either_name(roots, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "conf" / "theirs").symlink_to("../elsewhere")
    (tmp_path / "way").symlink_to("conf")
    open_to_all = roots.replace(allowed=(str(tmp_path),))
    for path in (f"{tmp_path}/conf/theirs", f"{tmp_path}/way/theirs", f"{tmp_path}/conf/theirs/"):
        others = open_to_all.replace(
            reserved=((f"{tmp_path}/gone", ("x",)), (f"{tmp_path}/conf", ("a",)), reserved(path))
        )
        for name in ("elsewhere", "elsewhere/x", "conf/theirs/x", "way/theirs", "way/a"):
            with pytest.raises(InvalidConfig, match="belongs to another program"):
                others.destination(f"{tmp_path}/{name}", "it")
        assert others.destination(f"{tmp_path}/elsewhere-not", "it")


def test_dozens_of_reserved_directories_are_resolved_by_the_few_that_they_are_in(roots, tmp_path, monkeypatch):
    resolved: list[str] = []
    real = os.path.realpath

    def counted(path: str) -> str:
        resolved.append(path)
        return real(path)

    monkeypatch.setattr(os.path, "realpath", counted)
    many = roots.replace(reserved=((f"{tmp_path}/conf", [f"theirs-{number}" for number in range(40)]),))
    assert many.destination(f"{tmp_path}/conf/free", "it")
    assert len(resolved) < 5


def test_a_missing_start_is_reported_as_such(tmp_path):
    with pytest.raises(NotThere):
        Roots(allowed=("/",), start=f"{tmp_path}/absent").content(f"{tmp_path}/absent/token", "it")
