"""JSON in and out: the same values as the standard library's `json`, and as Go where the two differ."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from cni import jsontext
from cni.errors import DecodeFailure

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
# Small documents have the same features as large ones, and take a tenth of the time.
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(DOCUMENTS)
def test_what_json_writes_is_read_to_the_same_value(value):
    assert jsontext.loads(json.dumps(value).encode()) == value
    assert jsontext.loads(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@given(DOCUMENTS)
def test_what_is_written_json_reads_to_the_same_value(value):
    text = jsontext.dumps(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert "\n" not in text


@given(st.binary())
def test_any_bytes_are_a_value_or_a_decode_failure(text):
    try:
        value = jsontext.loads(text)
    except DecodeFailure:
        return
    assert value == json.loads(text)


def test_white_space_of_json_around_the_value_is_ignored():
    assert jsontext.loads(b" \t\r\n{ }\r\n\t ") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "a value is expected at character 0"),
        (b"  ", "a value is expected at character 2"),
        (b"{", "character 1|char 1"),
        (b'{"a":}', "a value is expected at character 5"),
        (b"{} {}", "unexpected text after the value, at character 2"),
        (b"{}\x00", "unexpected text after the value, at character 2"),
        ("\N{NO-BREAK SPACE}{}".encode(), "a value is expected at character 0"),
        ("\ufeff{}".encode(), "a value is expected at character 0"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b'"a\nb"', "control character"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"{'a': 1}", "double quotes"),
        (b"[" * 200_000, "recursion"),
        (b"1" * 5000, "integer string"),
    ],
)
def test_what_is_not_json_is_refused_with_the_reason(text, reason):
    with pytest.raises(DecodeFailure, match=f"(?i)not JSON: .*({reason})"):
        jsontext.loads(text)


def test_the_last_of_equal_keys_counts():
    assert jsontext.loads(b'{"vlan": 1, "vlan": 2}') == {"vlan": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"a\\ud800b"', "a\ufffdb"),
        (b'["\\uDC00"]', ["\ufffd"]),
        (b'{"\\udfff": [1, null, "\\ud800\\ud800"]}', {"\ufffd": [1, None, "\ufffd\ufffd"]}),
        (b'"\\\\ud800"', "\\ud800"),
    ],
)
def test_half_a_surrogate_pair_becomes_the_replacement_character_as_in_go(text, value):
    assert jsontext.loads(text) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_has_not_are_not_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsontext.dumps(value)


def test_a_value_without_json_form_is_a_type_error_that_names_its_type():
    with pytest.raises(TypeError, match="bytes has no JSON form"):
        jsontext.dumps({"a": b""})


@given(
    st.dictionaries(st.text(), SCALARS | st.lists(SCALARS), max_size=3),
    st.sampled_from([{}, {"ensure_ascii": False, "indent": 1}]),
)
def test_a_leading_member_is_read_without_the_rest_of_the_object(value, style):
    text = json.dumps(value, **style)
    for name, member in value.items():
        assert jsontext.leading(text.encode(), name) == member
    assert jsontext.leading(text.encode(), "no such name" * 9) is None


def test_what_follows_a_leading_member_is_not_looked_at():
    assert jsontext.leading(b'{"a": {"b": 1}, "c": [1, 2', "a") == {"b": 1}
    assert jsontext.leading(b'{"a": "\\ud800"}', "a") == "\ufffd"


@pytest.mark.parametrize("text", (b"", b"[1]", b'{"a" 1}', b'{"a": }', b"{1: 2}", b'{"a', b"\xff", b'"a"'))
def test_text_without_a_leading_member_has_none(text):
    assert jsontext.leading(text, "a") is None
