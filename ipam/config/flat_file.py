"""whereabouts' second configuration file, of which a node has one.

It gives access to the API server to networks that do not configure it.
"""

from __future__ import annotations

from cni import jsontext
from cni.errors import DecodeFailure, InvalidConfig
from cni.host.trusted import NotThere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.trusted import Roots
    from cni.jsontext import JsonObject

PLACES = (
    "/etc/kubernetes/cni/net.d/whereabouts.d/whereabouts.conf",
    "/etc/cni/net.d/whereabouts.d/whereabouts.conf",
)
"""The paths that whereabouts tries, in this order, unless a network names another one (`configuration_path`)."""

_WHAT = "ipam.configuration_path"


def kubeconfig(path: str, usual: tuple[str, ...], roots: Roots) -> str:
    """The kubeconfig that the file names; empty if it names none. Raises `InvalidConfig`.

    As in whereabouts, the first file that exists is read: `path`, which the network names (empty for none), and then
    the `usual` ones. All must be in the directories for kubeconfigs.
    """
    document = _first((path, *usual) if path else usual, roots)
    access = document.get("kubernetes")
    named = access.get("kubeconfig") if isinstance(access, dict) else None
    is_ours = document.get("datastore") in (None, "", "kubernetes")
    return named if is_ours and isinstance(named, str) else ""


def _first(paths: tuple[str, ...], roots: Roots) -> JsonObject:
    for path in paths:
        try:
            return _loaded(path, roots)
        except NotThere:
            continue
    return {}


def _loaded(path: str, roots: Roots) -> JsonObject:
    try:
        document = jsontext.loads(roots.content(path, _WHAT))
    except DecodeFailure as error:
        raise InvalidConfig(f"{_WHAT}: {path}: {error.msg}") from error
    if not isinstance(document, dict):
        raise InvalidConfig(f"{_WHAT}: {path} is not an object")
    return document
