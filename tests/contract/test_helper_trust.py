"""A helper's children trust and present exactly the credentials that are on disk at the time of their call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.apiserver import ApiServer
from tests.kube.authority import certificates
from tests.kube.routes import RIGHTS

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys, time
import cni.helper.start
from cni.errors import CniError
from cni.helper import libraries, warm
from cni.kube.config import open_cluster
from cni.kube.connection import Connection
from tests.trusting import ACCESS
warm.load_all()
libraries.prepare()
for path in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            with Connection(open_cluster(path.strip(), ACCESS), time.monotonic() + 20) as connection:
                text = str(connection.ask("GET", "/api/v1/nodes/none")[0])
        except CniError as error:
            text = error.msg
        os.write(1, text.encode() + b"\\n")
        os._exit(0)
    os.waitpid(pid, 0)
"""


class Parent:
    """A process that has loaded all that a helper loads, and forks a child for each request."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, kubeconfig: Path) -> str:
        """The status of a child's request, or its error."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kubeconfig}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.end()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        api.rights = RIGHTS | {("get", "nodes")}
        yield api


def kubeconfig(api: ApiServer, path: Path, authority: Path, **user: str) -> Path:
    return api.kubeconfig(
        path,
        user=user or None,
        cluster={"certificate-authority-data": "", "certificate-authority": str(authority)},
    )


def test_an_authority_that_is_replaced_on_disk_is_not_trusted_by_the_next_call(api, parent, tmp_path):
    authority = tmp_path / "ca.crt"
    shutil.copy(certificates().authority.certificate, authority)
    path = kubeconfig(api, tmp_path / "kubeconfig", authority)
    assert parent.ask(path) == "404"
    before = authority.stat()
    shutil.copy(certificates().stranger.certificate, authority)
    # A cache that compares only the time of the file would not notice the change.
    os.utime(authority, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "certificate" in parent.ask(path)
    shutil.copy(certificates().authority.certificate, authority)
    assert parent.ask(path) == "404"


def test_the_authority_of_one_network_is_not_trusted_for_another(api, parent, tmp_path):
    trusted = kubeconfig(api, tmp_path / "trusted", certificates().authority.certificate)
    other = kubeconfig(api, tmp_path / "other", certificates().stranger.certificate)
    for _ in range(2):
        assert parent.ask(trusted) == "404"
        assert "certificate" in parent.ask(other)


def test_a_token_that_is_replaced_on_disk_is_presented_by_the_next_call(api, parent, tmp_path):
    token = tmp_path / "token"
    path = kubeconfig(api, tmp_path / "kubeconfig", certificates().authority.certificate, tokenFile=str(token))
    for text, status in (("old-token", "401"), (api.token, "404"), ("old-token", "401")):
        token.write_text(text)
        assert parent.ask(path) == status


def test_each_call_has_a_connection_of_its_own(api, parent, tmp_path):
    path = kubeconfig(api, tmp_path / "kubeconfig", certificates().authority.certificate)
    for _ in range(3):
        assert parent.ask(path) == "404"
    assert len({request.connection for request in api.requests}) == 3
