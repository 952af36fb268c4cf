"""Digests and the canonical JSON that they are taken over.

A digest is the string ``sha256:`` followed by 64 lower-case hex digits. Canonical JSON is RFC 8785 (JCS), so that two
programs that hold the same value get the same bytes.
"""

import hashlib
from json.encoder import encode_basestring as _quoted
from pathlib import Path
from typing import Any, BinaryIO

import rfc8785

PREFIX = "sha256:"
READ_BYTES = 1 << 20
_SAFE_INTEGER = 2**53 - 1


def canonical_json(value: object) -> bytes:
    """RFC 8785 bytes of a JSON value.

    The bytes are those of the library ``rfc8785``, in less than half its time; whatever is not plain is left to it.

    Raises:
        rfc8785.CanonicalizationError: the value is not JSON (a set, a NaN, an integer beyond 2**53, half a surrogate
            pair).
    """
    try:
        return _canonical(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise rfc8785.CanonicalizationError("half a surrogate pair cannot be written in UTF-8") from error


def _canonical(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is dict:
        fields = []
        for name in _sorted(value):  # no comprehension: a frame for each level, as deep as the library goes
            fields.append(f"{_quoted(name)}:{_canonical(value[name])}")
        return f"{{{','.join(fields)}}}"
    if kind is list or kind is tuple:
        items = []
        for each in value:
            items.append(_canonical(each))
        return f"[{','.join(items)}]"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int and -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
        return str(value)
    said = repr(value) if kind is float else ""
    if "." in said and "e" not in said:
        return said[:-2].replace("-0", "0") if said.endswith(".0") else said
    return rfc8785.dumps(value).decode()


def _sorted(names: dict[str, Any]) -> list[str]:
    """Names by their UTF-16 units, which for ASCII is the order of the letters."""
    try:
        plain = "".join(names).isascii()
    except TypeError as error:
        raise rfc8785.CanonicalizationError("object keys must be strings") from error
    return sorted(names) if plain else sorted(names, key=lambda name: name.encode("utf-16-be", "surrogatepass"))


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
