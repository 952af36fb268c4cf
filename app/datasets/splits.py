"""Rows to splits, by what they say or by the document that they come from.

Guarantees: a row's split depends on the seed and its document, or where it has none on its own content, and on nothing
else: it stays when other rows come or go, and all rows of a document stand on one side. A row that came with a split
keeps it. Not guaranteed: the exact shares; near-duplicates without a document may stand on both sides, the quality
report counts them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from app.core.digests import digest_json, hex_of
from app.datasets.settings import SplitSettings


def split_of(row: Mapping[str, Any], settings: SplitSettings) -> str:
    """The split of a row."""
    if row["split"]:
        return str(row["split"])
    key = ["document", row["document"]] if row["document"] else ["row", row["row_id"]]
    drawn = int(hex_of(digest_json([settings.seed, *key]))[:13], 16) / 16**13
    names = [name for name, share in settings.shares.items() if share]
    totals = accumulate(settings.shares[name] for name in names)
    return next((name for name, total in zip(names, totals, strict=True) if drawn < total), names[-1])


def divided_documents(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Documents whose rows stand in more than one split; only splits that rows came with can do that."""
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["document"]:
            splits[row["document"]].add(row["split"])
    return sorted(document for document, names in splits.items() if len(names) > 1)
