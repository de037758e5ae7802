"""Runs a plugin as a container runtime does: in a fresh process, with only the given environment, and JSON on stdin."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "dist" / "barewire"
TRACED = ROOT / "dist" / "traced"
SECONDS = 60
"""No call takes longer: every wait of a plugin has a bound."""

_IMPORT_REPORT = re.compile(r"^import '([^']+)' #", re.MULTILINE)


class Completed(NamedTuple):
    """The result of a call, as the runtime receives it."""

    code: int
    out: bytes
    err: bytes

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


class Program(NamedTuple):
    """A way to start a plugin."""

    command: tuple[str, ...]
    directory: Path = Path("/")

    def run(self, env: dict[str, str], stdin: bytes = b"") -> Completed:
        """Makes one call. The environment is exactly `env`. Raises `TimeoutExpired` after a minute."""
        done = subprocess.run(
            self.command, env=env, input=stdin, capture_output=True, cwd=self.directory, timeout=SECONDS, check=False
        )
        return Completed(done.returncode, done.stdout, done.stderr)


def from_source(plugin: str) -> Program:
    """The plugin from this source tree, run by the interpreter of .venv."""
    return Program((sys.executable, "-E", "-s", "-m", f"cni.{plugin}"), directory=ROOT)


def from_bundle(plugin: str) -> Program:
    """The plugin as installed on nodes."""
    return Program((str(_frozen(BUNDLE / plugin)),))


def imports(plugin: str, env: dict[str, str], stdin: bytes = b"") -> tuple[Completed, frozenset[str]]:
    """Makes one call of the frozen plugin, and returns the names of all modules that it had imported when it ended.

    The program is the one in dist/traced: the bundle's `_internal` and entry script, started with the interpreter's own
    import report on stderr. No environment variable or argument makes the installed program print this report.
    """
    completed = Program((str(_frozen(TRACED / plugin)),)).run(env, stdin)
    return completed, imported(completed.err.decode())


def imported(report: str) -> frozenset[str]:
    """The modules in an interpreter's import report."""
    return frozenset(_IMPORT_REPORT.findall(report))


def _frozen(path: Path) -> Path:
    assert path.exists(), f"{path.relative_to(ROOT)} is missing: run `make freeze`"
    return path
