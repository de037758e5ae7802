"""Runs in the guest: starts programs, runs Python code and moves files for the host, any number of them at a time.

It has one thread, so that `fork` is safe. The modules named on the command line are imported once, and Python code from
the host runs in a child that inherits them (importing pyroute2 takes 1.4 s under emulation). Output goes to memory
files instead of pipes, so a program that leaves a background process behind blocks nothing.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from types import CodeType

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from frames import PORT, Frames, Head, frame

OUTPUTS = ("out", "err")


def find_port(name: str = PORT) -> str:
    """The device file of the port. Without udev there are no links by name."""
    # A port without a name, like that of the console, has no such file; the order of the ports is not fixed.
    for file in Path("/sys/class/virtio-ports").glob("*/name"):
        if file.read_text().strip() == name:
            return f"/dev/{file.parent.name}"
    raise FileNotFoundError(f"no virtio port {name}")


def memory_file(name: str, content: bytes = b"") -> int:
    fd = os.memfd_create(name)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def contents(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


class Job:
    """A child and its output so far. It has its own session, so that a signal reaches all processes that it started."""

    def __init__(self, request: Head, stdin: bytes) -> None:
        self.id = request["id"]
        self.files = [memory_file(name, stdin if name == "in" else b"") for name in ("in", *OUTPUTS)]
        self.started = time.monotonic()
        start = start_python if request["op"] == "python" else start_program
        self.pid = start(request, self.files)
        self.pidfd = os.pidfd_open(self.pid)

    def outputs(self) -> list[bytes]:
        return [contents(fd) for fd in self.files[1:]]

    def finish(self) -> tuple[int, float]:
        """Its exit code (minus the signal's number if a signal ended it), and its duration."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), time.monotonic() - self.started

    def close(self) -> None:
        for fd in (*self.files, self.pidfd):
            os.close(fd)


def start_program(request: Head, files: list[int]) -> int:
    env = {**os.environ, **request["env"]}
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
    argv = request["argv"]
    # Python ignores SIGPIPE; the programs that the host starts should not.
    return os.posix_spawnp(argv[0], argv, env, file_actions=actions, setsid=True, setsigdef=[signal.SIGPIPE])


@functools.cache
def compiled(code: str) -> CodeType | SyntaxError:
    """Compiles code once for all children, because the host sends the same code again and again."""
    try:
        return compile(code, "<host>", "exec")
    except SyntaxError as error:
        return error


def start_python(request: Head, files: list[int]) -> int:
    program = compiled(request["code"])
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for number, fd in enumerate(files):
            os.dup2(fd, number)
        os.environ.update(request["env"])
        if isinstance(program, SyntaxError):
            raise program
        exec(program, {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Agent:
    def __init__(self, port: int) -> None:
        self.port = port
        self.frames = Frames()
        self.jobs: dict[int, Job] = {}
        self.waiting = select.poll()
        self.waiting.register(port, select.POLLIN)

    def say(self, head: Head, *bodies: bytes) -> None:
        data = memoryview(frame(head, b"".join(bodies)))
        while data:
            data = data[os.write(self.port, data) :]

    def serve(self) -> None:
        """Serves requests until the host closes the connection."""
        while True:
            for fd, _ in self.waiting.poll():
                if fd != self.port:
                    self.report(next(job for job in self.jobs.values() if job.pidfd == fd))
                elif not self.receive():
                    return

    def receive(self) -> bool:
        data = os.read(self.port, 1 << 20)
        for head, body in self.frames.feed(data):
            try:
                self.answer(head, body)
            except Exception as error:
                self.say({"id": head["id"], "event": "refused", "error": f"{type(error).__name__}: {error}"})
        return bool(data)

    def answer(self, head: Head, body: bytes) -> None:
        match head["op"]:
            case "run" | "python":
                self.start(head, body)
            case "signal":
                self.signal(self.jobs.get(head["job"]), head["signal"])
                self.say({"id": head["id"], "event": "done"})
            case "output":
                self.show(head["id"], self.jobs.get(head["job"]))
            case "put":
                self.put(Path(head["path"]), head["mode"], body)
                self.say({"id": head["id"], "event": "done"})
            case "get":
                self.say({"id": head["id"], "event": "done"}, Path(head["path"]).read_bytes())

    def start(self, head: Head, stdin: bytes) -> None:
        job = Job(head, stdin)
        self.jobs[job.id] = job
        self.waiting.register(job.pidfd, select.POLLIN)
        self.say({"id": job.id, "event": "started", "pid": job.pid})

    def report(self, job: Job) -> None:
        self.waiting.unregister(job.pidfd)
        rc, seconds = job.finish()
        outputs = job.outputs()
        self.say({"id": job.id, "event": "exited", "rc": rc, "seconds": seconds, "out": len(outputs[0])}, *outputs)
        del self.jobs[job.id]
        job.close()

    def show(self, request: int, job: Job | None) -> None:
        """Sends no `out` if the job has ended: the host already has its report, since responses keep their order."""
        outputs = job.outputs() if job else []
        sizes = {"out": len(outputs[0])} if job else {}
        self.say({"id": request, "event": "done", **sizes}, *outputs)

    def signal(self, job: Job | None, number: int) -> None:
        if job:  # not yet waited for, so that the number is still its own
            os.killpg(job.pid, number)

    def put(self, path: Path, mode: int, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # A collection in a child would touch, and so copy, every page that it shares with this process.
    gc.disable()
    agent = Agent(os.open(find_port(), os.O_RDWR | os.O_CLOEXEC))
    agent.say({"id": 0, "event": "hello", "uptime": float(Path("/proc/uptime").read_text().split()[0])})
    agent.serve()


if __name__ == "__main__":
    main()
