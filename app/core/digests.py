"""Digests and the canonical JSON that they are taken over.

A digest is the string ``sha256:`` followed by 64 lower-case hex digits. Canonical JSON is RFC 8785 (JCS), so that two
programs that hold the same value get the same bytes.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

import rfc8785

PREFIX = "sha256:"
READ_BYTES = 1 << 20


def canonical_json(value: object) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        rfc8785.CanonicalizationError: the value is not JSON (a set, a NaN, an integer beyond 2**53).
    """
    return rfc8785.dumps(value)  # type: ignore[arg-type]


def digest_bytes(data: bytes) -> str:
    """Digest of some bytes."""
    return PREFIX + hashlib.sha256(data).hexdigest()


def digest_json(value: object) -> str:
    """Digest of a JSON value, over its canonical form."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """Digest of a file's bytes, read in blocks of 1 MiB."""
    with path.open("rb") as file:
        return digest_stream(file)


def digest_stream(stream: BinaryIO) -> str:
    """Digest of what is left to read of a stream."""
    hasher = hashlib.sha256()
    while block := stream.read(READ_BYTES):
        hasher.update(block)
    return PREFIX + hasher.hexdigest()


def hex_of(digest: str) -> str:
    """The 64 hex digits of a digest.

    Raises:
        ValueError: the string is not a digest.
    """
    digits = digest.removeprefix(PREFIX)
    if len(digits) != 64 or digits == digest or set(digits) - set("0123456789abcdef"):
        raise ValueError(f"{digest!r} is not a digest: write sha256: and 64 hex digits")
    return digits
