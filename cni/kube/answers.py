"""Shared parts of all API server clients: names that are valid in a URL, `Status` objects, and errors for refusals."""

from __future__ import annotations

from cni import jsontext
from cni.errors import DecodeFailure, KubeRefused, RefusedForGood, TryAgainLater

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.errors import CniError
    from cni.jsontext import JsonObject
    from cni.kube.connection import Connection

_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_LATER = (408, 425, 429)


def is_name(text: str) -> bool:
    """Whether the text is a name by RFC 1123; other texts are not put into a URL."""
    return len(text) <= 253 and all(
        part and _ALPHANUMERIC.issuperset(part[0] + part[-1]) and _ALPHANUMERIC.issuperset(part.replace("-", ""))
        for part in text.split(".")
    )


def is_namespace(text: str) -> bool:
    return "." not in text and len(text) <= 63 and is_name(text)


def document(content: bytes) -> JsonObject:
    """The JSON object in a response; empty if it is not an object."""
    try:
        found = jsontext.loads(content)
    except DecodeFailure:
        return {}
    return found if isinstance(found, dict) else {}


def words(answer: JsonObject) -> str:
    """The message of a `Status` object, on one line."""
    return _one_line(str(answer.get("message") or "no reason is given")[:500])


def passes(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _LATER or status >= 500


def refusal(connection: Connection, asked: tuple[str, str, str], status: int, answer: JsonObject) -> CniError:
    """The error that an answer stands for. `asked` is verb, resource and path."""
    verb, resource, path = asked
    origin, said = connection.cluster.origin, words(answer)
    if passes(status):
        return TryAgainLater(f"the {connection.server} cannot {verb} {path} now: {status} {said}")
    hints = {
        401: f"the credentials of {origin} are not valid, or not any more",
        403: f"grant the verb {verb} on {resource} to the user of {origin}",
    }
    is_answer_of_api_server = answer.get("kind") == "Status" and status >= 400
    other = (
        f"the API server's reason is {answer.get('reason') or 'not given'}: change the object or the policy that it names"
        if is_answer_of_api_server
        else f"is the server of {origin} an API server? redirects are not followed"
    )
    hint = hints.get(status, other)
    # The issuer replaces an expired token, and a gateway's response is not one of the API server.
    kind = RefusedForGood if is_answer_of_api_server and status != 401 else KubeRefused
    return kind(f"the {connection.server} refused to {verb} {path}: {status} {said}", hint=hint)


def _one_line(text: str) -> str:
    # Validation errors have several lines, and external text must not control the terminal that shows a log.
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
