"""Names and columns of the tables that one stage publishes and another reads: the contract between them.

What only one stage knows of stands in that stage's own ``schema.py``.
"""

import pyarrow as pa

DOCUMENTS_FILE = "documents.parquet"
CHUNKS_FILE = "chunks.parquet"
ROWS_FILE = "rows.parquet"
"""Synthetic rows, questions of a suite, or an evaluation's outcomes: a row for each question."""
PARENTS_FILE = "parents.parquet"
"""The larger pieces that a dataset's chunks are cut from, to read around a chunk that was found."""
INDEX_FILE = "index.faiss"
"""The vectors of ``CHUNKS_FILE`` in the same folder, in its order; a long chunk has several."""
WINDOWS_FILE = "windows.parquet"
"""The ``row`` of ``CHUNKS_FILE`` that each vector belongs to, ascending; without it, every chunk has one vector."""
LEXICAL_FOLDER = "lexical"
"""BM25 over the same chunks; an index without it gets it from its chunk table when it is opened."""
LEARNT_FILE = "learnt.npz"
"""What BM25 learnt of questions, in a retriever and in every index that was built with it."""
SHARDS_FILE = "shards.json"
"""The folders in which a divided index holds the files named above, and the number of the first row of each."""
REJECTS_FILE = "rejects.parquet"
"""What did not make it into the version, each with its reason."""

CHUNKS = pa.schema(
    [
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("heading_path", pa.list_(pa.string()), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""Rows of ``CHUNKS_FILE``, in a dataset and beside an index alike."""
DATASET_CHUNKS = pa.schema(
    [
        *CHUNKS,
        pa.field("language", pa.string()),
        pa.field("parent", pa.int64(), nullable=False),
        pa.field("page_start", pa.int64()),
        pa.field("page_end", pa.int64()),
        pa.field("char_start", pa.int64(), nullable=False),
        pa.field("char_end", pa.int64(), nullable=False),
        pa.field("header_start", pa.int64()),
        pa.field("header_end", pa.int64()),
    ]
)
"""Rows of ``CHUNKS_FILE`` in a dataset that was ingested: with the ordinal of its parent among its document's rows of
``PARENTS_FILE``, its first and last page, and its characters in the document's text, which is that of its parents in
order with a blank line between. Where a chunk goes on with a table that was cut, the table's header stands before it:
``header_start`` to ``header_end``, then a line feed, then ``char_start`` to ``char_end`` make its text."""
