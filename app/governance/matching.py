"""Which rows an erasure is about: a text that occurs in any of their columns, or an id that descends from such a row.

A subject matches as whole words, whatever its case, its white space and its Unicode normal form, in every text column,
in lists and structures, and in JSON texts. A document matches by its id or its source. What was made from a matching
row follows by its ids: chunk -> synthetic row -> suite question -> outcome, chunk -> answer that cites it, or that a
model gave with it before its eyes -> what was published of that answer. Requests' ids, which callers choose, take rows
made of requests with them and no others.

Not guaranteed: to find a subject by another spelling, an inflected form, or cut in two by the end of a chunk.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from app.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_LETTERS = 3
PRIMARY = ("request_id", "row_id", "question_id", "chunk_id", "parent_id", "document_id")
"""What a table's rows are known by: the first of these that is among its columns."""
MADE = {"judged_by": "question_id", "judged": "row_id", "quality_last": "row_id"}
"""Columns that only a shadow evaluation has, or outcomes, or what a router was judged by: where requests' ids stand."""
LOGGED = ("shadow", "feedback")
"""Sources of outcomes whose ids are requests'."""
RESPONSE, GIVEN, TEXT = "response_json", re.compile(r'"chunk_ids":\s*\[([^\]]*)\]'), re.compile(r'"([^"]+)"')
"""Column of the request log, and where an account in it names the passages that a model was given."""
SPACE = r"(?:\s|\\[nrt])+"
BEFORE, AFTER = r"(?:^|\\[nrt]|[^\pL\pN_])", r"(?:$|[^\pL\pN_])"


class SubjectTooShort(UsageError):
    """A subject of one or two letters is in too many words: give a whole name, address or user id."""


class Matcher:
    """Knows what is to go; ``learn`` adds the ids of what was found, until nothing new turns up."""

    def __init__(self, *, subjects: Sequence[str] = (), documents: Sequence[str] = ()) -> None:
        self._pattern = pattern_of(subjects) if subjects else None
        self._ids: dict[str, set[str]] = {name: set() for name in (*PRIMARY, "question")}
        self._ids |= {"document_id": set(documents), "source": set(documents)}
        self.documents: set[str] = set()
        self.sources: set[str] = set()

    @property
    def num_known(self) -> int:
        """Ids known so far."""
        return sum(map(len, self._ids.values()))

    def rows(self, table: pa.Table) -> "NDArray[np.bool_]":
        """A mask over a table's rows: True for those that are to go."""
        import numpy as np

        mask = np.zeros(table.num_rows, dtype=bool)
        for name in table.column_names:
            if name != "question" or "question_id" in table.column_names or self._pattern:
                mask |= self._hits(_whole(table[name]), name if name != "question" else self._asked(table))
        if RESPONSE in table.column_names and self._ids["chunk_id"]:
            mask |= np.array([self._was_given(said) for said in _whole(table[RESPONSE]).to_pylist()], dtype=bool)
        for name in {MADE[each] for each in table.column_names if each in MADE}:
            hits = self._hits(_whole(table[name]), "request_id")
            if "source" in table.column_names:
                hits &= pc.is_in(_whole(table["source"]), pa.array(LOGGED)).to_numpy(zero_copy_only=False)
            mask |= hits
        return mask

    def text(self, text: str) -> bool:
        """Whether a subject occurs in a text."""
        return bool(self._hits(pa.array([text]), "")[0])

    def _was_given(self, response: str | None) -> bool:
        """Whether a model was given a chunk that goes, by the account in a logged response."""
        listed = " ".join(GIVEN.findall(response or ""))
        return not self._ids["chunk_id"].isdisjoint(TEXT.findall(listed))

    def learn(self, table: pa.Table, mask: "NDArray[np.bool_]") -> None:
        """Remember what the rows under a mask are known by."""
        if MADE.keys() & set(table.column_names):
            return  # nothing descends from these rows, and their ids may be requests'
        found = table.filter(pa.array(mask))
        primary = next((name for name in PRIMARY if name in table.column_names), None)
        if primary:
            self._ids[primary].update(_texts(found, primary))
            self._ids["question_id"] |= self._ids["row_id"] if primary == "row_id" else set()
        if primary == "row_id" and "question" in table.column_names:
            self._ids["question"].update(_texts(found, "question"))
        if primary in ("chunk_id", "document_id") and "source" in table.column_names:
            self.documents.update(_texts(found, "document_id"))
            self.sources.update(_texts(found, "source"))

    def _asked(self, table: pa.Table) -> str:
        """Questions are ids of a kind where a table holds a suite's questions or their outcomes."""
        return "question" if "question_id" in table.column_names else ""

    def _hits(self, array: pa.Array, name: str) -> "NDArray[np.bool_]":
        import numpy as np

        mask = np.zeros(len(array), dtype=bool)
        if pa.types.is_dictionary(array.type):
            return self._hits(array.dictionary_decode(), name)
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            inner = self._hits(array.flatten(), name)
            mask[pc.list_parent_indices(array).to_numpy(zero_copy_only=False)[inner]] = True
        elif pa.types.is_struct(array.type):
            for field, values in zip(array.type, array.flatten(), strict=True):
                mask |= self._hits(values, field.name)
        elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            mask |= self._found(array, name)
        return mask

    def _found(self, array: pa.Array, name: str) -> "NDArray[np.bool_]":
        wanted = self._ids.get(name) or set()
        known = pc.is_in(array, pa.array(sorted(wanted), array.type)).to_numpy(zero_copy_only=False)
        if self._pattern is None:
            return known  # type: ignore[no-any-return]
        said = pc.match_substring_regex(array, self._pattern, ignore_case=True).fill_null(False)
        return known | said.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def pattern_of(subjects: Iterable[str]) -> str:
    """RE2 pattern that finds any of the subjects as whole words, also inside JSON.

    Raises:
        SubjectTooShort: one has fewer than three letters or digits.
    """
    forms = []
    for subject in subjects:
        if sum(letter.isalnum() for letter in subject) < MIN_LETTERS:
            raise SubjectTooShort(f"{subject!r} is in too many texts: give a whole name, address or user id")
        forms += sorted({subject, *(unicodedata.normalize(form, subject) for form in ("NFC", "NFD"))})
    return f"{BEFORE}(?:{'|'.join(map(_words, forms))}){AFTER}"


def _words(subject: str) -> str:
    return SPACE.join(re.escape(word).replace('"', r'\\?"') for word in subject.split())


def _whole(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _texts(table: pa.Table, name: str) -> set[Any]:
    return set(table[name].drop_null().to_pylist()) if name in table.column_names else set()
