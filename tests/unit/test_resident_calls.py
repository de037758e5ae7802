"""Failures of gRPC calls in messages."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from resident.calls import reason


class Failed(grpc.RpcError):
    """As grpc raises it: with a status and details."""

    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ("no\n such\tsocket", "no such socket (UNAVAILABLE)"),
        ("", "UNAVAILABLE"),
        (None, "UNAVAILABLE"),
    ],
)
def test_a_failure_of_a_call_is_one_line_with_its_details_and_its_status(details: Any, expected: str) -> None:
    assert reason(Failed(grpc.StatusCode.UNAVAILABLE, details)) == expected
