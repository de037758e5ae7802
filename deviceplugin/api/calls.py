"""The calls of the kubelet's protocols."""

from __future__ import annotations

from deviceplugin.api import deviceplugin_pb2 as v1beta1, pluginregistration_pb2 as registration, podresources_pb2 as v1
from resident.calls import Call

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
