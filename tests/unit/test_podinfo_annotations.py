"""The annotations file of the downward API, read by our library for containers."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, strategies as st

from cni.podinfo.annotations import pod_annotations, unquoted
from cni.podinfo.reading import BYTES, PodInfoError

LETTERS = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v", "\\": "\\", '"': '"'}
CHARACTERS = st.characters(exclude_categories=["Cs"])


def quoted(value: str) -> str:
    """Quotes like Go: short escapes, \\x for other control characters, \\u and \\U for unprintable characters."""
    return '"' + "".join(map(escaped, value)) + '"'


def escaped(char: str) -> str:
    code = ord(char)
    if char in LETTERS:
        return "\\" + LETTERS[char]
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    if char.isprintable():
        return char
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@given(st.text(CHARACTERS))
def test_every_text_that_go_quotes_is_read_as_it_was(value):
    assert unquoted(quoted(value)) == value


@given(st.dictionaries(st.from_regex(r"[a-z./-]{1,20}", fullmatch=True), st.text(CHARACTERS), max_size=5))
def test_every_annotation_of_a_file_is_read_as_it_was(tmp_path_factory, annotations):
    path = tmp_path_factory.mktemp("podinfo") / "annotations"
    path.write_text("".join(f"{key}={quoted(value)}\n" for key, value in annotations.items()))
    assert pod_annotations(path) == annotations


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (r'"a=b=c"', "a=b=c"),
        (r'"two  words"', "two  words"),
        (r'"C:\\net"', r"C:\net"),
        (r'"{\n    \"name\": \"a \\\"b\\\"\"\n}"', '{\n    "name": "a \\"b\\""\n}'),
        (r'"\u00e4\U0001f600\x41\101"', "\u00e4\U0001f600AA"),
        (r'"\xc3\xa4"', "\u00e4"),
        (r'"\xff"', "\ufffd"),
        ('"\u2028\x85"', "\u2028\x85"),
        ('""', ""),
    ],
)
def test_a_value_keeps_its_equals_signs_spaces_backslashes_and_characters(tmp_path, value, meant):
    path = tmp_path / "annotations"
    path.write_text(f'before="1"\nkey={value}\nlast="2"', newline="\n")
    assert pod_annotations(path) == {"before": "1", "key": meant, "last": "2"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("key", 'no key="value"'),
        ("key=value", "not in quotes"),
        ('key="', "not in quotes"),
        (r'key="\q"', r"unknown escape \q"),
        (r'key="\x4"', r"unknown escape \x"),
        (r'key="a\"', "unknown escape"),
        (r'key="\ud800"', "surrogates not allowed"),
        (r'key="\U00110000"', "not in range"),
    ],
)
def test_a_line_that_is_no_annotation_is_named(tmp_path, line, complaint):
    path = tmp_path / "annotations"
    path.write_text(f'good="1"\n{line}\n')
    with pytest.raises(PodInfoError, match="annotations, line 2: ") as caught:
        pod_annotations(path)
    assert complaint in str(caught.value)


def test_a_line_may_be_longer_than_64_kib(tmp_path):
    path = tmp_path / "annotations"
    path.write_text(f'long="{"x" * 300_000}"\nafter="1"\n')
    found = pod_annotations(path)
    assert found is not None
    assert len(found["long"]) == 300_000
    assert found["after"] == "1"


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "annotations"
    path.write_bytes(b"x" * (BYTES + 1))
    with pytest.raises(PodInfoError, match="larger than"):
        pod_annotations(path)


def test_a_file_that_is_not_there_has_no_annotations(tmp_path):
    assert pod_annotations(tmp_path / "annotations") is None
    (tmp_path / "file").touch()
    assert pod_annotations(tmp_path / "file" / "annotations") is None


def test_a_fifo_or_folder_in_the_file_s_place_is_an_error_and_no_wait(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        with pytest.raises(PodInfoError, match=f"/{name}"):
            pod_annotations(tmp_path / name)
