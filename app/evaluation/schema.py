"""What the evaluation stage publishes: a row per question."""

import pyarrow as pa

METRICS = ("exact_match", "token_f1", "contains")
"""Columns of `rows.parquet` that are outcomes between 0 and 1, and facts of the version with intervals."""

ROWS = pa.schema(
    {
        "question_id": pa.string(),
        "question": pa.string(),
        "answers": pa.list_(pa.string()),
        "subject": pa.string(),
        "prediction": pa.string(),
        "confidence": pa.float64(),
        "num_tokens": pa.int64(),
        "finish_reason": pa.string(),
        **dict.fromkeys(METRICS, pa.float64()),
    }
)
"""`confidence` is the mean probability (geometric) of the answer's tokens; null where the answerer gives none."""

ANSWERS = pa.schema(
    {
        "question_id": pa.string(),
        "prediction": pa.string(),
        "confidence": pa.float64(),
        "num_tokens": pa.int64(),
        "finish_reason": pa.string(),
        "seconds": pa.float64(),
        "num_passages": pa.int64(),
        "num_dropped": pa.int64(),
    }
)
"""What an actor gives back; `seconds` is its batch's time divided by the batch's questions, `num_passages` those that
stood in the prompt, and `num_dropped` those that the model's context had no room for."""
