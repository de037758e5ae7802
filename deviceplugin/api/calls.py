"""The calls of the kubelet's protocols: their names, messages, and how they are served and made.

protoc's plugin for gRPC would make such tables as well, but without types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from deviceplugin.api import deviceplugin_pb2 as v1beta1, pluginregistration_pb2 as registration, podresources_pb2 as v1

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc.aio


class Call(NamedTuple):
    """A call of a service. `streams`: the answer is a stream of messages."""

    service: str
    method: str
    request: type[Any]
    response: type[Any]
    streams: bool = False

    def of(self, channel: grpc.aio.Channel) -> Any:
        """The call as something that can be called."""
        make = channel.unary_stream if self.streams else channel.unary_unary
        return make(
            f"/{self.service}/{self.method}",
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )

    def handler(self, function: Any) -> Any:
        """The call as served by a coroutine function, or by an asynchronous generator where it streams."""
        make = grpc.unary_stream_rpc_method_handler if self.streams else grpc.unary_unary_rpc_method_handler
        return make(
            function, request_deserializer=self.request.FromString, response_serializer=self.response.SerializeToString
        )


_REGISTRATION, _PLUGIN, _WATCHER = "v1beta1.Registration", "v1beta1.DevicePlugin", "pluginregistration.Registration"

REGISTER = Call(_REGISTRATION, "Register", v1beta1.RegisterRequest, v1beta1.Empty)
OPTIONS = Call(_PLUGIN, "GetDevicePluginOptions", v1beta1.Empty, v1beta1.DevicePluginOptions)
LIST_AND_WATCH = Call(_PLUGIN, "ListAndWatch", v1beta1.Empty, v1beta1.ListAndWatchResponse, streams=True)
PREFERRED = Call(
    _PLUGIN, "GetPreferredAllocation", v1beta1.PreferredAllocationRequest, v1beta1.PreferredAllocationResponse
)
ALLOCATE = Call(_PLUGIN, "Allocate", v1beta1.AllocateRequest, v1beta1.AllocateResponse)
PRE_START = Call(_PLUGIN, "PreStartContainer", v1beta1.PreStartContainerRequest, v1beta1.PreStartContainerResponse)
GET_INFO = Call(_WATCHER, "GetInfo", registration.InfoRequest, registration.PluginInfo)
NOTIFY = Call(
    _WATCHER, "NotifyRegistrationStatus", registration.RegistrationStatus, registration.RegistrationStatusResponse
)
POD_RESOURCES = Call("v1.PodResourcesLister", "List", v1.ListPodResourcesRequest, v1.ListPodResourcesResponse)


def serve(server: grpc.aio.Server, functions: Mapping[Call, Any]) -> None:
    """Adds the calls to a server."""
    services: dict[str, dict[str, Any]] = {}
    for call, function in functions.items():
        services.setdefault(call.service, {})[call.method] = call.handler(function)
    for name, handlers in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
