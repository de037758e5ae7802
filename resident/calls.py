"""Calls of gRPC services as values: their names and messages, and how they are made and served.

protoc's plugin for gRPC generates stubs and servicers instead, without types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc.aio


class Call(NamedTuple):
    """A call of a service, with one message as its request. `streams`: the response is a stream of messages."""

    service: str
    method: str
    request: type[Any]
    response: type[Any]
    streams: bool = False

    def of(self, channel: grpc.aio.Channel | grpc.Channel) -> Any:
        """A function that makes the call on a channel, blocking or asynchronous as the channel is."""
        make: Any = channel.unary_stream if self.streams else channel.unary_unary
        return make(
            f"/{self.service}/{self.method}",
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )

    def handler(self, function: Any) -> Any:
        """The handler for a coroutine function, or for an asynchronous generator if the call streams."""
        make = grpc.unary_stream_rpc_method_handler if self.streams else grpc.unary_unary_rpc_method_handler
        return make(
            function, request_deserializer=self.request.FromString, response_serializer=self.response.SerializeToString
        )


def reason(error: grpc.RpcError) -> str:
    """Why a call failed: its details and the name of its status, in one line."""
    # The type of the library does not say that both are there; every error that a call raises has them.
    call: Any = error
    details, status = " ".join((call.details() or "").split()), call.code().name
    return f"{details} ({status})" if details else status


def serve(server: grpc.aio.Server, functions: Mapping[Call, Any]) -> None:
    """Adds the calls to a server."""
    services: dict[str, dict[str, Any]] = {}
    for call, function in functions.items():
        services.setdefault(call.service, {})[call.method] = call.handler(function)
    for name, handlers in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
