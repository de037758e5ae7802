"""Values: keyword-only, compared by field, immutable."""

from __future__ import annotations

from typing import Any

import pytest

from cni.value import Value


class Address(Value):
    cidr: str
    gateway: str | None = None


class Marked(Address):
    mark: int = 0


# As code without type checks would use it.
Unchecked: Any = Address


def test_fields_have_the_given_values_and_defaults_elsewhere():
    address = Address(cidr="10.0.0.1/24")
    assert (address.cidr, address.gateway) == ("10.0.0.1/24", None)


def test_a_missing_field_is_named():
    with pytest.raises(TypeError, match="Address: field 'cidr' is missing"):
        Unchecked(gateway="10.0.0.254")


def test_unknown_fields_are_named():
    with pytest.raises(TypeError, match=r"Address: unknown fields \['gw', 'mtu'\]"):
        Unchecked(cidr="10.0.0.1/24", mtu=1, gw="")


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError):
        Unchecked("10.0.0.1/24")


def test_values_with_equal_fields_are_equal_and_hash_alike():
    one, other = Address(cidr="a", gateway="b"), Address(gateway="b", cidr="a")
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


@pytest.mark.parametrize("other", [Address(cidr="b"), Marked(cidr="a"), "a", None])
def test_values_that_differ_in_a_field_or_in_their_class_are_not_equal(other):
    assert Address(cidr="a") != other


def test_a_subclass_has_its_own_fields_after_the_inherited_ones():
    assert Marked(mark=7, cidr="a").as_dict() == {"cidr": "a", "gateway": None, "mark": 7}
    assert list(Marked(mark=7, cidr="a").as_dict()) == ["cidr", "gateway", "mark"]


def test_a_field_cannot_be_set():
    address = Unchecked(cidr="a")
    with pytest.raises(AttributeError, match="Address is immutable: 'cidr' cannot be set"):
        address.cidr = "b"
    assert address.cidr == "a"


def test_a_field_cannot_be_deleted():
    address = Address(cidr="a")
    with pytest.raises(AttributeError, match="Address is immutable: 'cidr' cannot be deleted"):
        del address.cidr
    assert address.cidr == "a"


def test_replace_makes_a_changed_copy_of_the_same_class():
    marked = Marked(cidr="a", mark=1)
    assert marked.replace(mark=2) == Marked(cidr="a", mark=2)
    assert marked.mark == 1


def test_replace_refuses_what_is_no_field():
    with pytest.raises(TypeError, match="unknown fields"):
        Address(cidr="a").replace(cdir="b")


def test_changing_the_dict_form_does_not_change_the_value():
    address = Address(cidr="a")
    address.as_dict()["cidr"] = "b"
    assert address.cidr == "a"


def test_repr_names_class_fields_and_values():
    assert repr(Address(cidr="a")) == "Address(cidr='a', gateway=None)"
