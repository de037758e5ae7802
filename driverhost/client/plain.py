"""The client for programs without asyncio."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Self

from driverhost.client.connection import ANSWER_SECONDS, DEFAULT, Disconnected, opened, result_of
from driverhost.client.opening import Opening
from driverhost.client.port import ApplicationPort
from driverhost.protocol import messages

_PAUSE = 0.05


def connect(path: str = DEFAULT, seconds: float = 10.0) -> Client:
    """A client, as soon as the driver host listens. Raises `Disconnected` when it does not within the time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return Client(path, max(deadline - time.monotonic(), 0.001))
        except OSError as error:
            if time.monotonic() > deadline:
                raise Disconnected(f"no driver host at {path}: {error}", hint="see the log of its container") from error
        time.sleep(_PAUSE)


class Client:
    """One connection. The ports that it has opened end with it. Not for several threads at once.

    Each call raises `Refused`, and `Disconnected` when the driver host has ended or does not answer within 10 s.
    """

    def __init__(self, path: str = DEFAULT, seconds: float = ANSWER_SECONDS) -> None:
        """`seconds`: for the connection. Raises `OSError`."""
        self._socket = opened(path, seconds)
        self._events: deque[dict[str, Any]] = deque()
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def devices(self) -> list[dict[str, Any]]:
        return list(self.call("list")["devices"])

    def info(self, device: str | None = None) -> dict[str, Any]:
        """State, driver, MAC and link. A device need not be named where there is only one."""
        return self.call("info", device=device)

    def statistics(self, device: str | None = None) -> dict[str, int]:
        """Counters since the driver's start."""
        return self.call("statistics", device=device)

    def set_mac(self, mac: str, device: str | None = None) -> None:
        self.call("setMac", device=device, mac=mac)

    def open(self, device: str | None = None, slots: int = 512) -> ApplicationPort:
        """A port for sending and receiving; one application has a device at a time."""
        return self._port("open", device, slots)

    def capture(self, device: str | None = None, slots: int = 512) -> ApplicationPort:
        """A port that receives copies of all frames, sent and received."""
        return self._port("capture", device, slots)

    def vhost_user(self, device: str | None = None) -> str:
        """The path of the vhost-user socket of a device with DPDK. The driver host listens; QEMU or DPDK connects."""
        return str(self.call("open", device=device)["vhost-user"])

    def subscribe(self) -> None:
        """From now on `event` returns events."""
        self.call("subscribe")

    def event(self, seconds: float) -> dict[str, Any] | None:
        """The next event, or None when there is none within the time. Raises `Disconnected`."""
        if self._events:
            return self._events.popleft()
        message = self._message(seconds)
        return message.fields if message else None

    def call(self, name: str, **fields: Any) -> dict[str, Any]:
        """The result of any call of the interface, except those that open a port."""
        message = self._answer(name, fields)
        message.close()
        return result_of(message)

    def _port(self, name: str, device: str | None, slots: int) -> ApplicationPort:
        with Opening(slots) as opening:
            message = self._answer(name, {"device": device}, opening.descriptor)
            return opening.port(message)

    def _answer(self, name: str, fields: dict[str, Any], *descriptors: int) -> messages.Message:
        self._number += 1
        given = {key: value for key, value in fields.items() if value is not None}
        try:
            messages.send(self._socket, {"id": self._number, "call": name, **given}, descriptors)
        except OSError as error:
            # Why the driver host has closed the connection may be waiting to be read.
            if not (message := self._message(0.0)):
                raise Disconnected("the driver host has ended") from error
            return message
        deadline = time.monotonic() + ANSWER_SECONDS
        while message := self._message(deadline - time.monotonic()):
            if "event" in message.fields:
                self._events.append(message.fields)
            elif message.fields.get("id", self._number) == self._number:
                return message
            else:
                message.close()  # of a call that has given up
        raise Disconnected(f"no answer to {name} within {ANSWER_SECONDS:.0f} s")

    def _message(self, seconds: float) -> messages.Message | None:
        """The next message, or None after the time. Raises `Disconnected`."""
        self._socket.settimeout(max(seconds, 0.001))
        try:
            message = messages.receive(self._socket)
        except TimeoutError:
            return None
        except (OSError, messages.BadMessage) as error:
            raise Disconnected(f"the driver host has ended: {error}") from error
        if message is None:
            raise Disconnected("the driver host has ended")
        return message
