"""Any domain and any machine lead to a result or an error, and no byte outside our elements changes."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree as ET

from hypothesis import example, given, settings, strategies as st

from cni.errors import CniError
from kubevirt import domain as domains, machine as machines
from kubevirt.facts import Fact, device_metadata, network_info
from kubevirt.markup import Document
from kubevirt.port import Sight
from tests.kubevirt_hooks.domains import BINDING, NAMES, bound, domain, machine, network

NOTHING = Sight(info={}, claims={})
ADDITIONS = (
    b'<sourcetype="memfd"/>', b'<accessmode="shared"/>', b'memAccess="shared"', b"<memoryBacking></memoryBacking>",
)  # fmt: skip

blanks = st.sampled_from(
    ["", " ", "\n", "\n\t", "\n  ", "\r\n", "<!-- <interface> -->", "<?pi >?>", "<![CDATA[<a>]]>", "&amp;", "ä"]
)
values = st.text("ab'\">&<é/ ", max_size=6)


@st.composite
def attributes(draw: st.DrawFn, *needed: tuple[str, str]) -> str:
    found = dict(needed) | draw(st.dictionaries(st.sampled_from(["a", "b:c", "type", "id"]), values, max_size=2))
    text = ""
    for name, value in found.items():
        quote = draw(st.sampled_from("'\""))
        escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace(quote, "&#34;" if quote == '"' else "&#39;")
        text += f"{draw(st.sampled_from([' ', '  ', chr(10)]))}{name}={quote}{escaped}{quote}"
    return text + draw(st.sampled_from(["", " "]))


@st.composite
def elements(draw: st.DrawFn, depth: int = 2) -> str:
    """Elements of a domain, at correct and at incorrect positions."""
    name = draw(
        st.sampled_from(["interface", "alias", "memoryBacking", "source", "access", "cell", "x", "memory", "emulator"])
    )
    needed = (
        [("name", draw(st.sampled_from(["ua-dataplane", "ua-second", "ua-default", "net0"])))]
        if name == "alias"
        else []
    )
    if name == "access":
        needed = [("mode", "shared")]
    head = f"{name}{draw(attributes(*needed))}"
    children = draw(st.lists(elements(depth - 1), max_size=2)) if depth else []
    if not children and draw(st.booleans()):
        return f"<{head}/>"
    return f"<{head}>" + "".join(draw(blanks) + child for child in children) + draw(blanks) + f"</{name}>"


@st.composite
def texts(draw: st.DrawFn) -> str:
    inside = [
        *draw(st.lists(elements(), max_size=2)),
        f"<devices{draw(attributes())}>"
        + "".join(draw(blanks) + each for each in draw(st.lists(elements(), max_size=3)))
        + "</devices>",
        *draw(st.sampled_from([[], ["<cpu><numa><cell id='0'/></numa></cpu>"], ["<vcpu>4</vcpu>"]])),
    ]
    inside = draw(st.permutations(inside))
    return (
        f"<domain{draw(attributes())}>"
        + "".join(draw(blanks) + each for each in inside)
        + "</domain>"
        + draw(st.sampled_from(["", "\n"]))
    )


interfaces = st.fixed_dictionaries(
    {"name": st.sampled_from(["dataplane", "second"])},
    optional={
        "macAddress": st.sampled_from(["", "02:00:00:00:00:09"]),
        "state": st.sampled_from(["", "up", "down", "absent"]),
        "bootOrder": st.integers(1, 3),
        "pciAddress": st.sampled_from(["", "0000:01:00.0"]),
    },
).map(lambda fields: bound(**fields))  # type: ignore[arg-type] # by their names

devices_of_machines = st.fixed_dictionaries(
    {}, optional={"networkInterfaceMultiqueue": st.booleans(), "useVirtioTransitional": st.booleans()}
)
architectures = st.sampled_from(["amd64", "arm64", "s390x"])
machines_of_ours = st.builds(
    lambda ours, devices, architecture: machine(*ours, devices=devices, architecture=architecture),
    st.lists(interfaces, min_size=1, max_size=2, unique_by=lambda each: each["name"]),
    devices_of_machines,
    architectures,
)


def parsed(vmi: dict[str, Any]) -> machines.Machine:
    return machines.parse(json.dumps(vmi).encode())


def without_ours(text: bytes) -> bytes:
    """The text without the interfaces of the machine, the memory's backing, the cells' access, and blanks."""
    document = Document(text)
    for each in document.root.all("devices", "interface"):
        alias = each.first("alias")
        if alias and alias.attributes.get("name") in ("ua-dataplane", "ua-second"):
            document.replace(each.start, each.end, b"")
    for each in document.root.all("qemu:override"):
        document.replace(each.start, each.end, b"")
    for name in ("devices", "memoryBacking"):
        for each in document.root.all(name):
            if each.is_empty_tag:
                document.replace(text.rindex(b"/", each.start, each.end), each.end, f"></{name}>".encode())
    rest = b"".join(document.changed().split())
    for addition in ADDITIONS:
        rest = rest.replace(addition, b"")
    return rest


@settings(max_examples=60, deadline=None)
@given(
    text=texts() | st.sampled_from(NAMES).map(lambda name: domain(name).decode()),
    vmi=machines_of_ours,
    mtus=st.dictionaries(st.sampled_from(["dataplane", "second"]), st.integers(68, 9702)),
)
def test_a_domain_of_any_form_is_changed_once_and_only_where_it_is_ours(text, vmi, mtus):
    before = text.encode()
    sight = Sight(info={name: Fact(mtu=mtu) for name, mtu in mtus.items()}, claims={})
    try:
        after = domains.change(before, parsed(vmi), BINDING, sight)
    except CniError:
        return
    assert domains.change(after, parsed(vmi), BINDING, sight) == after
    assert without_ours(after) == without_ours(before)


@settings(max_examples=40, deadline=None)
@given(text=st.binary(max_size=80) | st.text("<>/'\"=!-[]?&;ab ", max_size=60).map(str.encode), vmi=machines_of_ours)
@example(text=b"", vmi=machine())
@example(text=b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>", vmi=machine())
def test_any_bytes_are_a_domain_or_a_reason(text, vmi):
    try:
        domains.change(text, parsed(vmi), BINDING, NOTHING)
    except CniError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "metadata name namespace annotations spec domain devices interfaces binding macAddress cpu cores networks multus default "
                "resourceClaim claimName requestName status podInterfaceName networkInterfaceMultiqueue resourceClaims requests devices "
                "attributes vhost-user-path string mtu int network deviceInfo type vhost-user path mac".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A machine in which one value is replaced by an arbitrary one."""
    vmi: Any = json.loads(json.dumps(machine(bound(), bound("second"), networks=[network(), network("second")])))
    place = vmi
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
            place[key] = draw(json_values)
            return vmi
        place = place[key]


@settings(max_examples=60, deadline=None)
@given(vmi=damaged() | json_values, name=st.sampled_from(NAMES))
def test_any_machine_gives_a_domain_or_a_reason(vmi, name):
    try:
        after = domains.change(
            domain(name), machines.parse(json.dumps(vmi).encode(errors="surrogatepass")), BINDING, NOTHING
        )
    except CniError:
        return
    ET.fromstring(after)


@settings(max_examples=40, deadline=None)
@given(document=json_values)
def test_any_file_of_the_pod_has_a_result_or_gives_a_reason(document):
    for read in (lambda text: network_info(text, {"", "a"}), lambda text: device_metadata(text, "file")):
        for text in (
            document,
            {"interfaces": document},
            {"apiVersion": "metadata.resource.k8s.io/v1", "requests": document},
        ):
            try:
                read(json.dumps(text).encode())
            except CniError:
                continue
