"""PCI addresses: one canonical form; everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from cni import pci


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0000:af:06.0", "0000:af:06.0"),
        ("0000:AF:06.7", "0000:af:06.7"),
        ("af:06.1", "0000:af:06.1"),
        ("10000:01:00.0", "10000:01:00.0"),
    ],
)
def test_an_address_is_made_canonical(text, canonical):
    assert pci.parse(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eth0",
        "0000:af:06",
        "0000:af:06.8",
        "0000:af:06.00",
        "0000:g0:06.0",
        "../0000:af:06.0",
        "0000:af:06.0\n",
        "0:af:06.0",
        "mlx5_core.sf.4",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="is not a PCI address"):
        pci.parse(text)


@given(st.text(max_size=16))
def test_what_is_accepted_is_safe_as_a_file_name(text):
    try:
        address = pci.parse(text)
    except ValueError:
        return
    assert set(address) <= set("0123456789abcdef:.")
    assert "/" not in address
    assert pci.parse(address) == address
