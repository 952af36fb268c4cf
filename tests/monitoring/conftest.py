"""A release, and a request log with known shifts in it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.core.workspace import Workspace
from app.ledger.batches import write_part
from app.monitoring.settings import MonitorSettings
from app.registry.versions import Registry, Version

START = datetime(2026, 11, 22, 9, tzinfo=UTC)
NUM_DIMENSIONS = 32
Rows = list[dict[str, Any]]


def unit_rows(rng: np.random.Generator, num: int, *, shifted: bool) -> np.ndarray:
    """Embeddings around four subjects, or around two others."""
    centres = np.random.default_rng(7).normal(size=(6, NUM_DIMENSIONS))
    chosen = rng.integers(4, 6, num) if shifted else rng.integers(0, 4, num)
    points = centres[chosen] + 0.6 * rng.normal(size=(num, NUM_DIMENSIONS))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def make_rows(num: int, *, seed: int = 0, shifted: bool = False, first: int = 0, release: str = "") -> Rows:
    """Rows of the request log, one a second from the ``first`` second on."""
    rng = np.random.default_rng(seed)
    good, bad = (4, 6) if shifted else (8, 2)
    return [
        {
            "request_id": f"r{first + number:06}",
            "time": START + timedelta(seconds=first + number),
            "release": release,
            "route": "small" if rng.random() < good / 10 else "extractive",
            "confidence": float(rng.beta(good, bad)),
            "retrieval_score": float(rng.normal(0.4 if shifted else 0.7, 0.08)),
            "num_question_words": int(rng.integers(6, 16)),
            "embedding": embedding.tolist(),
            "request_json": {"model": "signalbox"},
        }
        for number, embedding in enumerate(unit_rows(rng, num, shifted=shifted))
    ]


@pytest.fixture
def settings() -> MonitorSettings:
    """Small windows, for speed."""
    return MonitorSettings(reference_size=120, window_size=40, num_components=4, settle_s=0)


@pytest.fixture
def release(registry: Registry) -> Version:
    """A release, in production by its digest."""
    return registry.publish("release", "signalbox", inputs={"number": 1}, facts={})


@pytest.fixture
def log(workspace: Workspace) -> Callable[[Rows], Path]:
    """Writes rows as one more part of the workspace's request log."""
    workspace.requests_dir.mkdir(parents=True, exist_ok=True)

    def write(rows: Rows) -> Path:
        path = workspace.requests_dir / f"{rows[0]['request_id']}.parquet"
        write_part(path, rows)
        return path

    return write
