"""Serves one call of a plugin: parses the request, runs the command, prints one JSON document, returns the exit code.

Nothing else in the product writes to stdout.
"""

from __future__ import annotations

import os
import select
import time

from cni import jsontext
from cni.errors import CniError, InternalError, InvalidNetns, IoFailure
from cni.protocol import result
from cni.protocol.request import VERSIONS, parse, parse_environment
from cni.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn, Protocol

    from cni.jsontext import JsonObject
    from cni.protocol.request import Environment, Request

    class Plugin(Protocol):
        """One method for each command of CNI."""

        def add(self, request: Request) -> result.Result: ...

        def delete(self, request: Request) -> None: ...

        def undo(self, request: Request) -> None:
            """Removes the result of this object's `add`, which nobody got, and not that of a later ADD."""

        def check(self, request: Request) -> None: ...

        def gc(self, request: Request) -> None: ...

        def status(self, request: Request) -> None: ...

    Load = Callable[[Request], Plugin]
    Read = Callable[[float], bytes]
    Write = Callable[[bytes], None]

NEWEST = VERSIONS[-1]
_OWN_NETNS = "/proc/self/ns/net"
STDIN_SECONDS = 30.0
"""Seconds in which a runtime must write the request and close stdin."""
VERSION_STDIN_SECONDS = 1.0
"""The same for VERSION, which also works without stdin: the Go plugins do not read it, so callers may leave it open."""


def serve(name: str, load: Load, env: Mapping[str, str], stdin: Read, stdout: Write, stderr: Write) -> int:
    """Runs one call and returns the exit code; `load` creates the plugin, and is called only if a command needs it.

    `stdin` returns all bytes up to the end, or raises `IoFailure` after the given seconds.
    """
    if not env.get("CNI_COMMAND"):
        stderr(about(name).encode())
        return 0
    version = NEWEST
    try:
        environment = parse_environment(env)
        if environment.command == "VERSION":
            output = _line(_version_document(stdin))
        else:
            request = parse(environment, _read(stdin, STDIN_SECONDS))
            version = request.cni_version
            _refuse_own_netns(environment)
            output = _run(load(request), request)
    except BaseException as failure:  # noqa: BLE001 - also Ctrl-C: the runtime gets one error object, never a traceback
        error = failure if isinstance(failure, CniError) else _internal(failure)
        _delivered(_line(error_document(error, version)), stdout)
        return 1
    # An unwritten result is a failure: the runtime would continue without it.
    return 0 if _delivered(output, stdout) else 1


def about(name: str) -> str:
    """The text that the executable prints when no runtime calls it."""
    return f"CNI plugin {name} v{VERSION}\nCNI protocol versions supported: {', '.join(VERSIONS)}\n"


def error_document(error: CniError, version: str) -> JsonObject:
    """The error object of the specification."""
    document = {"cniVersion": version if version in VERSIONS else NEWEST, "code": error.code, "msg": error.msg}
    return {**document, "details": error.details} if error.details else document


def main(name: str, load: Load) -> NoReturn:
    """The executable: serves the process's own call, and ends without CPython's clean-up, which takes 2 ms."""
    code = serve(
        name,
        load,
        os.environ,
        lambda seconds: read_all(0, seconds),
        lambda text: _write_all(1, text),
        lambda text: write_if_open(2, text),
    )
    os._exit(code)


def _run(plugin: Plugin, request: Request) -> bytes:
    if request.command == "ADD":
        return _added(plugin, request)
    method = {"DEL": plugin.delete, "CHECK": plugin.check, "GC": plugin.gc, "STATUS": plugin.status}[request.command]
    method(request)
    return b""


def _added(plugin: Plugin, request: Request) -> bytes:
    from cni.rollback import on_failure  # noqa: PLC0415 - VERSION does not pay for it

    added = plugin.add(request)
    # An ADD that cannot report its result has failed, and must be rolled back.
    with on_failure(plugin.undo, request):
        return _line(result.encode(added, request.cni_version))


def _version_document(stdin: Read) -> JsonObject:
    # The Go plugins ignore stdin; the specification requires that its version is repeated.
    asked = NEWEST
    try:
        document = jsontext.loads(_read(stdin, VERSION_STDIN_SECONDS))
    except CniError:
        document = None
    if isinstance(document, dict) and document.get("cniVersion") in VERSIONS:
        asked = document["cniVersion"]
    return {"cniVersion": asked, "supportedVersions": list(VERSIONS)}


def _refuse_own_netns(environment: Environment) -> None:
    # The Go library checks this after the command has printed its result; we check before. It also refuses DEL, but a
    # /proc/PID path of a dead pod can meanwhile belong to another process, which would make the pod undeletable.
    if environment.command != "ADD" or environment.netns_may_be_own:
        return
    try:
        theirs, ours = os.stat(environment.netns), os.stat(_OWN_NETNS)
    except (OSError, ValueError):
        return
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
        raise InvalidNetns("plugin's netns and netns from CNI_NETNS should not be the same")


def _read(stdin: Read, seconds: float) -> bytes:
    try:
        return stdin(seconds)
    except OSError as error:
        raise IoFailure(f"error reading from stdin: {error.strerror or error}") from error


def _delivered(output: bytes, stdout: Write) -> bool:
    try:
        stdout(output)
    except OSError:
        return False
    return True


def _internal(failure: BaseException) -> InternalError:
    frame = failure.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}" if frame else "unknown place"
    error = InternalError(
        f"internal error: {type(failure).__name__}: {failure}", hint=f"at {place}; this is a defect of Barewire"
    )
    for note in getattr(failure, "__notes__", []):
        error.add_note(note)
    return error


def _line(document: JsonObject) -> bytes:
    return jsontext.dumps(document).encode() + b"\n"


def read_all(fd: int, seconds: float) -> bytes:
    """The bytes up to the end. Raises `OSError`, and `IoFailure` if the end does not come within `seconds`."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    chunks: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
        chunk = os.read(fd, 65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    raise IoFailure(f"error reading from stdin: it was not closed within {seconds:g} s")


def _write_all(fd: int, text: bytes) -> None:
    while text:
        text = text[os.write(fd, text) :]


def write_if_open(fd: int, text: bytes) -> None:
    """Writes the text, or nothing where nobody listens."""
    try:
        _write_all(fd, text)
    except OSError:
        # There is no reader any more; the exit code still reports the failure.
        return
