"""The calls of the hook protocol: their names and messages, for both sides.

protoc's plugin for gRPC would make such tables as well, but without types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from kubevirt.api import info_pb2 as info, v1alpha1_pb2 as v1alpha1, v1alpha2_pb2 as v1alpha2, v1alpha3_pb2 as v1alpha3

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc.aio


class Call(NamedTuple):
    """A call of a service, one message for one message."""

    service: str
    method: str
    request: type[Any]
    response: type[Any]

    def of(self, channel: Any) -> Any:
        """The call as something that can be called, on a channel of either kind."""
        return channel.unary_unary(
            f"/{self.service}/{self.method}",
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )

    def handler(self, function: Any) -> Any:
        """The call as served by a coroutine function."""
        return grpc.unary_unary_rpc_method_handler(
            function, request_deserializer=self.request.FromString, response_serializer=self.response.SerializeToString
        )


VERSIONS: dict[str, Any] = {"v1alpha1": v1alpha1, "v1alpha2": v1alpha2, "v1alpha3": v1alpha3}
"""The modules of the messages by version, the oldest first."""


def _callbacks(version: str, method: str) -> Call:
    messages = VERSIONS[version]
    request, response = getattr(messages, f"{method}Params"), getattr(messages, f"{method}Result")
    return Call(f"kubevirt.hooks.{version}.Callbacks", method, request, response)


INFO = Call("kubevirt.hooks.info.Info", "Info", info.InfoParams, info.InfoResult)
ON_DEFINE_DOMAIN = {version: _callbacks(version, "OnDefineDomain") for version in VERSIONS}
PRE_CLOUD_INIT_ISO = {version: _callbacks(version, "PreCloudInitIso") for version in ("v1alpha2", "v1alpha3")}
SHUTDOWN = {"v1alpha3": _callbacks("v1alpha3", "Shutdown")}


def serve(server: grpc.aio.Server, functions: Mapping[Call, Any]) -> None:
    """Adds the calls to a server."""
    services: dict[str, dict[str, Any]] = {}
    for call, function in functions.items():
        services.setdefault(call.service, {})[call.method] = call.handler(function)
    for name, handlers in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
