"""Runs all checks and tests, or with the argument `check` those that need no root and no bundle, in two lanes.

A lane that is free takes the next part. A part prints into `.cache/tests/PART.log`, which is shown as a whole when the
part has ended. All parts run, so that one run shows all there is to correct; the exit code tells whether all passed. An
interrupt ends the parts as it ends pytest, with the clean-up of their fixtures.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LOGS = Path(".cache/tests")
LANES = 2
END_SECONDS = 30.0
"""For a part's own clean-up after an interrupt; then it is killed."""

# A part does not outlive this program, even when this program is killed.
LEASH = ("setpriv", "--pdeathsig", "KILL")

PYTHON = ".venv/bin/python"
Parts = Mapping[str, Sequence[str]]
"""Commands by the names of the parts. The longest come first: short ones fill the lanes evenly at the end."""

CHECKS: Parts = {
    "unit": (PYTHON, "build/unit.py", "tests/unit"),
    "format": (PYTHON, "-m", "ruff", "format", "--check", "."),
    "lint": (PYTHON, "-m", "ruff", "check", "."),
    "docs": (PYTHON, "build/docs.py", "--check"),
    "imports": (".venv/bin/lint-imports", "--no-logo"),
    "types": (PYTHON, "-m", "mypy"),
    "spelling": (PYTHON, "-m", "codespell_lib"),
}
# The lab is as long as the other suites together, so it is two parts. Each boots a machine, which takes 6 s.
FAULTS = "tests/lab/test_sriov_faults.py"
# gRPC keeps threads that open descriptors at any time, so its tests are in a process of their own.
SUITES: Parts = {
    "lab": (PYTHON, "-m", "pytest", "tests/lab", f"--ignore={FAULTS}"),
    "faults": (PYTHON, "-m", "pytest", FAULTS),
    **{
        name: (PYTHON, "-m", "pytest", f"tests/{name}")
        for name in ("contract", "userspace", "deviceplugin", "kubevirt", "cli")
    },
}
EVERYTHING: Parts = {**SUITES, **CHECKS}


@dataclass
class Run:
    """One run of the parts. `failed` names those that did not pass, or did not come to their end."""

    parts: Parts
    logs: Path
    failed: list[str] = field(default_factory=list)

    async def all(self, lanes: int) -> None:
        waiting = list(self.parts)
        self.failed[:] = waiting

        async def lane() -> None:
            while waiting:
                part = waiting.pop(0)
                if await self._passes(part):
                    self.failed.remove(part)

        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())

    async def _passes(self, part: str) -> bool:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{part}.log"
        started = time.monotonic()
        print(f"== {part}: started, prints into {log}", flush=True)
        code = None
        try:
            with log.open("wb") as out:
                code = await _ended(self.parts[part], out.fileno())
        finally:
            sys.stdout.write(log.read_text(errors="replace"))
            verdict = {0: "ok", None: "interrupted"}.get(code, f"failed ({code})")
            print(f"== {part}: {verdict}, {time.monotonic() - started:.0f} s", flush=True)
        return code == 0


async def _ended(command: Sequence[str], out: int) -> int:
    """The exit code of a command. It has a process group of its own, which is ended when this is cancelled."""
    # A process that a shell starts in the background ignores interrupts, and so would what it starts.
    process = await asyncio.create_subprocess_exec(
        *LEASH, *command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await _interrupted(process)
        raise


async def _interrupted(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            await asyncio.wait_for(process.wait(), END_SECONDS)
        except ProcessLookupError:
            return
        except TimeoutError:
            continue


async def _run(parts: Parts, lanes: int, logs: Path) -> int:
    run = Run(parts, logs)
    work = asyncio.ensure_future(run.all(lanes))
    signals: list[int] = []

    def interrupt(number: int) -> None:
        signals.append(number)
        work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    await asyncio.wait([work])
    if run.failed:
        reason = "interrupted, not passed" if signals else "failed"
        print(f"tests: {reason}: {', '.join(run.failed)}", file=sys.stderr)
    if signals:
        return 128 + signals[0]
    if error := work.exception():
        raise error
    return 1 if run.failed else 0


def main(parts: Parts, lanes: int = LANES, logs: Path = LOGS) -> int:
    return asyncio.run(_run(parts, lanes, logs))


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main(CHECKS if sys.argv[1:] == ["check"] else EVERYTHING))
