"""userspace-cni's annotations of a pod, in the form that app-netutil reads: their owners and their changes. Pure.

`userspace/configuration-data` is a JSON list with an element for each interface; `userspace/mapped-dir` is the
directory in which a container finds the sockets. A change is a mapping in which None removes an annotation.

app-netutil joins directory and socket name without a slash (its issue 45), so the directory ends with one.
"""

from __future__ import annotations

from cni import jsontext
from cni.errors import DecodeFailure, InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.jsontext import JsonObject
    from cni.userspace.conf_sections import ContainerDict, HostDict

    Changes = dict[str, str | None]

INTERFACE_TYPE = "vhostuser"
"""The type of an interface whose configuration names none."""

DATA, FOLDER = "userspace/configuration-data", "userspace/mapped-dir"


def entry(
    *,
    container_id: str,
    ifname: str,
    network: str,
    host: HostDict,
    container: ContainerDict,
    socket: str,
    ip_result: JsonObject,
) -> JsonObject:
    """An interface's element. `host` and `container` are the configuration's sections."""
    vhost = {**(container.get("vhost") or {}), "socketfile": socket}
    return {
        "containerId": container_id,
        "ifName": ifname,
        "name": network,
        "config": {
            "engine": container.get("engine") or host.get("engine"),
            "iftype": container.get("iftype") or host.get("iftype") or INTERFACE_TYPE,
            "netType": container.get("netType") or "interface",
            "memif": dict(container.get("memif") or {}),
            # This is the application's end of the socket: it listens.
            "vhost": {"mode": "server", **vhost},
            "bridge": dict(container.get("bridge") or {}),
        },
        "ipResult": dict(ip_result),
    }


def added(annotations: Mapping[str, str], element: JsonObject, folder: str) -> Changes:
    """The changes that add the interface. Elements of other sandboxes are stale: a pod has one sandbox at a time.

    Raises `InvalidConfig` if another interface of the same sandbox needs another directory.
    """
    mine = [one for one in _elements(annotations) or [] if one.get("containerId") == element["containerId"]]
    others = [one for one in mine if one.get("ifName") != element["ifName"]]
    present, wanted = annotations.get(FOLDER), folder.rstrip("/") + "/"
    if others and present is not None and present.rstrip("/") + "/" != wanted:
        raise InvalidConfig(
            f"the pod's interface {others[0].get('ifName')} has its socket in {present}, not in {wanted}",
            hint=f"the annotation {FOLDER} can name one folder: let all interfaces of the pod use one volume",
        )
    return _changed(annotations, {DATA: _text([*others, dict(element)]), FOLDER: wanted})


def removed(annotations: Mapping[str, str], container_id: str, ifname: str) -> Changes:
    """The changes that remove the interface's element. Annotations in another form are left unchanged."""
    elements = _elements(annotations)
    if elements is None:
        return {}
    rest = [one for one in elements if (one.get("containerId"), one.get("ifName")) != (container_id, ifname)]
    if len(rest) == len(elements):
        return {}
    return {DATA: _text(rest)} if rest else _changed(annotations, {DATA: None, FOLDER: None})


def _changed(annotations: Mapping[str, str], wanted: Changes) -> Changes:
    return {name: value for name, value in wanted.items() if annotations.get(name) != value}


def _elements(annotations: Mapping[str, str]) -> list[JsonObject] | None:
    """The elements; None if the annotation is not a list of objects."""
    try:
        elements = jsontext.loads((annotations.get(DATA) or "").encode())
    except DecodeFailure:
        return None
    if not isinstance(elements, list) or not all(isinstance(one, dict) for one in elements):
        return None
    return elements


def _text(elements: list[JsonObject]) -> str:
    return jsontext.dumps(elements)
