"""What the synthesis stage publishes: the columns of its rows, facts and rejects."""

import pyarrow as pa

ROWS = pa.schema(
    {
        "row_id": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "answers": pa.list_(pa.string()),
        "subject": pa.string(),
        "attribute": pa.string(),
        "chunk_id": pa.string(),
        "document_id": pa.string(),
        "source": pa.string(),
        "method": pa.string(),
        "template": pa.string(),
        "seed": pa.int64(),
        "split": pa.string(),
    }
)
"""`row_id` is the digest of question, answer, chunk and split; `method` is how the fact was read; `split` is
train, calibration or heldout."""

REJECTS = pa.schema({"chunk_id": pa.string(), "reason": pa.string()})
"""A chunk, or a fact of it, that gave no rows, and why."""

FACTS = pa.schema(
    {name: pa.string() for name in ("subject", "attribute", "value", "method", "chunk_id", "document_id", "source")}
)
"""A fact on its way between the two passes; not published."""
