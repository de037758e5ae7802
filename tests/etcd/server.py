"""A real etcd for the tests, on the loopback address, in its own folder. It dies with the tests."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.kube.authority import Certificates, Identity, certificates
from tests.ovs.daemon import LEASH, until

SECONDS = 30


class EtcdServer:
    """One member. With `secure` it uses TLS, and accepts only clients with a certificate of the tests' authority."""

    def __init__(self, *, secure: bool = False, durable: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="etcd-"))
        self.secure = secure
        self._durable = durable
        self._scheme = "https" if secure else "http"
        self.port = free_port()
        self.name, self.peer = f"member-{self.port}", f"http://127.0.0.1:{free_port()}"
        self.members: list[EtcdServer] = [self]
        self.endpoint = f"{self._scheme}://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def start(self, *, wait: bool = True) -> None:
        options = {
            "name": self.name,
            "data-dir": self.folder / "data",
            "listen-client-urls": self.endpoint,
            "advertise-client-urls": self.endpoint,
            "listen-peer-urls": self.peer,
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster": ",".join(f"{one.name}={one.peer}" for one in self.members),
            "logger": "zap",
            "log-outputs": self.folder / "log",
        }
        argv = [f"--{name}={value}" for name, value in options.items()]
        if self.secure:
            known = certificates()
            argv += [
                "--client-cert-auth",
                f"--trusted-ca-file={known.authority.certificate}",
                f"--cert-file={member().certificate}",
                f"--key-file={member().key}",
            ]
        if not self._durable:
            argv.append("--unsafe-no-fsync")
        self._process = subprocess.Popen(
            [*LEASH, "etcd", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if wait:
            self.await_answer()

    def await_answer(self) -> None:
        until("etcd's answer", self._answers, SECONDS)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Sends SIGKILL. Unwritten data is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(SECONDS)
        self._process = None

    def pause(self) -> None:
        """Stops the process: connections stay open, but there are no responses until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def snapshot(self, name: str = "snapshot") -> Path:
        """A backup, made as etcd's documentation describes it."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        self.ctl("snapshot", "save", str(path))
        return path

    def restore(self, snapshot: Path, token: str = "etcd-cluster") -> None:
        """Restores a backup. With another token the cluster has another ID."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        options = {
            "name": self.name,
            "data-dir": self.folder / "data",
            "initial-cluster": f"{self.name}={self.peer}",
            "initial-advertise-peer-urls": self.peer,
            "initial-cluster-token": token,
        }
        self.ctl("snapshot", "restore", str(snapshot), *(f"--{key}={value}" for key, value in options.items()))
        self.start()

    def end(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cluster_conf(self, **how: Any) -> Any:
        """The description of this etcd for a cluster backend."""
        known: Certificates | None = certificates() if self.secure else None
        files = {
            "caFile": str(known.authority.certificate) if known else "",
            "certFile": str(known.client.certificate) if known else "",
            "keyFile": str(known.client.key) if known else "",
        }
        return {"kind": "etcd", "endpoints": [self.endpoint], **files, **how}

    def ctl(self, *arguments: str) -> str:
        """Runs etcd's own client."""
        done = subprocess.run(
            ["etcdctl", "--command-timeout=10s", *self._client(), *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def all_keys(self) -> list[str]:
        return [line for line in self.ctl("get", "", "--from-key", "--keys-only").splitlines() if line]

    def values(self, prefix: str) -> dict[str, Any]:
        """The values of leases and their indexes, without the nodes' witnesses."""
        lines = self.ctl("get", prefix, "--prefix").splitlines()
        told = zip(lines[::2], lines[1::2], strict=True)
        return {key: json.loads(value) for key, value in told if "/witness/" not in key}

    def _client(self) -> list[str]:
        if not self.secure:
            return [f"--endpoints={self.endpoint}"]
        known = certificates()
        files = (("cacert", known.authority.certificate), ("cert", known.client.certificate), ("key", known.client.key))
        return [f"--endpoints={self.endpoint}", *(f"--{name}={path}" for name, path in files)]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            self.ctl("get", "is-it-there")
        except AssertionError:
            return False
        return True


@contextmanager
def three_members() -> Iterator[list[EtcdServer]]:
    """An etcd with three members, one of which may fail."""
    members = [EtcdServer(durable=False) for _ in range(3)]
    with ExitStack() as stack:
        for one in members:
            one.members = members
            stack.callback(one.end)
            one.start(wait=False)
        for one in members:
            one.await_answer()
        yield members


@functools.cache
def member() -> Identity:
    """The server's certificate, for a member whose JSON gateway is its own client."""
    usage = "extendedKeyUsage=serverAuth,clientAuth"
    return certificates().authority._signed("member", "/CN=member", "subjectAltName=IP:127.0.0.1", usage)


def free_port() -> int:
    """A port without a listener. The kernel does not assign it again soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
