"""The calls of the hook protocol, for both sides."""

from __future__ import annotations

from typing import Any

from kubevirt.api import info_pb2 as info, v1alpha1_pb2 as v1alpha1, v1alpha2_pb2 as v1alpha2, v1alpha3_pb2 as v1alpha3
from resident.calls import Call

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
