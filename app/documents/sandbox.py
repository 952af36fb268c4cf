"""Conversion under limits: a child process that a hostile document may hang, crash or fill without harm to the run.

A parent process imports the converter once and forks a child whenever one is needed: at first, after a document that
overstepped a limit or crashed its child, and after ``DOCUMENTS_PER_CHILD``. A child converts one document at a time. It
has limits on time, memory and file size, an empty environment, no open files but its pipe. Messages are JSON with a
bound on their size, so that a child taken over by a document cannot run anything in the caller.

Guarantees: ``convert`` returns or raises ``CannotConvert`` within the time limit plus the start of a child; a child
never outlives its document's time limit by more than a few seconds, even when its caller was killed. Not guaranteed:
isolation from the file system or the network; run the workers in containers where documents are not trusted at all.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from app.documents.errors import CannotConvert, ConverterBroken
from app.documents.read import SourceFile
from app.documents.sections import Converted
from app.documents.settings import LimitSettings

START_TIMEOUT_S = 120.0
DOCUMENTS_PER_CHILD = 200
REPLY_BYTES_PER_CHAR = 8
PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("DOCLING_ARTIFACTS_PATH", "DOCLING_LIBREOFFICE_CMD"),
)
CHILD = "import sys; from app.documents.child import serve; serve(int(sys.argv[1]), sys.argv[2])"
STATUS_BYTES = 8


class Sandbox:
    """A converter process, started when first needed and again after each one that had to be ended."""

    def __init__(self, *, limits: LimitSettings, pdf: str = "native", num_threads: int = 1) -> None:
        self.limits, self.pdf, self.num_threads = limits, pdf, num_threads
        self._parent: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pipe: Connection | None = None
        self._child = self._num_asked = 0
        self._is_ready = False

    def start(self) -> None:
        """Let the converter be imported while the caller does something else; ``wait`` for it, or just convert."""
        if self._control is None or self._parent is None or self._parent.poll() is not None:
            self.close()
            self._control = self._start_parent()

    def wait(self) -> None:
        """Return when a document would be converted at once.

        Raises:
            ConverterBroken: the converter does not start.
        """
        self._started()

    def convert(self, file: SourceFile) -> Converted:
        """Convert one file, whose bytes must still have the digest that they had when it was found.

        Raises:
            CannotConvert: with the reason, whatever the document did.
        """
        return Converted.from_json(self._ask("convert", file))

    def rows(self, file: SourceFile) -> list[bytes]:
        """The rows of a JSON file as lines.

        Raises:
            CannotConvert: with the reason.
        """
        return [str(line).encode() for line in self._ask("rows", file)]

    def close(self) -> None:
        """End the processes, if there are any."""
        self._end_child()
        if self._control is not None:
            self._control.close()
        if self._parent is not None:
            self._parent.kill()
            self._parent.wait()
        self._parent = self._control = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, file: SourceFile) -> Any:
        asked = {"path": os.fspath(file.path), "digest": file.digest, "kind": file.format, "name": file.source}
        pipe = self._started()
        self._num_asked += 1
        try:
            pipe.send_bytes(json.dumps({"what": what, **asked}).encode())
            if not pipe.poll(self.limits.timeout_s):
                self._end_child()
                raise CannotConvert(f"not converted within {self.limits.timeout_s:g} s (documents.limits.timeout_s)")
            reply = json.loads(pipe.recv_bytes(REPLY_BYTES_PER_CHAR * self.limits.text_chars))
        except (EOFError, OSError, ValueError) as error:
            raise CannotConvert(self._end_of_child(error)) from error
        if "ended" in reply:
            self._end_child()
        if "error" in reply:
            raise CannotConvert(str(reply["error"]))
        return reply["result"]

    def _started(self) -> Connection:
        """The pipe to a child that waits for a document."""
        if self._pipe is not None and self._num_asked < DOCUMENTS_PER_CHILD and not self._pipe.poll(0):
            return self._pipe
        self._end_child()
        self.start()
        control = self._imported()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(control, [b"f"], [theirs.fileno()])
            self._child = int.from_bytes(control.recv(STATUS_BYTES), "little")
        except OSError:
            self._child = 0
        self._pipe = Connection(ours.detach())
        if not self._child:
            self.close()
            raise ConverterBroken("the document converter cannot start a process: see that there is memory for it")
        self._num_asked = 0
        return self._pipe

    def _start_parent(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            settings = {"limits": self.limits.model_dump(mode="json"), "pdf": self.pdf}
            self._parent = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(theirs.fileno()), json.dumps(settings)],
                pass_fds=[theirs.fileno()],
                env=child_environment(num_threads=self.num_threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        ours.settimeout(START_TIMEOUT_S)
        self._is_ready = False
        return ours

    def _imported(self) -> socket.socket:
        """The parent's socket, once it has imported the converter."""
        control = self._control
        try:
            self._is_ready = self._is_ready or (control is not None and control.recv(1) == b"r")
        except OSError:
            self._is_ready = False
        if control is None or not self._is_ready:
            self.close()
            raise ConverterBroken(
                "the document converter does not start: reinstall docling-slim as constraints.txt says"
            )
        return control

    def _end_child(self) -> int:
        """End the child, if there is one; how it ended, as ``Popen.returncode`` says it."""
        if self._pipe is not None:
            self._pipe.close()
        status = 0
        if self._child and self._control is not None:
            try:
                self._control.send(b"s")
                status = int.from_bytes(self._control.recv(STATUS_BYTES), "little", signed=True)
            except OSError:
                status = -signal.SIGKILL
        self._pipe, self._child = None, 0
        return status

    def _end_of_child(self, error: Exception) -> str:
        """Why the child ended, in words; it is certain to be gone afterwards."""
        status = self._end_child()
        if isinstance(error, ValueError) or "message length" in str(error):
            return f"the converted text exceeds {self.limits.text_chars} characters (documents.limits.text_chars)"
        if status == -signal.SIGALRM:
            return f"not converted within {self.limits.timeout_s:g} s (documents.limits.timeout_s)"
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"the converter ended with {name} while reading it"


def child_environment(*, num_threads: int) -> dict[str, str]:
    """The child's whole environment: no secrets of the parent's, no network look-ups, explicit threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(num_threads))
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *(entry for entry in sys.path if entry)])
    return kept | threads | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "2", "PYTHONHASHSEED": "0"}
