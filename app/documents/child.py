"""The other side of the sandbox: a process that imports the converter once and forks children that convert.

Guarantees: a child has its limits before it sees a byte of a document; it ends when its pipe closes, or by its alarm.
"""

import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from app.core.digests import digest_bytes
from app.documents.errors import CannotConvert
from app.documents.settings import LimitSettings

GRACE_S = 2.0
STATUS_BYTES = 8
OFFICE_BACKENDS = tuple(f"docling.backend.ms{name}_backend" for name in ("word", "powerpoint", "excel"))
UNUSED = {"docling.pipeline.asr_pipeline": "AsrPipeline", "docling.pipeline.video_pipeline": "VideoPipeline"}


def serve(descriptor: int, settings: str) -> None:
    """Fork a child for each ``f`` with the end of a pipe, end the last one for each ``s``, until the socket closes."""
    control = socket.socket(fileno=descriptor)
    values = json.loads(settings)
    limits = LimitSettings(**values["limits"])
    reader = load_reader(limits, values["pdf"])
    gc.collect()
    gc.freeze()
    control.send(b"r")
    child = 0
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if order == b"f":
            child = os.fork()
            if child == 0:
                control.close()
                work(Connection(descriptors[0]), reader, limits)
                os._exit(0)
            os.close(descriptors[0])
            control.send(child.to_bytes(STATUS_BYTES, "little"))
        elif order == b"s":
            control.send(end(child).to_bytes(STATUS_BYTES, "little", signed=True))
        else:
            end(child)
            return


def load_reader(limits: LimitSettings, pdf: str) -> Any:
    """The converter. Without docling's models, what only these need is not imported, which halves time and memory."""
    if pdf != "full":
        _leave_out_models()
    _leave_out_pictures()
    from app.documents.convert import DocumentReader

    return DocumentReader(limits=limits, pdf=pdf)


def _leave_out_models() -> None:
    """Keep torch and the pipelines for sound and video, which cannot be imported without it, out of this process."""
    for name in ("torch", "transformers"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    from docling.pipeline.simple_pipeline import SimplePipeline

    for name, pipeline in UNUSED.items():
        stub = ModuleType(name)
        setattr(stub, pipeline, SimplePipeline)
        sys.modules.setdefault(name, stub)


def _leave_out_pictures() -> None:
    """Nothing of a picture but its place and words is kept: none is drawn by LibreOffice (seconds each) or encoded."""
    from docling_core.types.doc import ImageRef

    ImageRef.from_pil = classmethod(lambda cls, image, dpi: None)
    for name in OFFICE_BACKENDS:
        vars(import_module(name))["get_docx_to_pdf_converter"] = lambda: None


def end(child: int) -> int:
    """How a child ended, as ``Popen.returncode`` says it; a child that lives on after its pipe closed is killed."""
    if not child:
        return 0
    deadline_s = time.monotonic() + GRACE_S / 4
    while time.monotonic() < deadline_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work(pipe: Connection, reader: Any, limits: LimitSettings) -> None:
    """The child: convert what is asked until the pipe closes. A crash is an answer, too: its status is seen."""
    limit(limits)
    sys.excepthook = lambda kind, error, _: _confess(pipe, f"{kind.__name__}: {error}")
    while (request := _next(pipe)) is not None:
        signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + GRACE_S)
        try:
            reply = {"result": answer(request, reader, text_chars=limits.text_chars)}
        except CannotConvert as error:
            reply = {"error": str(error)}
        except MemoryError:
            reply = {"error": f"needs more than {limits.memory_bytes} bytes of memory (documents.limits.memory_bytes)"}
        except RecursionError:
            reply = {"error": "nested too deep"}
        pipe.send_bytes(json.dumps(reply).encode())
        signal.setitimer(signal.ITIMER_REAL, 0)


def _confess(pipe: Connection, fault: str) -> None:
    """The last words of a child that ends by a fault of the converter."""
    error = f"the converter failed: {' '.join(fault.split())[:200]}"
    pipe.send_bytes(json.dumps({"error": error, "ended": True}).encode())


def answer(request: dict[str, Any], reader: Any, *, text_chars: int) -> Any:
    """The reply to one request: a converted document, or the rows of a file.

    Raises:
        CannotConvert: with the reason.
    """
    try:
        data = Path(request["path"]).read_bytes()
    except OSError as error:
        raise CannotConvert(f"cannot be read: {error.strerror}") from error
    if digest_bytes(data) != request["digest"]:
        raise CannotConvert("the file changed while it was being read: ingest again")
    if request["what"] == "rows":
        return _bounded(reader.rows(data, name=request["name"]), lambda rows: sum(map(len, rows)), text_chars)
    converted = reader.convert(data, name=request["name"], kind=request["kind"])
    return _bounded(converted, lambda whole: whole.num_chars, text_chars).to_json()


def limit(limits: LimitSettings) -> None:
    """Let this process take that much more address space than it has now, where the system tells how much that is."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        bound = int(statm.read_text().split()[0]) * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.unpacked_bytes, limits.unpacked_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bounded(value: Any, size: Callable[[Any], int], text_chars: int) -> Any:
    if size(value) > text_chars:
        raise CannotConvert(f"the converted text exceeds {text_chars} characters (documents.limits.text_chars)")
    return value


def _next(pipe: Connection) -> dict[str, Any] | None:
    try:
        request: dict[str, Any] = json.loads(pipe.recv_bytes())
    except EOFError:
        return None
    return request
