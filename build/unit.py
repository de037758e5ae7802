"""Runs tests (`unit.py tests/unit`) in two processes, and counts the lines that they execute.

It fails if a package is below its floor.

The floors are in build/coverage.json, in percent. They only rise: `make coverage RAISE=--raise` writes what has been
reached. Lines are counted, not branches: sys.monitoring, which makes counting cheap, tells branches from Python 3.14
on.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from coverage import Coverage

TOP = Path(__file__).resolve().parent.parent
FLOORS = TOP / "build/coverage.json"
DATA = TOP / ".cache/tests/coverage"
PROCESSES = 2
MARGIN = 0.5
"""Percent between what is reached and its floor: tests with random values execute a few lines more or less."""


class Lines(NamedTuple):
    """Lines of code that can be executed, and those that were."""

    all: int
    run: int

    @property
    def percent(self) -> float:
        return 100 * self.run / self.all if self.all else 100.0


def split(sizes: Mapping[str, int], parts: int) -> list[list[str]]:
    """The names in so many lists, whose sizes are about equal."""
    lists: list[list[str]] = [[] for _ in range(parts)]
    totals = [0] * parts
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = totals.index(min(totals))
        lists[least].append(name)
        totals[least] += sizes[name]
    return lists


def by_package(files: Mapping[str, Lines]) -> dict[str, Lines]:
    """The lines of each directory's own files, by its path."""
    found: dict[str, Lines] = defaultdict(lambda: Lines(0, 0))
    for path, lines in files.items():
        package = os.path.dirname(path)
        found[package] = Lines(found[package].all + lines.all, found[package].run + lines.run)
    return dict(sorted(found.items()))


def complaints(packages: Mapping[str, Lines], floors: Mapping[str, int]) -> list[str]:
    """What has to be done about packages that are not as they have to be, one line each."""
    found = []
    for name, lines in packages.items():
        if name not in floors:
            found.append(f"{name} has no floor: write one with make coverage RAISE=--raise")
        elif lines.percent < floors[name]:
            found.append(
                f"{name}: the unit tests execute {lines.percent:.1f} % of its lines, the floor is {floors[name]} %"
            )
    return found + [f"{name} is no package any more: take its floor away" for name in floors if name not in packages]


def risen(packages: Mapping[str, Lines], floors: Mapping[str, int]) -> dict[str, int]:
    """The floors, raised to what has been reached."""
    reached = {name: max(math.floor(lines.percent - MARGIN), 0) for name, lines in packages.items()}
    return {name: max(percent, floors.get(name, 0)) for name, percent in reached.items()}


def table(packages: Mapping[str, Lines], floors: Mapping[str, int]) -> str:
    rows = [f"{'package':24} {'lines':>6} {'run':>7} {'floor':>6}"]
    total = Lines(sum(lines.all for lines in packages.values()), sum(lines.run for lines in packages.values()))
    for name, lines in [*packages.items(), ("total", total)]:
        rows.append(f"{name:24} {lines.all:6} {lines.percent:6.1f}% {floors.get(name, ''):>6}")
    return "\n".join(rows)


def measured(data: Path) -> dict[str, Lines]:
    """The lines of each file of the product, by what the processes have written."""
    coverage = Coverage(data_file=str(data / "all"), config_file=str(TOP / "pyproject.toml"))
    coverage.combine([str(path) for path in data.glob("part.*")])
    coverage.json_report(outfile=str(data / "report.json"), pretty_print=False)
    files = json.loads((data / "report.json").read_text())["files"]
    summaries = {path: one["summary"] for path, one in files.items()}
    return {path: Lines(one["num_statements"], one["covered_lines"]) for path, one in summaries.items()}


def tested(data: Path, folders: Sequence[str]) -> bool:
    """Runs the tests, and prints what each process says when both have ended. Whether all have passed."""
    paths = [path for folder in folders for path in (TOP / folder).rglob("test_*.py")]
    sizes = {str(path.relative_to(TOP)): path.stat().st_size for path in paths}
    running = []
    for number, files in enumerate(split(sizes, PROCESSES)):
        command = [sys.executable, "-m", "coverage", "run", f"--data-file={data / f'part.{number}'}"]
        out = (data / f"{number}.log").open("w+b")
        running.append(
            (subprocess.Popen([*command, "-m", "pytest", "-q", *files], cwd=TOP, stdout=out, stderr=out), out)
        )
    codes = []
    try:
        codes = [process.wait() for process, _out in running]
    finally:
        for process, out in running:
            with suppress(ProcessLookupError):
                process.kill()
            out.seek(0)
            shutil.copyfileobj(out, sys.stdout.buffer)
            out.close()
    return not any(codes)


def main(arguments: list[str]) -> int:
    folders = [argument for argument in arguments if argument != "--raise"]
    floors: dict[str, int] = json.loads(FLOORS.read_text())
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    passed = tested(DATA, folders)
    packages = by_package(measured(DATA))
    if passed and "--raise" in arguments:
        floors = risen(packages, floors)
        FLOORS.write_text(json.dumps(floors, indent=2) + "\n")
    print(table(packages, floors), flush=True)
    # What a test that failed did not execute is no news.
    found = complaints(packages, floors) if passed else ["tests failed"]
    for complaint in found:
        print(complaint, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
