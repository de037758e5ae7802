"""The output of the demo: each step with its time, and a verdict."""

from __future__ import annotations

import time


class Stage:
    """Prints each step with the time since the start, and keeps the failures."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.failures: list[str] = []

    def say(self, text: str = "") -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {text}" if text else "", flush=True)

    def step(self, text: str) -> None:
        self.say()
        self.say(f"== {text}")

    def show(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            print(f"          | {line}", flush=True)

    def expect(self, holds: bool, text: str) -> None:
        self.say(f"{'ok  ' if holds else 'FAIL'} {text}")
        if not holds:
            self.failures.append(text)
