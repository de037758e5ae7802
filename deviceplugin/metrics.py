"""Metrics for Prometheus: devices by resource and state, reasons of unhealthy devices, calls, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.registry import Collector

    from deviceplugin.stock import Stock

_BUCKETS = (0.005, 0.02, 0.1, 0.5, 2, 10, 30)


class Metrics:
    """The metrics of this process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._took = Histogram(
            "barewire_call_seconds", "Time of the kubelet's calls.", ["call"], buckets=_BUCKETS, registry=self.registry
        )
        self._refused = Counter(
            "barewire_refusals",
            "Calls of the kubelet that failed.",
            ["resource", "call", "reason"],
            registry=self.registry,
        )
        self._registered = Counter(
            "barewire_registrations", "Registrations with the kubelet.", ["outcome"], registry=self.registry
        )

    def took(self, call: str, seconds: float) -> None:
        self._took.labels(call).observe(seconds)

    def refused(self, resource: str, call: str, reason: str) -> None:
        self._refused.labels(resource, call, reason).inc()

    def registered(self, *, ok: bool) -> None:
        self._registered.labels("ok" if ok else "failed").inc()

    def watch(self, stock: Stock) -> None:
        """Adds the current state of the devices to each response."""
        collector: Collector = _Devices(stock)
        self.registry.register(collector)

    def serve(self, port: int, address: str) -> None:
        """Serves the metrics over HTTP. Raises `OSError`."""
        start_http_server(port, address, registry=self.registry)


class _Devices:
    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        states = GaugeMetricFamily("barewire_devices", "Devices of a resource.", labels=["resource", "state"])
        sick = GaugeMetricFamily("barewire_device_unhealthy", "A reason why.", labels=["resource", "device", "reason"])
        claims = GaugeMetricFamily(
            "barewire_device_claims",
            "Devices that a second resource selects as well.",
            labels=["resource", "second_resource"],
        )
        for pair, devices in self._stock.assignment.contested().items():
            claims.add_metric(pair, len(devices))
        held = self._stock.held
        for resource in self._stock.resources():
            offers = self._stock.offers(resource)
            numbers = {
                "healthy": sum(offer.healthy for offer in offers),
                "unhealthy": sum(not offer.healthy for offer in offers),
                "held": sum(offer.device in held for offer in offers),
            }
            for state, number in numbers.items():
                states.add_metric([resource, state], number)
            for offer in offers:
                for reason in offer.ailments:
                    sick.add_metric([resource, offer.device, reason], 1)
        yield from (states, sick, claims)
