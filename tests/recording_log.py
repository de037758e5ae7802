"""A log that keeps its warnings, for tests of what is reported without an error."""

from __future__ import annotations

from cni.log import Log


class RecordingLog(Log):
    """`messages` are the warnings, in order; nothing is written."""

    def __init__(self) -> None:
        super().__init__({}, level="panic")
        self.messages: list[str] = []

    def warning(self, message: str) -> None:
        self.messages.append(message)
