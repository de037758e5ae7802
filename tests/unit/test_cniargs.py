"""CNI_ARGS: pairs, unknown keys, and IgnoreUnknown."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cni.errors import InvalidEnvironment
from cni.protocol.cni_args import KNOWN, cni_arguments

MULTUS = "IgnoreUnknown=true;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u"
WORDS = st.text(st.characters(codec="utf-8", exclude_characters=";="))


def test_nothing_is_no_arguments():
    assert cni_arguments("") == {}


def test_what_multus_passes_is_read():
    assert cni_arguments(MULTUS) == {
        "K8S_POD_NAMESPACE": "ns",
        "K8S_POD_NAME": "p",
        "K8S_POD_INFRA_CONTAINER_ID": "c",
        "K8S_POD_UID": "u",
    }


@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), WORDS))
def test_pairs_of_known_keys_are_read_as_written(pairs):
    assert cni_arguments(";".join(f"{key}={value}" for key, value in pairs.items())) == pairs


@pytest.mark.parametrize("text", ["MAC=02:00:00:00:00:01;", ";MAC=02:00:00:00:00:01", "MAC=02:00:00:00:00:01;;"])
def test_empty_parts_are_nothing(text):
    assert cni_arguments(text) == {"MAC": "02:00:00:00:00:01"}


@pytest.mark.parametrize(
    ("text", "part"), [("MAC", "MAC"), ("IP=1;MAC=a=b", "MAC=a=b"), ("IgnoreUnknown=1;x", "x"), (" ", " ")]
)
def test_what_is_no_pair_is_refused_by_name(text, part):
    with pytest.raises(InvalidEnvironment) as caught:
        cni_arguments(text)
    assert caught.value.msg == f'CNI_ARGS: invalid pair "{part}"'


@pytest.mark.parametrize("ignore", ["", "IgnoreUnknown=0;", "IgnoreUnknown=false;", "IgnoreUnknown=FALSE;"])
def test_unknown_keys_are_all_named_unless_they_are_to_be_ignored(ignore):
    with pytest.raises(InvalidEnvironment) as caught:
        cni_arguments(f"{ignore}mac=a;MAC=b;FOO=c")
    assert caught.value.msg == "CNI_ARGS: unknown args ['FOO', 'mac']"
    assert "IgnoreUnknown=1" in caught.value.hint


@pytest.mark.parametrize("yes", ["1", "true", "True", "TRUE"])
def test_ignore_unknown_lets_unknown_keys_pass_wherever_it_stands(yes):
    assert cni_arguments(f"FOO=c;MAC=b;IgnoreUnknown={yes}") == {"FOO": "c", "MAC": "b"}


@pytest.mark.parametrize("neither", ["", "yes", "2", "on", " 1"])
def test_an_ignore_unknown_that_is_no_truth_value_is_refused(neither):
    with pytest.raises(InvalidEnvironment, match="IgnoreUnknown is neither true nor false"):
        cni_arguments(f"IgnoreUnknown={neither};MAC=a")


def test_keys_match_in_their_own_case_only():
    with pytest.raises(InvalidEnvironment, match="ignoreunknown"):
        cni_arguments("ignoreunknown=1;FOO=a")


@given(st.text())
def test_any_text_is_arguments_or_an_invalid_environment(text):
    try:
        pairs = cni_arguments(text)
    except InvalidEnvironment:
        return
    assert set(pairs) <= KNOWN or "IgnoreUnknown" in text
