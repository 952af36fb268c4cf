"""An index in one piece or in shards: candidates are asked of every part and gathered, so that the ranking is the same.

A shard is a folder with its own vectors, BM25 and chunk table; documents are never divided. How rare a word is, is
counted over all shards when the index is built, and scores are normalised over the candidates of all of them.

Guarantees: with exact vectors (``flat``), hits and scores are those of the same index in one piece, after an erasure,
too; a shard shows no more than a scope allows. Not guaranteed: that a build fits where one shard does (it holds all
vectors and words once). After an erasure, which takes the words of all shards, opening one counts those of all anew,
one shard of a process at a time: build the next version soon.
"""

import json
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from app.registry.tables import CHUNKS_FILE, LEXICAL_FOLDER, SHARDS_FILE
from app.retrieval.filters import PUBLIC, Scope, mask_of
from app.retrieval.fusion import Candidates
from app.retrieval.index import (
    COUNTED,
    IndexBroken,
    Opened,
    build_lexical,
    chunk_table,
    read_index,
    read_settings,
    write_index,
    write_search,
)
from app.retrieval.learnt import Learnt, LearntBroken
from app.retrieval.lexical import WORDS_FILE, Lexical
from app.retrieval.settings import LexicalSettings, SearchSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MASKS_KEPT = 64
COUNTING = threading.Lock()


@dataclass(frozen=True)
class Layout:
    """How an index is divided: the folder of each shard, and the number of its first row."""

    folders: tuple[str, ...] = ("",)
    starts: tuple[int, ...] = (0,)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """What the folder of an index says; one without shards is one part.

        Raises:
            IndexBroken: the file that says so cannot be read.
        """
        path = folder / SHARDS_FILE
        try:
            if not path.is_file():
                return cls()
            said = json.loads(path.read_text())
            return cls(tuple(map(str, said["folders"])), tuple(map(int, said["starts"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise IndexBroken(f"the index in {folder} does not say what its shards are: build it again") from error

    def write(self, folder: Path) -> None:
        """Say so in a folder."""
        (folder / SHARDS_FILE).write_text(json.dumps({"folders": self.folders, "starts": self.starts}))


class Parts(Protocol):
    """All parts of an index, wherever they are."""

    def candidates(
        self, questions: Sequence[str], vectors: "NDArray[np.float32]", num: int, scope: Scope
    ) -> list[list[Candidates]]:
        """Of every part, what it finds for each question."""
        ...

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Chunk rows by their numbers, in that order."""
        ...

    def places(self, column: str) -> dict[str, list[int]]:
        """Numbers of chunk rows by what stands in a column."""
        ...

    def __len__(self) -> int:
        """The number of chunks."""
        ...


class Shard:
    """One part of an index, opened; its rows are numbered from ``start``."""

    def __init__(self, parts: Opened, *, start: int = 0) -> None:
        self.parts, self.start = parts, start
        self._mask = lru_cache(maxsize=MASKS_KEPT)(lambda scope: mask_of(parts.chunks, scope))

    @classmethod
    def open(cls, folder: Path, number: int = 0) -> Self:
        """Open a shard of the index in a folder, by its number.

        Raises:
            IndexBroken: it is not there, or damaged.
        """
        layout = Layout.of(folder)
        with COUNTING:
            (words,) = recounted(folder, layout, [number])
        return cls._of(folder, layout, number, words)

    @classmethod
    def _of(cls, folder: Path, layout: Layout, number: int, words: Lexical | None) -> Self:
        return cls(read_index(folder / layout.folders[number], words=words), start=layout.starts[number])

    @classmethod
    def open_all(cls, folder: Path) -> list[Self]:
        """Open every shard; IndexBroken where one is missing or damaged."""
        layout = Layout.of(folder)
        numbers = range(len(layout.folders))
        words = recounted(folder, layout, numbers)
        return [cls._of(folder, layout, number, each) for number, each in zip(numbers, words, strict=True)]

    def candidates(
        self, questions: Sequence[str], vectors: "NDArray[np.float32]", num: int, scope: Scope = PUBLIC
    ) -> list[Candidates]:
        """What either part finds for each question, ``num`` chunks each, with the scores of all of them."""
        import numpy as np

        parts, mask = self.parts, self._mask(scope)
        results = []
        for question, vector, near in zip(questions, vectors, parts.vectors.nearest(vectors, num, mask), strict=True):
            lexical = parts.lexical.scores(question)
            rows = np.union1d(near, best_places(lexical, num, mask))
            dense, titles = parts.vectors.cosines(vector, rows), parts.titles.scores(question, rows)
            results.append(Candidates(rows + self.start, dense, np.asarray(lexical[rows]), titles))
        return results

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Chunk rows by their numbers."""
        taken: list[dict[str, Any]] = self.parts.chunks.take([row - self.start for row in rows]).to_pylist()
        return taken

    def places(self, column: str) -> dict[str, list[int]]:
        """Numbers of chunk rows by what stands in a column."""
        groups: dict[str, list[int]] = {}
        for place, value in enumerate(self.parts.chunks[column].to_pylist(), start=self.start):
            groups.setdefault(value, []).append(place)
        return groups

    def __len__(self) -> int:
        return len(self.parts.chunks)


class Local:
    """The parts of an index that are all opened here."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self._starts = [shard.start for shard in shards]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open every part; IndexBroken where one is missing or damaged."""
        return cls(Shard.open_all(folder))

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def candidates(
        self, questions: Sequence[str], vectors: "NDArray[np.float32]", num: int, scope: Scope
    ) -> list[list[Candidates]]:
        return [shard.candidates(questions, vectors, num, scope) for shard in self.shards]

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        asked = _by_shard(rows, self._starts)
        return _in_order(rows, asked, [self.shards[number].take(part) for number, part in asked.items()])

    def places(self, column: str) -> dict[str, list[int]]:
        return _together([shard.places(column) for shard in self.shards])

    @property
    def chunk_ids(self) -> list[str]:
        """Of all rows."""
        return [each for shard in self.shards for each in shard.parts.chunks["chunk_id"].to_pylist()]

    def reworded(self, learnt: Learnt | None) -> "Local":
        """The same with BM25 built anew, with what was learnt of questions or without."""
        table = pa.concat_tables([shard.parts.chunks.select(list(COUNTED)) for shard in self.shards])
        words = build_lexical(table, settings=self.shards[0].parts.lexical.settings, learnt=learnt)
        given = [(shard, words.part(shard.start, shard.start + len(shard))) for shard in self.shards]
        return Local([Shard(replace(shard.parts, lexical=part), start=shard.start) for shard, part in given])

    def shares(self, question: str, rows: "NDArray[np.int64]") -> "tuple[NDArray[np.uint64], NDArray[np.float32]]":
        """The codes of a question's terms (t,), and what each adds to BM25's scores of some rows, ascending, (t, n)."""
        import numpy as np

        each = [
            shard.parts.lexical.shares(
                question, rows[(rows >= shard.start) & (rows < shard.start + len(shard))] - shard.start
            )
            for shard in self.shards
        ]
        return each[0][0], np.concatenate([added for _, added in each], axis=1)


Call: TypeAlias = tuple[int, str, tuple[Any, ...]]
"""Number of a shard, name of a method of ``Shard``, its arguments."""


class Scattered:
    """The parts of an index that others hold; every question is asked of all at once."""

    def __init__(self, layout: Layout, scatter: Callable[[Sequence[Call]], list[Any]]) -> None:
        """Take how the index is divided, and what makes calls to its shards; results come back in their order."""
        self._starts, self._scatter = layout.starts, scatter

    def _all(self, method: str, *args: Any) -> list[Any]:
        return self._scatter([(number, method, args) for number in range(len(self._starts))])

    def __len__(self) -> int:
        return sum(self._all("__len__"))

    def candidates(
        self, questions: Sequence[str], vectors: "NDArray[np.float32]", num: int, scope: Scope
    ) -> list[list[Candidates]]:
        return self._all("candidates", questions, vectors, num, scope)

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        asked = _by_shard(rows, self._starts)
        return _in_order(rows, asked, self._scatter([(number, "take", (part,)) for number, part in asked.items()]))

    def places(self, column: str) -> dict[str, list[int]]:
        return _together(self._all("places", column))


def write_shards(
    folder: Path,
    vectors: "NDArray[np.float32]",
    rows: Sequence[Mapping[str, Any]],
    *,
    windows: "NDArray[np.int64]",
    most: int,
    kind: str = "flat",
    lexical: LexicalSettings | None = None,
    search: SearchSettings | None = None,
    learnt: Learnt | None = None,
) -> Layout:
    """Write an index as ``write_index`` does, divided into shards where it has more than ``most`` vectors.

    Raises:
        IndexBroken: a row has no vector, or a vector no row.
    """
    import numpy as np

    words, how = lexical or LexicalSettings(), search or SearchSettings()
    starts = cut_shards([row["document_id"] for row in rows], np.bincount(windows, minlength=len(rows)), most=most)
    if len(starts) == 1:
        write_index(folder, vectors, rows, windows=windows, kind=kind, lexical=words, search=how, learnt=learnt)
        return Layout()
    layout = Layout(tuple(f"shard-{number:04}" for number in range(len(starts))), tuple(starts))
    all_words = build_lexical(chunk_table(rows), settings=words, learnt=learnt)
    for name, start, stop in zip(layout.folders, starts, [*starts[1:], len(rows)], strict=True):
        (folder / name).mkdir()
        first, last = np.searchsorted(windows, [start, stop])
        write_index(
            folder / name,
            vectors[first:last],
            rows[start:stop],
            windows=windows[first:last] - start,
            kind=kind,
            lexical=words,
            search=how,
            words=all_words.part(start, stop),
        )
    layout.write(folder)
    if learnt:
        learnt.write(folder)
    write_search(folder, search=how, lexical=words)
    return layout


def recounted(folder: Path, layout: Layout, numbers: Sequence[int]) -> list[Lexical | None]:
    """BM25 of some shards, its words counted anew over all shards; None for each where no shard lost its own.

    Raises:
        IndexBroken: a shard's chunks are missing or damaged.
    """
    if whole(folder, layout):
        return [None for _ in numbers]
    try:
        tables = [pq.read_table(folder / name / CHUNKS_FILE, columns=list(COUNTED)) for name in layout.folders]
        learnt = Learnt.of_folder(folder)
    except (OSError, ValueError, LearntBroken, pa.ArrowException) as error:
        raise IndexBroken(f"the index in {folder} cannot be opened: build it again") from error
    words = build_lexical(pa.concat_tables(tables), settings=read_settings(folder)[1], learnt=learnt)
    ends = list(accumulate(map(len, tables), initial=0))
    return [words.part(ends[number], ends[number + 1]) for number in numbers]


def whole(folder: Path, layout: Layout) -> bool:
    """Whether every shard has its BM25 still; an index in one piece sees to its own."""
    kept = ((folder / name / LEXICAL_FOLDER / WORDS_FILE).is_file() for name in layout.folders)
    return len(layout.folders) == 1 or all(kept)


def files_of(folder: Path, number: int) -> Callable[[str], bool]:
    """Which files of an index, by their names, one of its shards is opened from."""
    layout = Layout.of(folder)
    own, alone = f"{layout.folders[number]}/", whole(folder, layout)
    return lambda name: "/" not in name or name.startswith(own) or not (alone or Path(name).name != CHUNKS_FILE)


def _by_shard(rows: Sequence[int], starts: Sequence[int]) -> dict[int, list[int]]:
    """Row numbers by the number of the shard that has them."""
    asked: dict[int, list[int]] = {}
    for row in rows:
        asked.setdefault(bisect_right(starts, row) - 1, []).append(row)
    return asked


def _in_order(
    rows: Sequence[int], asked: Mapping[int, list[int]], taken: Sequence[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    known = {
        row: each
        for part, found in zip(asked.values(), taken, strict=True)
        for row, each in zip(part, found, strict=True)
    }
    return [known[row] for row in rows]


def _together(parts: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for part in parts:
        for value, places in part.items():
            groups.setdefault(value, []).extend(places)
    return groups


def gather(found: Sequence[Candidates], num: int) -> Candidates:
    """Of what the parts found for a question, what one index over all of them finds: the best ``num`` by either."""
    import numpy as np

    if len(found) == 1:
        return found[0]
    names = [each.name for each in fields(Candidates)]
    whole = Candidates(**{name: np.concatenate([getattr(each, name) for each in found]) for name in names})
    kept = np.union1d(best_places(whole.dense + 2, num), best_places(whole.lexical, num))
    return Candidates(**{name: getattr(whole, name)[kept] for name in names})


def best_places(
    scores: "NDArray[np.float32]", num: int, mask: "NDArray[np.bool_] | None" = None
) -> "NDArray[np.int64]":
    """Places of the best scores above 0 under a mask, in no order."""
    import numpy as np

    places = np.flatnonzero(scores > 0 if mask is None else (scores > 0) & mask)
    if len(places) <= num:
        return places
    values = scores[places]
    return places[np.argpartition(-values, num - 1)[:num]]


def cut_shards(documents: Sequence[str], sizes: "Sequence[int] | NDArray[np.int64]", *, most: int) -> list[int]:
    """The first row of each shard, so that none holds more than ``most`` vectors, or else a single document.

    Args:
        documents: the document of every row; rows of one stand together.
        sizes: vectors of every row.
    """
    groups: list[list[int]] = []
    for row, (document, size) in enumerate(zip(documents, sizes, strict=True)):
        if groups and documents[row - 1] == document:
            groups[-1][1] += size
        else:
            groups.append([row, size])
    starts, held = [0], 0
    for row, size in groups:
        if held and held + size > most:
            starts.append(row)
            held = 0
        held += size
    return starts
