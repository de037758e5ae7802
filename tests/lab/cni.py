"""Calls CNI plugins in the guest as a container runtime does, single ones and chains.

Written from the CNI specification 1.1.0 ("Runtime: executing plugins"), without product code.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.lab.errors import LabError
from tests.lab.vm import Completed, Running, Vm

Json = dict[str, Any]

BIN_DIR = "/opt/cni/bin"
DEBIAN_BIN_DIR = "/usr/lib/cni"
DEL_HAS_RESULT_SINCE = (0, 4, 0)
CALL_S = 90.0
DELETE_S = 20.0

_numbers = itertools.count(1)


class Pod:
    """A network namespace of the guest that represents a pod."""

    def __init__(self, vm: Vm, name: str | None = None) -> None:
        self.vm = vm
        self.name = name or f"pod{next(_numbers)}"
        self.netns = f"/run/netns/{self.name}"
        self.container_id = f"{self.name}-{uuid.uuid4().hex[:12]}"
        vm.run("ip", "netns", "add", self.name)

    def run(self, *argv: str, stdin: str = "", timeout: float = 60, check: bool = True) -> Completed:
        """Runs a program in the pod's network; /sys shows that network as well."""
        return self.vm.run("ip", "netns", "exec", self.name, *argv, stdin=stdin, timeout=timeout, check=check)

    def start(self, *argv: str) -> Running:
        return self.vm.start("ip", "netns", "exec", self.name, *argv)

    def ip(self, *arguments: str, check: bool = True) -> Completed:
        """`ip` in the pod: `pod.ip("link", "set", "net1", "down")`."""
        return self.vm.run("ip", "-n", self.name, *arguments, check=check)

    def link(self, ifname: str) -> Json:
        """The interface according to `ip -d -j link`. Raises GuestFailed if it does not exist."""
        found: list[Json] = json.loads(self.ip("-d", "-j", "link", "show", ifname).out)
        return found[0]

    def addresses(self, ifname: str) -> list[str]:
        """The addresses of global scope, with their prefix lengths."""
        (found,) = json.loads(self.ip("-j", "addr", "show", ifname).out)
        return [f"{one['local']}/{one['prefixlen']}" for one in found["addr_info"] if one["scope"] == "global"]

    def interfaces(self) -> list[str]:
        return [link["ifname"] for link in json.loads(self.ip("-j", "link").out) if link["ifname"] != "lo"]

    def pings(self, address: str, *, count: int = 3, source: str | None = None) -> int:
        """The number of echo requests, of `count`, that were answered within a second each."""
        source_option = ["-I", source] if source else []
        argv = ["ping", "-n", "-q", "-c", str(count), "-i", "0.2", "-W", "1", *source_option, address]
        out = self.run(*argv, check=False).out
        return next((int(line.split()[3]) for line in out.splitlines() if "packets transmitted" in line), 0)

    def exists(self) -> bool:
        return self.vm.run("test", "-e", self.netns, check=False).rc == 0

    def delete(self) -> None:
        """Kills its processes and removes its name, in at most 20 s. Its VF returns to the host a moment later,
        renamed.
        """
        script = '[ ! -e "$1" ] || { for pid in $(ip netns pids "$0"); do kill -9 "$pid"; done; ip netns del "$0"; }'
        self.vm.run("bash", "-c", script, self.name, self.netns, timeout=DELETE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.delete()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call. `result` is the output if it ended with 0, `error` if it did not.

    Each is None if stdout does not hold a single JSON object. `seconds` were measured in the guest.
    """

    rc: int
    stdout: str
    stderr: str
    result: Json | None
    error: Json | None
    seconds: float

    def required(self) -> Self:
        """Returns itself if the call succeeded; otherwise raises LabError with all output."""
        if self.rc:
            raise LabError(f"the plugin ended with {self.rc}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}")
        return self


def outcome(done: Completed) -> Outcome:
    answer = _object(done.out)
    failed = done.rc != 0
    return Outcome(done.rc, done.out, done.err, None if failed else answer, answer if failed else None, done.seconds)


def _object(text: str) -> Json | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class Attachment:
    """A chain that was added, with the values that the runtime keeps for CHECK and DEL."""

    conflist: Json
    pod: Pod
    ifname: str
    args: str
    capability_args: Json = field(default_factory=dict)
    result: Json | None = None


class Runtime:
    """`cni_path` is passed to the plugins, and searched for them."""

    def __init__(self, vm: Vm, bin_dir: str = BIN_DIR, cni_path: str = f"{BIN_DIR}:{DEBIAN_BIN_DIR}") -> None:
        self.vm = vm
        self.bin_dir = bin_dir
        self.cni_path = cni_path
        self._programs: dict[str, str] = {}

    # One plugin

    def start(
        self,
        command: str,
        conf: Json | str,
        pod: Pod | None = None,
        ifname: str = "net1",
        *,
        container_id: str | None = None,
        netns: str | None = None,
        args: str = "",
        env_extra: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> Running:
        """Starts one call and does not wait: `outcome(running.wait())`.

        A `netns` given here replaces the pod's, and `prefix` is a program (strace) that runs the plugin.
        """
        env = {"CNI_COMMAND": command, "CNI_PATH": self.cni_path}
        if pod:
            env |= {"CNI_CONTAINERID": container_id or pod.container_id, "CNI_IFNAME": ifname, "CNI_ARGS": args}
            env["CNI_NETNS"] = pod.netns if netns is None else netns
        env |= env_extra or {}
        text = conf if isinstance(conf, str) else json.dumps(conf)
        return self.vm.start(*prefix, self.program(conf), stdin=text, env=env)

    def call(self, command: str, conf: Json | str, pod: Pod | None = None, ifname: str = "net1", **how: Any) -> Outcome:
        """Makes one call, of at most 90 s. `how`: see `start`."""
        return outcome(self.start(command, conf, pod, ifname, **how).wait(CALL_S))

    def add(self, conf: Json | str, pod: Pod, ifname: str = "net1", **how: Any) -> Outcome:
        return self.call("ADD", conf, pod, ifname, **how)

    def delete(self, conf: Json | str, pod: Pod, ifname: str = "net1", **how: Any) -> Outcome:
        return self.call("DEL", conf, pod, ifname, **how)

    def check(self, conf: Json | str, pod: Pod, ifname: str = "net1", **how: Any) -> Outcome:
        return self.call("CHECK", conf, pod, ifname, **how)

    def gc(self, conf: Json, valid: list[tuple[str, str]], **how: Any) -> Outcome:
        """`valid`: the attachments in use, as container ID and ifname."""
        attachments = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in valid]
        return self.call("GC", {**conf, "cni.dev/valid-attachments": attachments}, **how)

    def status(self, conf: Json | str, **how: Any) -> Outcome:
        return self.call("STATUS", conf, **how)

    def version(self, conf: Json | str, **how: Any) -> Outcome:
        return self.call("VERSION", conf, **how)

    def program(self, conf: Json | str) -> str:
        """The path of the plugin that the configuration names; `sriov` if it is not JSON or names none."""
        parsed = _object(conf) if isinstance(conf, str) else conf
        name = str((parsed or {}).get("type", "sriov"))
        if name not in self._programs:
            self._programs[name] = self._found(name)
        return self._programs[name]

    def _found(self, name: str) -> str:
        for folder in (self.bin_dir, *self.cni_path.split(":")):
            if name in self.vm.run("ls", folder, check=False).out.split():
                return f"{folder}/{name}"
        raise LabError(f"no plugin {name} in {self.bin_dir}:{self.cni_path}")

    # A chain

    def chain_add(
        self, conflist: Json, pod: Pod, ifname: str = "net1", *, args: str = "", capability_args: Json | None = None
    ) -> Attachment:
        """Calls ADD of each plugin with the result of the one before.

        Raises LabError at the first failure, after DEL of all, as runtimes do.
        """
        attachment = Attachment(conflist, pod, ifname, args, capability_args or {})
        result: Json | None = None
        for conf in conflist["plugins"]:
            done = self._chain_call("ADD", conf, attachment, result)
            if done.rc:
                self.chain_delete(attachment)
                done.required()
            result = done.result
        return Attachment(conflist, pod, ifname, args, capability_args or {}, result)

    def chain_check(self, attachment: Attachment) -> list[Outcome]:
        """Calls CHECK of each plugin in turn with the chain's result, up to the first that fails."""
        outcomes = []
        for conf in attachment.conflist["plugins"]:
            outcomes.append(self._chain_call("CHECK", conf, attachment, attachment.result))
            if outcomes[-1].rc:
                break
        return outcomes

    def chain_delete(self, attachment: Attachment) -> list[Outcome]:
        """Calls DEL of each plugin in reverse with the chain's result, up to the first that fails."""
        outcomes = []
        for conf in reversed(attachment.conflist["plugins"]):
            outcomes.append(self._chain_call("DEL", conf, attachment, attachment.result))
            if outcomes[-1].rc:
                break
        return outcomes

    def _chain_call(self, command: str, conf: Json, attachment: Attachment, prev_result: Json | None) -> Outcome:
        if command == "DEL" and version_tuple(attachment.conflist["cniVersion"]) < DEL_HAS_RESULT_SINCE:
            prev_result = None
        whole = plugin_conf(attachment.conflist, conf, attachment.capability_args, prev_result)
        return self.call(command, whole, attachment.pod, attachment.ifname, args=attachment.args)


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def plugin_conf(conflist: Json, conf: Json, capability_args: Json, prev_result: Json | None) -> Json:
    """The configuration that a runtime makes from one entry of a list.

    It has the list's name and version, the values for the capabilities that the plugin declares, and the result so far.
    `capabilities` stays: the specification says otherwise, but libcni does not remove it.
    """
    whole = {**conf, "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
    declared = [name for name, wanted in conf.get("capabilities", {}).items() if wanted]
    runtime_config = {name: capability_args[name] for name in declared if name in capability_args}
    if runtime_config:
        whole["runtimeConfig"] = runtime_config
    if prev_result is not None:
        whole["prevResult"] = prev_result
    return whole
