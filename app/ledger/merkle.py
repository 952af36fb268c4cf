"""The Merkle tree of RFC 9162, section 2.1: hashes, roots, inclusion and consistency proofs.

Purpose: everything about the tree that needs no database. Callers store the hash of every complete subtree under its
position ``(level, index)``. Level 0 holds the leaf hashes; node ``(l, i)`` covers ``2**l`` leaves from ``i * 2**l`` on.

Guarantees: a root or proof needs O(log n) stored hashes, and says which before it is computed, so that a caller can
fetch them in one query. Verifiers return False for a wrong proof of any shape; they never raise on hostile input.
Not guaranteed: that stored hashes are right. ``app.ledger.verify`` recomputes them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

Position: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[int, int]
NodeReader: TypeAlias = Callable[[Position], bytes]
Run: TypeAlias = tuple[int, int, list[bytes]]
"""Level, index of the first node, hashes of it and its right neighbours."""

EMPTY_ROOT = hashlib.sha256(b"").digest()


def natural(value: object) -> int:
    """An index or size as a stranger wrote it; ValueError when it is no natural number, were it almost one."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is not a number of leaves")
    return value


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data): a leaf can never pass for an inner node."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def decompose(start: int, end: int) -> list[Position]:
    """The complete subtrees, left to right, that cover leaves ``[start, end)`` of a span that a tree or proof names."""
    positions = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        positions.append((level, start >> level))
        start += 1 << level
    return positions


def fold(hashes: Sequence[bytes]) -> bytes:
    """Combine the subtrees of ``decompose`` into the hash of their span, right to left."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def span_hash(span: Span, read: NodeReader) -> bytes:
    return fold([read(position) for position in decompose(*span)])


def root(size: int, read: NodeReader) -> bytes:
    """Root of the tree over the first ``size`` leaves."""
    return span_hash((0, size), read)


def parents(row: Sequence[bytes]) -> list[bytes]:
    """Hashes of the complete pairs of a level, which are the nodes of the level above."""
    sha256 = hashlib.sha256
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """Root over leaf hashes held in memory: the definition of RFC 9162, 2.1.1, without stored nodes."""
    row = list(leaf_hashes)
    if not row:
        return EMPTY_ROOT
    while len(row) > 1:
        above = parents(row)
        row = above + row[len(above) * 2 :]
    return row[0]


def extend(size: int, leaf_hashes: Sequence[bytes], read: NodeReader) -> tuple[list[Run], bytes]:
    """What appending leaves to ``size`` leaves makes: for each level a run of complete subtrees, and the new root.

    Reads only the right edge of the old tree, each of its nodes once.
    """
    edge = {level: read((level, index)) for level, index in decompose(0, size)}
    runs: list[Run] = []
    level, first, row = 0, size, list(leaf_hashes)
    while row:
        runs.append((level, first, row))
        if first % 2:
            first, row = first - 1, [edge.pop(level), *row]
        if len(row) % 2:
            edge[level] = row[-1]
        level, first, row = level + 1, first // 2, parents(row)
    return runs, fold([edge[each] for each in sorted(edge, reverse=True)])


def grow(size: int, leaf_hashes: Iterable[bytes], read: NodeReader) -> Iterator[tuple[Position, bytes]]:
    """The runs of ``extend`` one by one: every complete subtree, leaves included, with its position."""
    for level, first, row in extend(size, list(leaf_hashes), read)[0]:
        yield from (((level, index), value) for index, value in enumerate(row, start=first))


def _split(size: int) -> int:
    """Largest power of two smaller than ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_spans(index: int, size: int) -> list[Span]:
    """Leaf spans whose hashes are the inclusion proof PATH(index, D[size]), nearest to the leaf first.

    Raises:
        ValueError: the index is not in a tree of that size.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves: ask for an index from 0 to {size - 1}")
    spans: list[Span] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    return spans[::-1]


def consistency_spans(old_size: int, new_size: int) -> list[Span]:
    """Leaf spans whose hashes are the consistency proof PROOF(old_size, D[new_size]); empty for sizes 0 and equal.

    Raises:
        ValueError: ``old_size`` is negative or larger than ``new_size``.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"no proof leads from {old_size} to {new_size} leaves: the older size must be the smaller one")
    if old_size in (0, new_size):
        return []
    spans: list[Span] = []
    start, end, whole = 0, new_size, True
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start, whole = middle, False
    return ([] if whole else [(start, end)]) + spans[::-1]


def inclusion_proof(index: int, size: int, read: NodeReader) -> list[bytes]:
    return [span_hash(span, read) for span in inclusion_spans(index, size)]


def consistency_proof(old_size: int, new_size: int, read: NodeReader) -> list[bytes]:
    return [span_hash(span, read) for span in consistency_spans(old_size, new_size)]


def verify_inclusion(leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` leads from leaf hash ``leaf`` at ``index`` to ``root`` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, result = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if node % 2 or node == last:
            result = node_hash(step, result)
            node, last = _skip_left_edge(node, last)
        else:
            result = node_hash(result, step)
        node, last = node >> 1, last >> 1
    return last == 0 and result == root


def verify_consistency(
    *, old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the tree of ``new_size`` only appends to that of ``old_size`` (RFC 9162, 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    return _consistent(path, old_size - 1, new_size - 1) == (old_root, new_root)


def _consistent(path: list[bytes], node: int, last: int) -> tuple[bytes, bytes] | None:
    """Rebuild both roots from a consistency path; None when the path has the wrong length."""
    while node % 2:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return None
        if node % 2 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            node, last = _skip_left_edge(node, last)
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    return (old, new) if last == 0 else None


def _skip_left_edge(node: int, last: int) -> tuple[int, int]:
    """Climb while the node is a lone right edge that is nobody's right child."""
    while node % 2 == 0 and node:
        node, last = node >> 1, last >> 1
    return node, last
