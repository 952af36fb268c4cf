"""Checkpoints as C2SP signed notes: origin, size and root in three lines, then one line per signature.

Sources: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint.
Guarantees: ``read_checkpoint`` returns only what a known key signed, byte for byte; signatures by other keys
(witnesses) are kept, not refused. Not guaranteed: that the checkpoint is the newest one.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.core.errors import SignalboxError
from app.ledger.keys import Signer, Verifier

SIGNATURE_LINE = re.compile(r"\u2014 (\S+) (\S+)")


class BadNote(SignalboxError):
    """A checkpoint is damaged or not signed by the log's key: restore it, or treat the log as tampered with."""


class NotSigned(BadNote):
    """A note is whole, but none of the keys that were named has signed it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a log commits to: its name, its number of leaves and their Merkle root."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def from_text(cls, text: str) -> "Checkpoint":
        lines = text.split("\n")
        if len(lines) < 4 or not lines[0] or not re.fullmatch(r"0|[1-9][0-9]*", lines[1]):
            raise BadNote("the checkpoint does not begin with origin, size and root: restore it from a backup")
        root = decode_base64(lines[2])
        if root is None or len(root) != 32:
            raise BadNote("the checkpoint's root is not 32 bytes in base64: restore it from a backup")
        return cls(origin=lines[0], size=int(lines[1]), root=root)


def sign_note(text: str, signer: Signer) -> str:
    """``text`` (ending in a newline), a blank line, and the signer's signature line."""
    return f"{text}\n{signature_line(text, signer)}"


def signature_line(text: str, signer: Signer) -> str:
    """One signature over a note's text; a witness appends its own to a note that others signed."""
    public = signer.public
    encoded = base64.b64encode(public.key_id + signer.sign(text.encode())).decode()
    return f"\u2014 {public.key_name} {encoded}\n"


def open_note(note: str, verifiers: Sequence[Verifier]) -> tuple[str, list[Verifier]]:
    """The note's text and those of ``verifiers`` that signed it.

    Raises:
        NotSigned: none of ``verifiers`` signed.
        BadNote: the form is wrong, or a signature that claims to be by one does not hold.
    """
    text, lines = split_note(note)
    known = {(verifier.key_name, verifier.key_id): verifier for verifier in verifiers}
    signed = [_checked(line, text, known) for line in lines]
    found = [verifier for verifier in signed if verifier]
    if not found:
        names = ", ".join(sorted(verifier.key_name for verifier in verifiers)) or "any known key"
        raise NotSigned(f"the note is not signed by {names}: restore it, or treat the log as tampered with")
    return text, found


def split_note(note: str) -> tuple[str, list[str]]:
    """What is signed, and the signature lines without their newlines; BadNote when there is no such block."""
    text, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise BadNote("the note has no signature block: restore it from a backup")
    return text + "\n", tail[:-1].split("\n")


def read_checkpoint(note: str, verifiers: Sequence[Verifier]) -> Checkpoint:
    """The checkpoint of a signed note; BadNote as for ``open_note``."""
    return Checkpoint.from_text(open_note(note, verifiers)[0])


def _checked(line: str, text: str, known: dict[tuple[str, bytes], Verifier]) -> Verifier | None:
    match = SIGNATURE_LINE.fullmatch(line)
    body = decode_base64(match[2]) if match else None
    if match is None or body is None or len(body) < 5:
        raise BadNote(f"the note has a damaged signature line {line[:60]!r}: restore it from a backup")
    verifier = known.get((match[1], body[:4]))
    if verifier and not verifier.verify(body[4:], text.encode()):
        raise BadNote(f"the signature by {match[1]} does not hold: restore the note, or treat the log as tampered with")
    return verifier


def decode_base64(encoded: str) -> bytes | None:
    """Bytes of base64 in its one canonical spelling; None for anything else."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data).decode() == encoded else None
