"""The HTTP interface of `tests.kube.resources`: paths, verbs, rights, media types and options. No network."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from tests.kube.resources import Kind, Resources
from tests.kube.store import Document, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_PATCH = "application/json-patch+json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
RIGHTS = frozenset(
    {("get", "ippools"), ("create", "ippools"), ("patch", "ippools")}
    | {(verb, "overlappingrangeipreservations") for verb in ("get", "create", "delete")}
)
"""The rights that leasing needs."""

_PATH = re.compile(r"(/apis/[a-z0-9.-]+/[a-z0-9]+|/api/v1)(?:/namespaces/([^/]+))?/([a-z]+)(?:/([^/]+))?")
_VERBS = {"GET": "get", "PATCH": "patch", "PUT": "update", "DELETE": "delete", "POST": "create"}
_MEDIA = {"PATCH": JSON_PATCH, "POST": "application/json", "PUT": "application/json", "DELETE": "application/json"}
_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+")


class HttpRequest(NamedTuple):
    """A request. `path` has no prefix and query, and the names of `headers` are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    text: bytes


def answer(resources: Resources, rights: frozenset[tuple[str, str]], request: HttpRequest) -> tuple[int, Document]:
    """Returns status and document. Raises `Refused`."""
    kind, namespace, name = _place(resources, request.path)
    verb = "list" if request.method == "GET" and not name else _VERBS[request.method]
    if (verb, kind.plural) not in rights:
        words = f'{kind.qualified} "{name}" is forbidden: User "plugin" cannot {verb} resource "{kind.plural}"'
        raise Refused(403, "Forbidden", words)
    options = _options(request.query)
    body = _body(request)
    if bool(name) == (request.method == "POST"):
        if verb != "list":
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        return 200, resources.listed(kind, namespace)
    found = _done(resources, (kind, namespace, name), request.method, body, rehearsal="dryRun" in options)
    return (201 if request.method == "POST" else 200), _in_form(found, request.headers.get("accept") or "")


def _done(resources: Resources, place: tuple[Kind, str, str], method: str, body: Any, *, rehearsal: bool) -> Document:
    if rehearsal and method != "POST":
        raise Refused(400, "BadRequest", "the tests know rehearsals of POST only")
    if method == "POST":
        return resources.create(*place[:2], body, rehearsal=rehearsal)
    if method == "GET":
        return resources.get(*place)
    if method == "PATCH":
        return resources.patch(*place, body)
    return resources.replace(*place, body) if method == "PUT" else resources.delete(*place, body)


def _place(resources: Resources, path: str) -> tuple[Kind, str, str]:
    found = _PATH.fullmatch(path)
    folders = {folder for folder, _ in resources.kinds}
    if found is None or found[1] not in folders:
        raise Refused(404, "", "404 page not found")
    kind = resources.kinds.get((found[1], found[3]))
    if kind is None:
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    return kind, found[2] or "", found[4] or ""


def _options(query: str) -> dict[str, list[str]]:
    options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query))
    if options.get("dryRun", ["All"]) != ["All"]:
        raise Refused(422, "Invalid", "dryRun: Unsupported value")
    if not _DURATION.fullmatch(options.get("timeout", ["1s"])[0]):
        raise Refused(400, "BadRequest", "invalid timeout specified in the request URL")
    return options


def _body(request: HttpRequest) -> Any:
    if request.method == "GET" or (request.method == "DELETE" and not request.text):
        return {}
    if request.headers.get("content-type") != _MEDIA[request.method]:
        words = f"the body of the request was in an unknown format - accepted: {_MEDIA[request.method]}"
        raise Refused(415, "UnsupportedMediaType", words)
    try:
        body = json.loads(request.text)
    except ValueError as error:
        raise Refused(400, "BadRequest", f"the body is not JSON: {error}") from error
    if not isinstance(body, list if request.method == "PATCH" else dict):
        raise Refused(400, "BadRequest", "the body of the request is of the wrong type")
    return body


def _in_form(found: Document, accepted: str) -> Document:
    """The object, or only its metadata if the client requests that."""
    if not accepted.startswith(PARTIAL) or found["kind"] == "Status":
        return found
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": found["metadata"]}
