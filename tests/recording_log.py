"""A log that keeps its warnings and errors, for tests of reports that are not exceptions."""

from __future__ import annotations

from cni.log import Log


class RecordingLog(Log):
    """`messages` are the warnings and errors, in order; nothing is written."""

    def __init__(self) -> None:
        super().__init__({}, level="panic")
        self.messages: list[str] = []

    def warning(self, message: str) -> None:
        self.messages.append(message)

    def error(self, message: str) -> None:
        self.messages.append(message)
