"""Problems of a configuration that only appear beside other problems."""

from __future__ import annotations

import pytest

from cni.config.validation import parse
from cni.errors import CniError, InvalidConfig
from cni.sriov.conf_table import REQUIRED, TABLE
from cni.sriov.rules import cross_check


def refused(**conf):
    with pytest.raises(CniError) as caught:
        parse(TABLE, REQUIRED, {"deviceID": "0000:01:10.0", **conf}, cross_check)
    return type(caught.value), {part.split(": ")[0] for part in caught.value.msg.split("; ") if ": " in part}


def test_problems_between_fields_are_named_beside_problems_of_fields():
    assert refused(mtu=5, vlanQoS=3, min_tx_rate=9, max_tx_rate=2) == (InvalidConfig, {"mtu", "vlanQoS", "min_tx_rate"})


def test_a_refused_field_causes_no_second_problem():
    assert refused(vlan=5000, vlanQoS=3, vlanProto="802.1ad") == (InvalidConfig, {"vlan"})
    assert refused(min_tx_rate=9, max_tx_rate="2") == (InvalidConfig, {"max_tx_rate"})


def test_strict_config_names_unknown_keys_beside_other_problems():
    assert refused(strictConfig=True, mtu=5, trunk=1, trsut="on") == (InvalidConfig, {"mtu", "trunk", "trsut"})
