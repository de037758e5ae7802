"""IPAM by delegation: finds the plugin that `ipam.type` names, calls it as a runtime would, and interprets its output.

The rules come from the CNI specification (section 4, delegation), our decisions are in docs/adr/0005-delegation.md.
"""

from __future__ import annotations

import errno
import os
import time

from cni import jsontext
from cni.attachment.record import fit
from cni.config.validation import ProblemBelow, ipam_section
from cni.errors import (
    CniError,
    ContainerUnknown,
    DecodeFailure,
    DelegateFailed,
    InvalidConfig,
    IoFailure,
    NotAvailable,
    TryAgainLater,
)
from cni.protocol import result
from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypedDict

    from cni.host.program import Finished
    from cni.jsontext import JsonObject
    from cni.protocol.request import Request
    from cni.protocol.result import Result

    class IpamCallDict(TypedDict, total=False):
        """A delegate call in a record; in a damaged record any key can be missing."""

        type: str
        stdin: str
        container_id: str
        netns: str
        ifname: str
        args: str
        path: list[str]


DELEGATE_SECONDS = 50.0
"""Time limit for one call. Together with the clean-up after a failed ADD it fits the 60 s that a whole ADD may take."""

CLEANUP_SECONDS = 10.0
"""Time limit for the DEL after a failed ADD, and for STATUS, which should take milliseconds."""

PATIENT = {"whereabouts": {"ADD": 130.0, "DEL": 70.0}}
"""Time limits for plugins that need more: whereabouts allows itself 2 minutes for ADD and 1 for DEL, and loses its
place in the queue for its lock when it is killed earlier. Together they fit the kubelet's 4 minutes.
"""

_OLDEST_VERSION = "0.1.0"
_QUOTED = 200
_BOOTLOADER_PREFIXES = ("_PYI_", "_MEI", "LD_LIBRARY_PATH")


class DelegateRefusal(DelegateFailed):
    """The delegate's own error: an instance carries the delegate's code, message and details instead of ours."""

    def __init__(self, kind: str, code: int, msg: str, details: str) -> None:
        super().__init__(msg, hint=details)
        # The catalogue lists the class attribute; the delegate chose this instance's code.
        self.__dict__["code"] = code
        self.add_note(f"reported by the IPAM plugin {kind}")


class IpamCall(Value):
    """All arguments of a delegate call except the command, so that the record is sufficient for a DEL.

    `type` names the plugin, `stdin` is the unchanged network configuration, the other fields are CNI_* variables.
    """

    type: str
    stdin: bytes
    container_id: str
    netns: str
    ifname: str
    args: str
    path: tuple[str, ...]

    @classmethod
    def of(cls, request: Request) -> IpamCall:
        """The call that serves this request. Raises `InvalidConfig` if `ipam.type` is not a plugin name."""
        return cls(
            type=_ipam_type(request.config),
            stdin=request.stdin,
            container_id=request.container_id,
            netns=request.netns,
            ifname=request.ifname,
            args=request.args,
            path=tuple(request.path),
        )

    @classmethod
    def configured(cls, request: Request, section: object) -> IpamCall | None:
        """The call for the configuration's `ipam` section; None without one, or if its values are invalid."""
        try:
            return cls.of(request) if ipam_section(section or {}) else None
        except (ValueError, ProblemBelow):
            return None

    def as_document(self) -> IpamCallDict:
        """The call as JSON values, for the record. The config is text: it was JSON, so it is UTF-8."""
        return {
            "type": self.type,
            "stdin": self.stdin.decode(),
            "container_id": self.container_id,
            "netns": self.netns,
            "ifname": self.ifname,
            "args": self.args,
            "path": list(self.path),
        }

    @classmethod
    def from_document(cls, document: IpamCallDict) -> IpamCall:
        """Reads what `as_document` made. Raises `IoFailure` if the record contains no valid call."""
        try:
            return fit(
                cls(
                    type=document["type"],
                    stdin=document["stdin"].encode(),
                    container_id=document["container_id"],
                    netns=document["netns"],
                    ifname=document["ifname"],
                    args=document["args"],
                    path=tuple(document["path"]),
                )
            )
        except (KeyError, TypeError, AttributeError, UnicodeError) as error:
            raise IoFailure(f"the record's IPAM call is damaged: {error}", hint="free its addresses by hand") from error

    def environment(self, command: str) -> dict[str, str]:
        """The CNI_* variables. Those that a command does not use are empty, as in calls of runtimes."""
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
            "CNI_PATH": ":".join(self.path),
        }


class DelegatedIpam:
    """Implements `Ipam` by running the plugin that the call names.

    `environment` is the original environment of this process.

    If a time limit is None, the default of the plugin applies.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        seconds: float | None = None,
        cleanup_seconds: float | None = None,
    ) -> None:
        self._environment = environment
        self._seconds = seconds
        self._cleanup_seconds = cleanup_seconds
        self._cleaned_up: dict[IpamCall, CniError | None] = {}

    def preload(self, _plugin: str, /) -> None:
        """Does nothing: a program has no preparation step."""

    def lease(self, call: IpamCall) -> Result:
        """ADD. If it fails, the delegate is called with DEL before the error is raised.

        A result without addresses is returned: the caller decides whether it is acceptable.
        """
        self._cleaned_up[call] = None  # If the delegate is not found, there is nothing to clean up.
        self._find(call)
        try:
            leased = _result(call, self._call(call, "ADD", self._bound(call, "ADD")))
        except CniError as error:
            self._clean_up(call, error)
            raise
        del self._cleaned_up[call]
        return leased

    def release(self, call: IpamCall, *, seconds: float | None = None) -> None:
        """DEL, within `seconds` if the caller has less time than usual. An unknown attachment counts as released.

        After a failed `lease` of the same call it returns the outcome of the DEL that `lease` made: rollback also calls
        this method, and a delegate that hangs must not cost its time limit twice.
        """
        if call not in self._cleaned_up:
            bound = self._bound(call, "DEL")
            self._release(call, bound if seconds is None else min(seconds, bound))
            return
        failure = self._cleaned_up.pop(call)
        if failure is not None:
            raise failure

    def check(self, call: IpamCall) -> None:
        """CHECK."""
        self._call(call, "CHECK", self._bound(call, "CHECK"))

    def gc(self, call: IpamCall) -> None:
        """GC. The configuration on stdin contains the runtime's list of attachments."""
        self._call(call, "GC", self._bound(call, "GC"))

    def status(self, call: IpamCall) -> None:
        """STATUS.

        Raises `NotAvailable` if the delegate is missing or does not answer; its own error is raised unchanged.
        """
        try:
            self._call(call, "STATUS", self._quick(call, "STATUS"))
        except DelegateRefusal:
            raise
        except (DelegateFailed, TryAgainLater) as error:
            raise NotAvailable(error.msg, hint=error.hint) from error

    def _find(self, call: IpamCall) -> None:
        find(call.type, call.path)

    def _clean_up(self, call: IpamCall, cause: CniError) -> None:
        self._cleaned_up[call] = None
        try:
            self._release(call, self._quick(call, "DEL"))
        except CniError as failure:
            cause.add_note(f"clean-up incomplete: {failure}")
            # A plugin that reported an error leased nothing, whatever its DEL returns. A plugin that was killed, or
            # printed an invalid result, may have leased addresses, which must still be released.
            if not isinstance(cause, DelegateRefusal):
                self._cleaned_up[call] = failure

    def _bound(self, call: IpamCall, command: str) -> float:
        if self._seconds is not None:
            return self._seconds
        return PATIENT.get(call.type, {}).get(command, DELEGATE_SECONDS)

    def _quick(self, call: IpamCall, command: str) -> float:
        """The time limit of a DEL after a failed ADD, and of STATUS."""
        if self._cleanup_seconds is not None:
            return self._cleanup_seconds
        return PATIENT.get(call.type, {}).get(command, CLEANUP_SECONDS)

    def _release(self, call: IpamCall, seconds: float) -> None:
        try:
            self._call(call, "DEL", seconds)
        except DelegateRefusal as error:
            if error.code != ContainerUnknown.code:
                raise

    def _call(self, call: IpamCall, command: str, seconds: float) -> bytes:
        environment = {**cleaned(self._environment), **call.environment(command)}
        return delegate(call.type, command, call.stdin, environment, call.path, time.monotonic() + seconds)


def delegate(
    kind: str, command: str, stdin: bytes, environment: Mapping[str, str], path: Sequence[str], deadline: float
) -> bytes:
    """Calls the plugin `kind` and returns its output. `deadline` is in `time.monotonic` seconds.

    Raises `DelegateRefusal` (the plugin's own error), `DelegateFailed` (not found, or invalid output),
    `InvalidConfig` (not a name) and `TryAgainLater` (not finished in time; its processes have been killed).
    """
    from cni.host.program import OUTPUT_BYTES, Overdue, TooMuchOutput, run  # noqa: PLC0415 - our own IPAM runs none

    program = find(kind, path)
    began = time.monotonic()
    try:
        finished = run(program, {**environment, "CNI_COMMAND": command}, stdin, deadline)
    except Overdue as error:
        raise TryAgainLater(
            f"the IPAM plugin {kind} did not finish {command} within {time.monotonic() - began:.1f} s and was killed",
            hint=f"check what {program} waits for: its lock, its daemon or its server",
        ) from error
    except TooMuchOutput as error:
        raise DelegateFailed(f"the IPAM plugin {kind} printed more than {OUTPUT_BYTES} bytes on {command}") from error
    except OSError as error:
        raise _not_started(kind, program, error) from error
    if finished.status != 0:
        raise _failure(kind, command, finished)
    return finished.output


def find(kind: str, path: Sequence[str]) -> str:
    """The first executable regular file named `kind` in the directories of `path`; symlinks are followed.

    Raises `InvalidConfig` for an invalid name, and `DelegateFailed` if there is no such file.
    """
    if not kind or "/" in kind or "\0" in kind:
        raise InvalidConfig(f"ipam.type: invalid plugin name: {kind!r}", hint="name a file in CNI_PATH, without /")
    # An empty element would mean the current directory.
    candidates = [os.path.join(directory, kind) for directory in path if directory]
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    unusable = [candidate for candidate in candidates if os.path.lexists(candidate)]
    raise DelegateFailed(
        f"the IPAM plugin {kind} was not found in CNI_PATH ({':'.join(path) or 'empty'})",
        hint=f"not an executable file: {', '.join(unusable)}" if unusable else "install it in one of these directories",
    )


def cleaned(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that PyInstaller's bootloader sets for this program.

    With its LD_LIBRARY_PATH another program would load our libraries, and with `_PYI_*` another frozen program would
    act as our child process.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(_BOOTLOADER_PREFIXES)}
    original = environment.get("LD_LIBRARY_PATH_ORIG")
    return kept if original is None else {**kept, "LD_LIBRARY_PATH": original}


def _ipam_type(config: JsonObject) -> str:
    section = jsontext.member(config, "ipam")
    kind = jsontext.member(section, "type") if isinstance(section, dict) else None
    if not isinstance(kind, str) or not kind:
        raise InvalidConfig("ipam.type: missing", hint="name the IPAM plugin, or omit ipam")
    return kind


def _result(call: IpamCall, output: bytes) -> Result:
    refusal = _refusal(call.type, output)
    if refusal is not None:
        raise refusal  # Some scripts print an error object and exit with status 0.
    try:
        return result.decode(_object(output), jsontext.member(_object(call.stdin), "cniVersion") or _OLDEST_VERSION)
    except CniError as error:
        raise DelegateFailed(
            f"the IPAM plugin {call.type} printed no valid result: {error}", hint=f"it printed: {_start_of(output)}"
        ) from error


def _failure(kind: str, command: str, finished: Finished) -> DelegateFailed:
    """The error that a failed delegate printed, or `DelegateFailed` if its output is not an error object."""
    return _refusal(kind, finished.output) or DelegateFailed(
        f"the IPAM plugin {kind} failed {command} without an error object ({finished.ending})",
        hint=f"it printed: {_start_of(finished.output)}; more may be on stderr",
    )


def _refusal(kind: str, output: bytes) -> DelegateRefusal | None:
    """The error object in a delegate's output, or None."""
    try:
        document = _object(output)
    except CniError:
        return None
    code, msg, details = document.get("code"), document.get("msg", ""), document.get("details", "")
    if type(code) is not int or code < 0 or not isinstance(msg, str) or not isinstance(details, str):
        return None
    return DelegateRefusal(kind, code, msg, details)


def _object(text: bytes) -> JsonObject:
    document = jsontext.loads(text)
    if not isinstance(document, dict):
        raise DecodeFailure("not a JSON object")
    return document


def _not_started(kind: str, program: str, error: OSError) -> CniError:
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.ETXTBSY:
        return TryAgainLater(f"the IPAM plugin {kind} is being written: {program}: {reason}", hint="repeat later")
    return DelegateFailed(f"the IPAM plugin {kind} cannot be run: {program}: {reason}", hint="install it again")


def _start_of(output: bytes) -> str:
    text = output[:_QUOTED].decode(errors="replace")
    return ascii(text) + ("..." if len(output) > _QUOTED else "") if output else "nothing"
