"""Which rows a model that goes on learning is shown again. Imports torch only to sort rows into clusters.

Guarantees: what is chosen follows from the rows, the settings and the seed alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Row = Mapping[str, Any]
ReplayBy = Literal["reservoir", "cluster"]
ROWS_PER_CLUSTER = 8
"""Clusters are as many as give each so many of the rows that are kept."""


def divide_for_replay(new: Sequence[Row], old: Sequence[Row], *, withdrawn: bool) -> tuple[list[Row], list[Row]]:
    """Rows to learn and rows to replay, when a model that knows ``old`` is trained on ``new``.

    A fact is (subject, attribute, answer). Facts that old states alike are replayed; a fact whose answer changed is
    learned, and its old answer never shown again; facts that only old states are replayed if ``withdrawn``.
    """
    known, stated = {_fact(row) for row in old}, {_topic(row) for row in new}
    learned = [row for row in new if _fact(row) not in known]
    replayed = [row for row in new if _fact(row) in known]
    if withdrawn:
        replayed += [row for row in old if _topic(row) not in stated]
    return learned, replayed


def _topic(row: Row) -> tuple[str, str]:
    return row["subject"], row["attribute"] or row["question"]


def _fact(row: Row) -> tuple[str, str, str]:
    return *_topic(row), row["answer"]


def remembered(rows: Sequence[Row], *, num_rows: int | None, by: ReplayBy, seed: int) -> list[Row]:
    """At most so many rows, in the order that they came in; all of them without a number.

    Args:
        by: ``reservoir`` keeps each row with equal chance, which is what reservoir sampling leaves of a stream (Vitter,
            ACM TOMS 11, 1985); ``cluster`` keeps as many of each cluster of like questions as of any other, so that
            what is rare is not lost (k-means over the encoder's vectors).
    """
    if num_rows is None or len(rows) <= num_rows:
        return list(rows)
    shuffled = np.random.default_rng([seed, 4]).permutation(len(rows)).tolist()
    if by == "cluster":
        clusters = _clusters(rows, max(1, num_rows // ROWS_PER_CLUSTER), seed=seed)
        shuffled = _in_turn(
            [[place for place in shuffled if clusters[place] == each] for each in sorted(set(clusters))]
        )
    return [rows[place] for place in sorted(shuffled[:num_rows])]


def _in_turn(groups: Sequence[Sequence[int]]) -> list[int]:
    """The first of each group, then the second of each, and so on."""
    longest = max(map(len, groups))
    return [group[n] for n in range(longest) for group in groups if n < len(group)]


def _clusters(rows: Sequence[Row], num: int, *, seed: int) -> list[int]:
    """The cluster of each row, by its question."""
    from sklearn.cluster import KMeans

    from app.inference.encoder import Encoder

    vectors = Encoder().encode([str(row["question"]) for row in rows])
    found = KMeans(n_clusters=num, n_init=1, random_state=seed).fit_predict(vectors)
    return [int(each) for each in found]
