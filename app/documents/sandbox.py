"""Conversion under limits: a child process that a hostile document may hang, crash or fill without harm to the run.

The child converts one document after another. It has limits on time and memory, an empty environment, no open files but
its pipe, and is ended and replaced when a document oversteps a limit. Messages are JSON with a bound on their size, so
that a child taken over by a document cannot run anything in the parent.

Guarantees: ``convert`` returns or raises ``CannotConvert`` within the time limit plus the start of a child; a child
never outlives its document's time limit by more than a few seconds, even when its parent was killed. Not guaranteed:
isolation from the file system or the network; run the workers in containers where documents are not trusted at all.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Self

from app.core.digests import digest_bytes
from app.documents.errors import CannotConvert, ConverterBroken
from app.documents.read import SourceFile, unpack_fault
from app.documents.sections import Converted
from app.documents.settings import LimitSettings

START_TIMEOUT_S = 120.0
GRACE_S = 2.0
REPLY_BYTES_PER_CHAR = 8
ZIPPED = ("docx", "pptx", "xlsx")
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
CHILD = "import sys; from app.documents.sandbox import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"


class Sandbox:
    """A converter process, started when first needed and again after each one that had to be ended."""

    def __init__(self, *, limits: LimitSettings, num_threads: int = 1) -> None:
        self.limits, self.num_threads = limits, num_threads
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None

    def convert(self, file: SourceFile) -> Converted:
        """Convert one file, whose bytes must still have the digest that they had when it was found.

        Raises:
            CannotConvert: with the reason, whatever the document did.
        """
        if reason := archive_fault(file, limits=self.limits):
            raise CannotConvert(reason)
        reply = self._ask(
            {"path": os.fspath(file.path), "digest": file.digest, "kind": file.format, "name": file.source}
        )
        if "error" in reply:
            raise CannotConvert(str(reply["error"]))
        return Converted.from_json(reply["converted"])

    def close(self) -> None:
        """End the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        pipe = self._started()
        try:
            pipe.send_bytes(json.dumps(request).encode())
            if not pipe.poll(self.limits.timeout_s):
                self.close()
                raise CannotConvert(f"not converted within {self.limits.timeout_s:g} s (documents.limits.timeout_s)")
            reply: dict[str, Any] = json.loads(pipe.recv_bytes(REPLY_BYTES_PER_CHAR * self.limits.text_chars))
        except (EOFError, OSError, ValueError) as error:
            raise CannotConvert(self._end_of_child(error)) from error
        return reply

    def _started(self) -> "Connection[Any, Any]":
        if self._process is not None and self._pipe is not None and self._process.poll() is None:
            return self._pipe
        self.close()
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-c", CHILD, str(theirs.fileno()), str(self.limits.memory_bytes)]
        environment = child_environment(num_threads=self.num_threads)
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._await_ready(self._pipe)
        return self._pipe

    def _await_ready(self, pipe: "Connection[Any, Any]") -> None:
        pipe.send_bytes(json.dumps({"timeout_s": self.limits.timeout_s, "text_chars": self.limits.text_chars}).encode())
        try:
            ready = pipe.poll(START_TIMEOUT_S) and pipe.recv_bytes() == b"ready"
        except (EOFError, OSError):
            ready = False
        if not ready:
            self.close()
            raise ConverterBroken(
                "the document converter does not start: reinstall docling-slim as constraints.txt says"
            )

    def _end_of_child(self, error: Exception) -> str:
        """Why the child ended, in words; it is certain to be gone afterwards."""
        if isinstance(error, ValueError) or self._process is None:
            self.close()
            return f"the converted text exceeds {self.limits.text_chars} characters (documents.limits.text_chars)"
        try:
            status = self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        self.close()
        if status == -signal.SIGALRM:
            return f"not converted within {self.limits.timeout_s:g} s (documents.limits.timeout_s)"
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"the converter ended with {name} while reading it"


def archive_fault(file: SourceFile, *, limits: LimitSettings) -> str | None:
    """Why a zipped office file is refused by the sizes that it declares, or None."""
    if file.format not in ZIPPED:
        return None
    try:
        with zipfile.ZipFile(file.path) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None  # not a zip: the converter says what it is
    return unpack_fault(file.num_bytes, declared, limits=limits)


def child_environment(*, num_threads: int) -> dict[str, str]:
    """The child's whole environment: no secrets of the parent's, no network look-ups, explicit threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(num_threads))
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *(entry for entry in sys.path if entry)])
    return kept | threads | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0"}


def serve(descriptor: int, memory_bytes: int) -> None:
    """The child: convert what is asked until the pipe closes. A crash is an answer, too: the parent sees the status."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    limits = json.loads(pipe.recv_bytes())
    from app.documents.convert import DocumentReader

    reader = DocumentReader()
    limit_memory(memory_bytes)
    pipe.send_bytes(b"ready")
    while (request := _next(pipe)) is not None:
        signal.setitimer(signal.ITIMER_REAL, limits["timeout_s"] + GRACE_S)
        try:
            reply = answer(request, reader.convert, text_chars=limits["text_chars"])
        except CannotConvert as error:
            reply = {"error": str(error)}
        except MemoryError:
            reply = {"error": f"needs more than {memory_bytes} bytes of memory (documents.limits.memory_bytes)"}
        pipe.send_bytes(json.dumps(reply).encode())
        signal.setitimer(signal.ITIMER_REAL, 0)


def answer(request: dict[str, Any], convert: Callable[..., Converted], *, text_chars: int) -> dict[str, Any]:
    """The reply to one request: ``converted``, or ``error`` with the reason."""
    try:
        data = Path(request["path"]).read_bytes()
    except OSError as error:
        return {"error": f"cannot be read: {error.strerror}"}
    if digest_bytes(data) != request["digest"]:
        return {"error": "the file changed while it was being read: ingest again"}
    converted = convert(data, name=request["name"], kind=request["kind"])
    if converted.num_chars > text_chars:
        return {"error": f"the converted text exceeds {text_chars} characters (documents.limits.text_chars)"}
    return {"converted": converted.to_json()}


def limit_memory(memory_bytes: int) -> None:
    """Let this process take that much more address space than it has now, where the system tells how much that is."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, taken + memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _next(pipe: "Connection[Any, Any]") -> dict[str, Any] | None:
    try:
        request: dict[str, Any] = json.loads(pipe.recv_bytes())
    except EOFError:
        return None
    return request
