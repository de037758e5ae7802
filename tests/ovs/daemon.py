"""A real Open vSwitch of the tests: ovsdb-server and ovs-vswitchd with DPDK, in their own folder and netns.

It needs no huge pages, no PCI devices and no kernel module, but root, /dev/net/tun for the bridges' own ports, and
Debian's openvswitch-switch-dpdk. The processes end with the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
VSWITCHD = {
    True: "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk",
    False: "/usr/lib/openvswitch-switch/ovs-vswitchd",
}
# Without --legacy-mem OVS adds --in-memory, which conflicts with --no-huge. A port with a connected consumer takes 86
# MB; if they are missing, its link stays down without a message. This suffices for 11 ports, and is allocated only when
# it is used.
DPDK = "--no-huge --legacy-mem --no-pci --no-telemetry -m 1024 --file-prefix=tests"
SETTINGS = {"dpdk-init": "true", "dpdk-extra": f'"{DPDK}"', "per-port-memory": "true", "pmd-maxsleep": "10000"}
CAPABILITIES = "+net_admin,+net_raw,+ipc_lock,+sys_nice"
START_SECONDS = 30.0
COMMAND_SECONDS = 30
# Kills the process when we end, even if we are killed; exec keeps the process ID.
LEASH = ("setpriv", "--pdeathsig", "KILL")
MEASURED = {"next_cfg", "cur_cfg", "ofport"}
"""Columns that OVS writes by itself, besides those that the schema calls ephemeral; it numbers ports again at a start.
"""


def until(what: str, happened: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
    """Returns the first true result of `happened`; fails if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := happened()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.005)
    return answer


class Daemon:
    """One Open vSwitch.

    `dpdk=False` is a vswitchd that cannot create vhost-user ports; `within` is the command that starts a program in
    another namespace; `bridge` exists from the start. `user` is the user of ovs-vswitchd, with the capabilities that
    the packages of RHEL leave to it.
    """

    def __init__(self, *, dpdk: bool = True, within: tuple[str, ...] = (), bridge: str = "", user: int = 0) -> None:
        self._within, self._user = within, user
        self._bridge = bridge
        self.folder = Path(tempfile.mkdtemp(prefix="ovs-"))  # short: a socket's path has at most 107 bytes
        self.socket = self.folder / "db.sock"
        self.remote = f"unix:{self.socket}"
        self._dpdk = dpdk
        self._control = self.folder / "vswitchd.ctl"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        schema = json.loads(SCHEMA.read_text())
        self._columns = {
            table: [name for name, column in content["columns"].items() if not column.get("ephemeral")]
            for table, content in schema["tables"].items()
        }
        self._run("ovsdb-tool", "create", str(self.folder / "conf.db"), str(SCHEMA))

    def __enter__(self) -> Self:
        try:
            self.start_database()
            self.vsctl("--no-wait", "init", "--", "set", "Open_vSwitch", ".", *self._settings())
            self.start_vswitchd()
            if self._bridge:
                self.add_bridge(self._bridge)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def add_bridge(self, name: str, datapath: str = "netdev", *, waits: bool = True) -> None:
        """Creates a bridge; with `waits`, until ovs-vswitchd, which must run, has it."""
        self.vsctl(
            *["--no-wait"] * (not waits), "add-br", name, "--", "set", "Bridge", name, f"datapath_type={datapath}"
        )

    def end(self) -> None:
        """Ends the remaining processes, and removes the folder."""
        for name in list(self._processes):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_database(self, *remotes: str) -> None:
        listen = [f"--remote={remote}" for remote in (f"p{self.remote}", *remotes)]
        control = f"--unixctl={self.folder / 'ovsdb.ctl'}"
        self._start("ovsdb-server", ["ovsdb-server", str(self.folder / "conf.db"), *listen, control])
        until("ovsdb-server's answer", lambda: self._connects(*remotes))

    def start_vswitchd(self) -> None:
        # Beside the database's socket, as in distributions.
        pidfile = f"--pidfile={self.folder / 'ovs-vswitchd.pid'}"
        argv = [
            "unshare",
            "-n",
            *self._as_user(),
            VSWITCHD[self._dpdk],
            self.remote,
            f"--unixctl={self._control}",
            pidfile,
        ]
        self._start("ovs-vswitchd", argv)
        self.await_vswitchd()

    def await_vswitchd(self) -> None:
        """Returns when ovs-vswitchd has processed the present configuration."""
        bump = {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}
        read = {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]}
        wanted = self.transact(bump, read)[1]["rows"][0]["next_cfg"]
        until("ovs-vswitchd's answer", lambda: int(self.vsctl("get", "Open_vSwitch", ".", "cur_cfg")) >= wanted)

    def kill(self, name: str) -> None:
        """SIGKILL to `ovsdb-server` or `ovs-vswitchd`."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(COMMAND_SECONDS)
        if name == "ovsdb-server":
            self.socket.unlink(missing_ok=True)

    def pause(self, name: str) -> None:
        """Stops it: it keeps its sockets and does not respond until `resume`."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGCONT)

    def vsctl(self, *arguments: str) -> str:
        return self._run("ovs-vsctl", "--timeout=20", f"--db={self.remote}", *arguments)

    def appctl(self, *arguments: str) -> str:
        """The response of ovs-vswitchd itself, as opposed to the database."""
        return self._run("ovs-appctl", "-t", str(self._control), *arguments)

    def transact(self, *operations: dict[str, Any]) -> list[dict[str, Any]]:
        """Runs a transaction with OVS's own client."""
        transaction = json.dumps(["Open_vSwitch", *operations])
        results: list[dict[str, Any]] = json.loads(self._run("ovsdb-client", "transact", self.remote, transaction))
        return results

    def dump(self) -> dict[str, dict[str, Any]]:
        """The rows by table and UUID: the configuration, without the columns that OVS writes by itself."""
        selections = [
            {"op": "select", "table": table, "where": [], "columns": ["_uuid", *(set(columns) - MEASURED)]}
            for table, columns in self._columns.items()
        ]
        answers = self.transact(*selections)
        return {
            table: {row.pop("_uuid")[1]: row for row in answer["rows"]}
            for table, answer in zip(self._columns, answers, strict=True)
        }

    def datapath_ports(self) -> set[str]:
        """The names of the ports that the datapath really has."""
        lines = self.appctl("dpif/show").splitlines()
        return {line.split()[0] for line in lines if line.startswith("    ")}

    def log(self) -> str:
        """The log of ovs-vswitchd; empty if it has been removed."""
        log = self.folder / "ovs-vswitchd.log"
        return log.read_text() if log.exists() else ""

    def _settings(self) -> list[str]:
        return [f"other_config:{name}={value}" for name, value in SETTINGS.items()]

    def _connects(self, *remotes: str) -> bool:
        """Whether it listens on its own socket and on those remotes (`ptcp:PORT:ADDRESS`), which open one by one."""
        assert self._processes["ovsdb-server"].poll() is None, (self.folder / "ovsdb-server.log").read_text()
        for remote in remotes:
            _ptcp, number, address = remote.split(":")
            with socket.socket() as probe:
                if probe.connect_ex((address, int(number))):
                    return False
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _as_user(self) -> list[str]:
        """The command that starts ovs-vswitchd as its user, to whom the files of both programs then belong."""
        if not self._user:
            return []
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, self._user, self._user)
        ids = [f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"]
        return [
            "setpriv",
            *ids,
            *(f"--{kind}=-all,{CAPABILITIES}" for kind in ("bounding-set", "inh-caps", "ambient-caps")),
        ]

    def _start(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*LEASH, *self._within, *argv, "--no-chdir", "-vsyslog:off", "-vconsole:info"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
            )

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False, env=self._environment()
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout.strip()

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), folder)
        return {**os.environ, **places, "RUNTIME_DIRECTORY": folder}  # the last one is for DPDK
