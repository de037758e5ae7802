"""The interface of the sidecar to virt-launcher: a gRPC server on a socket in the directory of the hooks."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import signal
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cni.errors import CniError, IoFailure, TryAgainLater
from kubevirt import domain, machine as machines
from kubevirt.api import calls, info_pb2
from kubevirt.markup import LARGEST
from resident.calls import Call, serve

if TYPE_CHECKING:
    from cni.log import Log
    from kubevirt.podfiles import PodFiles

HOOKS = "/var/run/kubevirt-hooks"
NAME = "barewire-vhostuser"
PRIORITY = -1000
"""Higher values come first. A later hook that uses KubeVirt's schema would drop the socket's path again."""
ANSWER_SECONDS = 50.0
"""The time limit of a call; that of virt-launcher is a minute."""
END_SECONDS = 5.0
"""The time limit of running calls when the sidecar ends."""
_CALLS = 8
_LONGEST_MESSAGE = LARGEST + machines.LARGEST + 1024
_LONGEST_REASON = 2000
"""The maximum size of an error's text, in bytes.

gRPC sends it as a header of at most 8 KB, and encodes most bytes outside ASCII with three characters.
"""
_LONGEST_OWNER = 40
"""The maximum number of characters of a name in the name of a socket, whose path has at most 107 bytes."""


def socket_name(container: str, binding: str) -> str:
    """A unique name in the pod: virt-launcher identifies sockets by their names only, also across directories.

    The name of the container comes from KubeVirt. Without it the name of the binding is used, or a random one.
    """
    given = container or binding or secrets.token_hex(8)
    owner = re.sub("[^A-Za-z0-9.-]+", "-", given)[:_LONGEST_OWNER]
    if owner != given:
        # Two different names can have the same result.
        owner = f"{owner}-{hashlib.sha256(given.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return f"{owner}-vhu.sock"


class Sidecar:
    """Serves the hooks for the interfaces of one binding, until a signal or virt-launcher ends it."""

    def __init__(self, binding: str, files: PodFiles, log: Log, *, path: str) -> None:
        self._binding = binding
        self._files = files
        self._log = log
        self._path = path
        self._end = asyncio.Event()

    async def run(self) -> None:
        """Raises `IoFailure` if the socket cannot be created."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        server = self._server()
        # From here on virt-launcher can connect, and gives up if a response is late: no work in between.
        await server.start()
        self._log.info(f"binding {self._binding}: serving on {self._path}")
        await self._end.wait()
        await server.stop(grace=END_SECONDS)
        self._log.info("ended")

    def _server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            maximum_concurrent_rpcs=_CALLS,
            options=[
                ("grpc.max_receive_message_length", _LONGEST_MESSAGE),
                ("grpc.max_send_message_length", _LONGEST_MESSAGE),
            ],
        )
        functions: dict[Call, Any] = {calls.INFO: self._info}
        functions |= dict.fromkeys(calls.ON_DEFINE_DOMAIN.values(), self._on_define_domain)
        functions |= dict.fromkeys(calls.PRE_CLOUD_INIT_ISO.values(), self._pre_cloud_init_iso)
        functions |= dict.fromkeys(calls.SHUTDOWN.values(), self._shutdown)
        serve(server, {call: _with_answer_of(call, function) for call, function in functions.items()})
        try:
            server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise IoFailure(
                f"cannot listen on {self._path}: {error}", hint="virt-launcher mounts its folder"
            ) from error
        return server

    async def _info(self, _request: Any, _context: Any) -> dict[str, Any]:
        # Not PreCloudInitIso: it contains secrets, and no data for this sidecar.
        hooks = ("OnDefineDomain", "Shutdown")
        return {
            "name": NAME,
            "hookPoints": [info_pb2.HookPoint(name=hook, priority=PRIORITY) for hook in hooks],
            "versions": list(calls.VERSIONS),
        }

    async def _on_define_domain(self, request: Any, context: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return {"domainXML": await self._changed(request.domainXML, request.vmi)}
        except TryAgainLater as error:
            await self._refuse(context, grpc.StatusCode.UNAVAILABLE, error)
        except CniError as error:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, error)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{NAME}: no answer in {ANSWER_SECONDS:.0f} s")
        raise AssertionError  # abort has raised

    async def _changed(self, text: bytes, vmi: bytes) -> bytes:
        machine = machines.parse(vmi)
        if not machine.of_binding(self._binding):
            self._log.warning(f"no interface of the machine has the binding {self._binding}; the domain stays as it is")
        sight = await self._files.sight(machine, self._binding)
        changed = domain.change(text, machine, self._binding, sight)
        # A migration needs the same paths on both nodes. Nothing but the two logs can show that they differ.
        paths = domain.sockets(changed, machine, self._binding)
        told = ", ".join(f"{name} on {path}" for name, path in paths.items())
        self._log.info(f"{machine.metadata.namespace}/{machine.metadata.name}: vhost-user interfaces {told or 'none'}")
        return changed

    async def _pre_cloud_init_iso(self, request: Any, _context: Any) -> dict[str, Any]:
        return {
            "cloudInitNoCloudSource": request.cloudInitNoCloudSource,
            "cloudInitData": request.cloudInitData,
        }

    async def _shutdown(self, _request: Any, _context: Any) -> dict[str, Any]:
        self._end.set()
        return {}

    async def _refuse(self, context: Any, code: grpc.StatusCode, error: CniError) -> None:
        """Fails the call. virt-launcher reports the text as the reason why the machine does not start."""
        self._log.error(f"{error}" + (f"; {error.hint}" if error.hint else ""))
        await context.abort(code, reason(error))


def reason(error: CniError) -> str:
    """The text of the error for the status of a call."""
    text = f"{NAME}: {error}" + (f" ({error.hint})" if error.hint else "")
    return text.encode(errors="replace")[:_LONGEST_REASON].decode(errors="ignore")


def _with_answer_of(call: Call, function: Any) -> Any:
    """The function with the response type of the call: the messages of the versions are equal, their types are not."""

    async def answer(request: Any, context: Any) -> Any:
        return call.response(**await function(request, context))

    return answer
