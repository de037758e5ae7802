"""ADD and DEL of the backend `local` with 60,000 addresses in use, against an empty directory and against Go."""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ipam.address import parse
from ipam.ranges import Range
from tests.contract.host_local import NETWORK, Go, ours, owner

if TYPE_CHECKING:
    from collections.abc import Callable

START = parse("10.64.0.0", "bench").number
SETS = (
    (Range(subnet=parse("10.64.0.0", "bench"), prefix=16, first=START + 1, last=START + 65534, gateway=START + 1),),
)
IN_USE = 60_000
ROUNDS = 40
GO_ROUNDS = 3

PLACES = {
    "empty": list[int](),
    "60,000 in a row, tried first": list(range(2, IN_USE + 2)),
    "60,000 anywhere": random.Random(5).sample(range(2, 65535), IN_USE),
    "all but one": list(range(2, 65534)),
}


def run() -> str:
    """The report: medians in milliseconds, and their ratio to those on the empty directory."""
    lines = ["ipam, backend local: one address of a /16, store operations in process", _row("", "ADD", "DEL")]
    with tempfile.TemporaryDirectory() as scratch:
        data = {name: _filled(Path(scratch) / str(i), numbers) for i, (name, numbers) in enumerate(PLACES.items())}
        lines += _section(data, ROUNDS, lambda place: _ours(place, f"{scratch}/run"))
        lines += ["Go's host-local, whole calls"]
        lines += _section(data, GO_ROUNDS, _go)
    return "\n".join(lines)


def _section(data: dict[str, Path], rounds: int, calls: Callable[[Path], list[Callable[[], object]]]) -> list[str]:
    """Measures all directories in each round, so that other load of the machine affects all of them."""
    times: dict[str, list[list[float]]] = {name: [] for name in data}
    for number in range(rounds + 1):
        for name, place in data.items():
            (place / NETWORK / "last_reserved_ip.0").write_text("10.64.0.1")
            measured = [_milliseconds(call) for call in calls(place)]
            if number:  # the first round creates the index
                times[name].append(measured)
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    first = medians["empty"]
    return [
        _row(name, *(f"{value:.2f} ({value / one:.2f}x)" for value, one in zip(values, first, strict=True)))
        for name, values in medians.items()
    ]


_numbers = itertools.count()


def _ours(place: Path, run: str) -> list[Callable[[], object]]:
    one, store = owner(f"bench{next(_numbers):059}"), ours(str(place), run)
    return [lambda: store.allocate(one, SETS, (None,)), lambda: store.release(one)]


def _go(place: Path) -> list[Callable[[], object]]:
    one, go = owner(f"bench{next(_numbers):059}"), Go(str(place))
    return [lambda: go.add(one, SETS), lambda: go.delete(one, SETS)]


def _filled(place: Path, numbers: list[int]) -> Path:
    (place / NETWORK).mkdir(parents=True)
    for i, number in enumerate(numbers):
        (place / NETWORK / str(SETS[0][0].address(START + number))).write_text(f"{i:064}\r\nnet1", newline="")
    return place


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def _row(*cells: str) -> str:
    return f"{cells[0]:32}{cells[1]:>18}{cells[2]:>18}"


if __name__ == "__main__":
    print(run())
