"""After any change of the host, an incremental count has the result of a full one."""

from __future__ import annotations

import itertools
import json
import os

import pytest
from hypothesis import given, settings, strategies as st

from cni.pci import PciAddress
from deviceplugin.assignment import Selection
from deviceplugin.conf import parse
from deviceplugin.counting import counted, recounted
from deviceplugin.function import Function, Inventory
from deviceplugin.host import Sight

EXAMPLES = 5000 if os.environ.get("BAREWIRE_MATRIX") else 250
ADDRESSES = [PciAddress(f"0000:01:00.{number}") for number in range(5)]
MODELS = [("0200", "8086", "154c"), ("0302", "10de", "1bb3"), ("0403", "10de", "10f0"), ("0604", "8086", "3420")]
RESOURCES = ["intel.com/net", "intel.com/gpu", "devices.kubevirt.io/10de_1bb3", "devices.kubevirt.io/group_gone"]
NODES = ["/dev/vfio/1", "/dev/vfio/noiommu-2", "/dev/vfio/3", "/dev/vhost-net"]


def configuration(net: str, gpu: str, automatic: str):
    """A pool of network devices, one of graphics cards, and automatic ones, each with its mode for IOMMU groups."""
    document = {
        "resourceList": [
            {
                "resourceName": "net",
                "groups": net,
                "driver": "vfio-pci",
                "companions": ["snd_hda_intel"] if net in {"exclusive", "group"} else [],
                "selectors": {"vendors": ["8086"]},
            },
            {"resourceName": "gpu", "deviceType": "pci", "groups": gpu, "selectors": {"drivers": ["vfio-pci"]}},
        ],
        "auto": {"classes": ["03", "04"], "groups": automatic, "driver": "vfio-pci"},
    }
    return parse(json.dumps(document).encode())


CONFIGURATIONS = [configuration(*modes) for modes in itertools.product(("exclusive", "group"), repeat=3)]
CONFIGURATIONS += [configuration("exclusive", "single", "single"), configuration("group", "unsafe", "group")]
FUNCTIONS = [
    Function(address=PciAddress(""), pci_class=model[0], vendor=model[1], device=model[2], driver=driver, group=group)
    for model, driver, group in itertools.product(
        MODELS, ("", "iavf", "vfio-pci", "snd_hda_intel"), ("", "1", "1", "2", "3")
    )
]
WHERE = st.sampled_from(ADDRESSES)
HOSTS = st.dictionaries(WHERE, st.sampled_from(FUNCTIONS), min_size=3)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "functions": st.dictionaries(WHERE, st.sampled_from([*FUNCTIONS, None]), max_size=2),
        "used": st.dictionaries(WHERE, st.just("the host uses it"), max_size=1),
        "nodes": st.frozensets(st.sampled_from(NODES)),
        "held": st.dictionaries(WHERE, st.sampled_from(RESOURCES), max_size=2),
        "doubts": st.dictionaries(WHERE, st.just(("a process has it open",)), max_size=1),
    },
)
"""What is not in a change stays as it was; a function that is None goes."""


def sight(functions, used, nodes, former):
    """A look at the host after a former one: an unchanged function is the same value, as the scanner gives it."""
    found = {}
    for address in sorted(functions):
        now, known = functions[address].replace(address=address), former.get(address)
        found[address] = known if known == now else now
    return Sight(inventory=Inventory(found), used=used, nodes=nodes)


@settings(deadline=None, max_examples=EXAMPLES)
@given(chosen=st.sampled_from(CONFIGURATIONS), host=HOSTS, changes=st.lists(CHANGES, min_size=1, max_size=4))
def test_an_incremental_count_has_the_result_of_a_full_count(chosen, host, changes):
    state = {"functions": host, "used": {}, "nodes": frozenset(NODES), "held": {}, "doubts": {}}
    seen = sight(host, {}, state["nodes"], {})
    count = counted(seen, Selection(chosen), {})
    for change in changes:
        functions = {**state["functions"], **change.get("functions", {})}
        state |= {**change, "functions": {address: one for address, one in functions.items() if one}}
        seen = sight(state["functions"], state["used"], state["nodes"], seen.inventory.functions)
        full = counted(seen, Selection(chosen), state["held"], state["doubts"])
        count = recounted(count, seen, state["held"], state["doubts"])
        assert count.assignment == full.assignment
        assert count.offers == full.offers


@settings(deadline=None)
@given(functions=HOSTS, data=st.data())
def test_an_inventory_with_other_states_is_the_inventory_of_these_states(functions, data):
    before = sight(functions, {}, frozenset(), {}).inventory
    names = data.draw(st.sets(st.sampled_from(sorted(functions))))
    changed = {name: before.functions[name].replace(driver="other") for name in names}
    assert all(map(before.keeps_group, changed.values()))
    after, whole = before.with_states(changed), Inventory({**before.functions, **changed})
    assert list(after.functions.items()) == list(whole.functions.items())
    assert [after.group_of(one) for one in after] == [whole.group_of(one) for one in whole]


@pytest.mark.parametrize("change", [{"group": "2"}, {"group": ""}, {"pci_class": "0604"}, {"address": "0000:02:00.0"}])
def test_a_function_in_another_group_is_not_only_another_state(change):
    function = Function(address=ADDRESSES[0], pci_class="0200", vendor="8086", device="154c", group="1")
    assert not Inventory({function.address: function}).keeps_group(function.replace(**change))


def test_a_bridge_that_counts_as_held_is_alone_also_where_its_group_has_devices():
    chosen = Selection(configuration("group", "group", "group"))
    card, bridge = (
        Function(
            address=PciAddress(""), pci_class=pci_class, vendor="10de", device="1bb3", driver="vfio-pci", group="1"
        )
        for pci_class in ("0302", "0604")
    )
    seen = sight({ADDRESSES[0]: card, ADDRESSES[1]: bridge}, {ADDRESSES[0]: "the host uses it"}, frozenset(), {})
    count = counted(seen, chosen, {ADDRESSES[1]: "intel.com/gpu"})
    assert [offer.device for offer in count.offers["intel.com/gpu"]] == [ADDRESSES[1]]


def test_the_lists_of_other_resources_are_the_same_values_after_a_change_of_one_device():
    chosen = Selection(configuration("exclusive", "exclusive", "exclusive"))
    functions = {
        address: Function(
            address=PciAddress(""), pci_class=model[0], vendor=model[1], device=model[2], driver="iavf", group=address
        )
        for address, model in zip(ADDRESSES, MODELS[:3], strict=False)
    }
    before = counted(sight(functions, {}, frozenset(), {}), chosen, {})
    functions[ADDRESSES[0]] = functions[ADDRESSES[0]].replace(numa=1)
    after = recounted(before, sight(functions, {}, frozenset(), before.sight.inventory.functions), {}, {})
    same = [name for name, offers in after.offers.items() if offers is before.offers[name]]
    assert same == [name for name in before.offers if name != "intel.com/net"]
