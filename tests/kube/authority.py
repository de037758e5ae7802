"""Certificates for the tests' API servers and their clients, made with `openssl`; they are valid for a day."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS = 30
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Identity(NamedTuple):
    """A certificate and its key, two files in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; clients trust the file `certificate`."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        self._folder = folder
        self._number = 0
        self._own = self._made("authority", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign")
        self.certificate = self._own.certificate

    def server(self, *names: str) -> Identity:
        """A certificate for a server of these names: `DNS:...` or `IP:...`."""
        return self._signed("server", "/CN=server", f"subjectAltName={','.join(names)}", "extendedKeyUsage=serverAuth")

    def client(self, user: str, group: str = "system:nodes") -> Identity:
        """A certificate for a user of Kubernetes."""
        return self._signed("client", f"/O={group}/CN={user}", "extendedKeyUsage=clientAuth")

    def _signed(self, stem: str, subject: str, *extensions: str) -> Identity:
        self._number += 1
        added = [part for extension in (*extensions, "basicConstraints=CA:FALSE") for part in ("-addext", extension)]
        signer = ("-CA", str(self._own.certificate), "-CAkey", str(self._own.key))
        return self._made(f"{stem}-{self._number}", subject, *added, *signer)

    def _made(self, stem: str, subject: str, *options: str) -> Identity:
        made = Identity(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        files = ("-out", str(made.certificate), "-keyout", str(made.key))
        command = ["openssl", "req", "-x509", *_KEY, "-days", "1", "-subj", subject, *files, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return made


class Certificates(NamedTuple):
    """The certificates that all servers of a test run share. `stranger` is signed by an untrusted authority."""

    authority: Authority
    server: Identity
    client: Identity
    stranger: Identity
    folder: tempfile.TemporaryDirectory[str]


SERVER_NAMES = ("IP:127.0.0.1", "IP:::1", "DNS:localhost", "DNS:kubernetes.default.svc")


@functools.cache
def certificates() -> Certificates:
    """Made once; the folder is removed when the interpreter ends."""
    folder = tempfile.TemporaryDirectory(prefix="kube-", ignore_cleanup_errors=True)
    inside, outside = Path(folder.name), Path(folder.name) / "stranger"
    outside.mkdir()
    ours, theirs = Authority(inside), Authority(outside, "stranger")
    return Certificates(ours, ours.server(*SERVER_NAMES), ours.client("node-1"), theirs.server(*SERVER_NAMES), folder)
