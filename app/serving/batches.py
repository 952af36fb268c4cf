"""Batches of requests that may wait: files in, files out, in the form of OpenAI's ``/v1/files`` and ``/v1/batches``.

Each fact of a batch is a file that is written once, whole, by one writer: what was asked (the gateway), that it shall
be given up (the gateway), answers part by part and how it ended (the job). What a batch's status is follows from them.
Guarantees: a killed job loses no answer that was written, and goes on after the last; a batch ends once; an owner sees
its own files and batches only. Not guaranteed: that two jobs on one batch at once answer a line once; the second's
answers take the first's place.
"""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.clock import utc_now
from app.core.errors import UsageError
from app.core.files import replace_text
from app.core.workspace import Workspace
from app.serving.errors import ApiError, invalid
from app.serving.schema import whole

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MAX_LINES = 50_000
"""As OpenAI has it."""
WINDOWS_S = {"24h": 24 * 3600}
ASKED, CANCELLED, ENDED, ABOUT, CONTENT, PARTS = "asked.json", "cancel", "ended.json", "about.json", "content", "parts"
ENDS = ("completed", "failed", "expired", "cancelled")
MAX_ERRORS = 100
"""Faulty lines that a refused batch names."""


class NoBatch(UsageError):
    """No batch has this id: name one that `/v1/batches` gave."""


@dataclass(frozen=True)
class Line:
    """One request of a batch: its place in the file, what the client calls it, its body."""

    number: int
    custom_id: str
    body: dict[str, Any]


class Batches:
    """Files and batches of a workspace, as one owner sees them: the digest of its key, empty for who shows none."""

    def __init__(self, workspace: Workspace, owner: str = "") -> None:
        self._workspace, self._owner = workspace, owner
        self._files, self._batches = (workspace.batches_dir / name for name in ("files", "batches"))

    def add_file(self, name: str, content: bytes, *, purpose: str = "batch") -> dict[str, Any]:
        """Keep a file; its description comes back."""
        file_id = f"file-{secrets.token_hex(12)}"
        about = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": _now_s(),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        folder = self._files / file_id
        folder.mkdir(parents=True)
        (folder / CONTENT).write_bytes(content)
        replace_text(folder / ABOUT, json.dumps({**about, "owner": self._owner}))
        return about

    def file(self, file_id: str) -> dict[str, Any]:
        """A file's description; ApiError 404 when this owner has no such file."""
        return self._about(self._files, file_id, ABOUT, "file")

    def content(self, file_id: str) -> bytes:
        """What a file holds."""
        self.file(file_id)
        return (self._files / file_id / CONTENT).read_bytes()

    def remove_file(self, file_id: str) -> dict[str, Any]:
        """Remove a file; batches that read it have their own copy."""
        self.file(file_id)
        shutil.rmtree(self._files / file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    def files(self) -> list[dict[str, Any]]:
        """Files, newest first."""
        return [self.file(each) for each in self._owned(self._files, ABOUT)]

    def begin(self, *, file_id: str, endpoint: str, window: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Take a batch on; one whose file is faulty has failed at once, and says where.

        Raises:
            ApiError: the endpoint or the window is none that batches have, or there is no such file.
        """
        if endpoint not in ENDPOINTS:
            raise invalid(f"batches answer {' and '.join(ENDPOINTS)}, not {endpoint}", param="endpoint")
        if window not in WINDOWS_S:
            raise invalid(f"the window must be one of {', '.join(WINDOWS_S)}", param="completion_window")
        content = self.content(file_id)
        lines, errors = read_lines(content, endpoint)
        batch_id, now_s = f"batch_{secrets.token_hex(12)}", _now_s()
        asked = {
            "id": batch_id,
            "endpoint": endpoint,
            "input_file_id": file_id,
            "completion_window": window,
            "created_at": now_s,
            "expires_at": now_s + WINDOWS_S[window],
            "metadata": dict(metadata),
            "total": len(lines),
            "owner": self._owner,
        }
        folder = self._batches / batch_id
        (folder / PARTS).mkdir(parents=True)
        (folder / CONTENT).write_bytes(content)
        replace_text(folder / ASKED, json.dumps(asked))
        if errors:
            self.end(batch_id, "failed", errors={"object": "list", "data": errors})
        return self.batch(batch_id)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """A batch as OpenAI describes it; ApiError 404 when this owner has no such batch."""
        asked = self._about(self._batches, batch_id, ASKED, "batch")
        folder, total = self._batches / batch_id, asked.pop("total")
        ended = json.loads((folder / ENDED).read_text()) if (folder / ENDED).exists() else {}
        done = [part_counts(path) for path in (folder / PARTS).glob("*.jsonl")]
        counts = {"total": total, "completed": sum(good for good, _ in done), "failed": sum(bad for _, bad in done)}
        status = "cancelling" if (folder / CANCELLED).exists() else "in_progress" if done else "validating"
        files: dict[str, Any] = {"output_file_id": None, "error_file_id": None, "errors": None}
        return {"object": "batch", **asked, "status": status, **files, **ended, "request_counts": counts}

    def batches(self) -> list[dict[str, Any]]:
        """Batches, newest first."""
        return [self.batch(each) for each in self._owned(self._batches, ASKED)]

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """Ask that a batch be given up; what is answered stays. One that has ended stays as it is."""
        found = self.batch(batch_id)
        if found["status"] not in ENDS:
            (self._batches / batch_id / CANCELLED).touch()
        return self.batch(batch_id)

    def waiting(self) -> list[str]:
        """Batches of all owners that have not ended, oldest first."""
        found = [path.parent for path in self._batches.glob(f"*/{ASKED}") if not (path.parent / ENDED).exists()]
        return [folder.name for folder in sorted(found, key=lambda folder: _said(folder / ASKED)["created_at"])]

    def owner_of(self, batch_id: str) -> "Batches":
        """The same, as the owner of a batch sees it; NoBatch when there is no such batch."""
        path = self._batches / batch_id / ASKED
        if not path.is_file():
            raise NoBatch(
                f"there is no batch {batch_id!r} in this workspace: leave --batch out to answer all that wait"
            )
        return Batches(self._workspace, str(_said(path)["owner"]))

    @property
    def owner(self) -> str:
        """Digest of the owner's key."""
        return self._owner

    def unanswered(self, batch_id: str) -> list[Line]:
        """Lines that no part answers yet, in the file's order."""
        folder = self._batches / batch_id
        lines, _ = read_lines((folder / CONTENT).read_bytes(), _said(folder / ASKED)["endpoint"])
        answered = {answer["number"] for answer in self.answers(batch_id)}
        return [line for line in lines if line.number not in answered]

    def given_up(self, batch_id: str) -> str:
        """Why a batch shall not go on: ``cancelled``, ``expired``, or nothing."""
        if (self._batches / batch_id / CANCELLED).exists():
            return "cancelled"
        return "expired" if _now_s() > _said(self._batches / batch_id / ASKED)["expires_at"] else ""

    def write_part(self, batch_id: str, answers: Sequence[Mapping[str, Any]]) -> None:
        """Keep the answers of some lines, all or none."""
        if not answers:
            return
        good = sum(answer["response"]["status_code"] == 200 for answer in answers)
        name = f"{answers[0]['number']:06d}-{good}-{len(answers) - good}.jsonl"
        text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        replace_text(self._batches / batch_id / PARTS / name, text)

    def answers(self, batch_id: str) -> Iterator[dict[str, Any]]:
        """Answers that were written, in the file's order."""
        for path in sorted((self._batches / batch_id / PARTS).glob("*.jsonl")):
            yield from map(json.loads, filter(None, path.read_text().split("\n")))

    def finish(self, batch_id: str) -> dict[str, Any]:
        """Put the answers together and end the batch: completed, or given up for the reason that there is."""
        reason = self.given_up(batch_id)
        left = self.unanswered(batch_id)
        answers = sorted(self.answers(batch_id), key=lambda answer: answer["number"])
        good = [answer for answer in answers if answer["response"]["status_code"] == 200]
        bad = [answer for answer in answers if answer["response"]["status_code"] != 200]
        bad += [_unmet(line, reason or "failed") for line in left]
        files = {
            label: self.add_file(f"{batch_id}_{label}.jsonl", _jsonl(rows), purpose="batch_output")["id"]
            for label, rows in (("output", good), ("error", bad))
            if rows
        }
        named = {"output_file_id": files.get("output"), "error_file_id": files.get("error")}
        return self.end(batch_id, reason if left and reason else "completed", **named)

    def end(self, batch_id: str, status: str, **more: Any) -> dict[str, Any]:
        """Note how a batch ended."""
        ended = {"status": status, f"{status}_at": _now_s(), **more}
        replace_text(self._batches / batch_id / ENDED, json.dumps(ended))
        return self.batch(batch_id)

    def _about(self, root: Path, name: str, file: str, what: str) -> dict[str, Any]:
        path = root / name / file
        known = name.replace("-", "").replace("_", "").isalnum() and path.exists()
        about = _said(path) if known else {"owner": None}
        if about.pop("owner") != self._owner:
            message = f"there is no {what} {name!r} of yours: list them with GET /v1/{what.removesuffix('h')}"
            raise ApiError(message + ("es" if what == "batch" else "s"), status=404, kind="invalid_request_error")
        return about

    def _owned(self, root: Path, file: str) -> list[str]:
        found = [(path.parent.name, _said(path)) for path in root.glob(f"*/{file}")]
        mine = [(about["created_at"], name) for name, about in found if about["owner"] == self._owner]
        return [name for _, name in sorted(mine, reverse=True)]


def read_lines(content: bytes, endpoint: str) -> tuple[list[Line], list[dict[str, Any]]]:
    """The requests of a batch's file, and what is wrong with it, line by line, as OpenAI says it."""
    lines, errors, seen = list[Line](), list[dict[str, Any]](), set[str]()
    for number, text in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
        if not text.strip():
            continue
        line, fault = _read_line(text, number, endpoint, seen)
        if fault:
            errors.append({"code": "invalid_line", "message": fault, "param": None, "line": number})
        elif line:
            seen.add(line.custom_id)
            lines.append(line)
    if not lines and not errors:
        errors.append({"code": "empty_file", "message": "the file holds no requests", "param": None, "line": None})
    if len(lines) > MAX_LINES:
        message = f"the file holds {len(lines)} requests: send at most {MAX_LINES} in one"
        errors.append({"code": "too_many_requests", "message": message, "param": None, "line": None})
    return lines, errors[:MAX_ERRORS]


def _read_line(text: str, number: int, endpoint: str, seen: set[str]) -> tuple[Line | None, str]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None, "this is not JSON: write one object a line"
    if not isinstance(row, dict) or not isinstance(row.get("body"), dict) or not isinstance(row.get("custom_id"), str):
        return None, "a line needs custom_id, method, url and body"
    if (row.get("method"), row.get("url")) != ("POST", endpoint):
        return None, f"method and url must be POST {endpoint}, as the batch says"
    if row["custom_id"] != whole(row["custom_id"]):
        return None, "the custom_id holds half a character: give it whole ones"
    if row["custom_id"] in seen:
        return None, f"the custom_id {row['custom_id']!r} was there before: give each line its own"
    return Line(number, row["custom_id"], row["body"]), ""


def answered(line: Line, *, status: int, request_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the output: the response with the id that its receipt is found by."""
    response = {"status_code": status, "request_id": request_id, "body": dict(body)}
    return {"id": f"batch_req_{request_id}", "custom_id": line.custom_id, "response": response, "error": None,
            "number": line.number}  # fmt: skip


def part_counts(path: Path) -> tuple[int, int]:
    """Answers and refusals of a part, from its name."""
    _, good, bad = path.stem.split("-")
    return int(good), int(bad)


def _unmet(line: Line, reason: str) -> dict[str, Any]:
    message = f"this request was not answered before the batch {reason}"
    error = {"code": f"batch_{reason}", "message": message}
    return {"id": f"batch_req_{line.number}", "custom_id": line.custom_id, "response": None, "error": error}


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    kept = ({name: value for name, value in row.items() if name != "number"} for row in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()


def _said(path: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(path.read_text())
    return said


def _now_s() -> int:
    return int(utc_now().timestamp())
