from dataclasses import dataclass

import pyarrow as pa
import pytest

from app.core.parquet import write_rows
from app.routing.calibrate import NothingToCalibrate, calibrate
from app.routing.router import Router
from app.routing.settings import RoutingSettings

SETTINGS = RoutingSettings(batch_size=7, max_calibration_rows=120)
ROWS = pa.schema(
    [("row_id", pa.string()), ("question", pa.string()), ("answers", pa.list_(pa.string())), ("split", pa.string())]
)


@dataclass
class Given:
    text: str
    mean_logprob: float
    min_logprob: float


@dataclass
class Found:
    text: str
    similarity: float


class Engine:
    """Knows the answers to even questions and is sure of those."""

    def __init__(self):
        self.batches = []

    def generate(self, prompts, *, max_new_tokens):
        self.batches.append(len(prompts))
        numbers = [int(prompt.split()[-1]) for prompt in prompts]
        return [Given(f"answer {n}", -0.1, -0.2) if n % 2 == 0 else Given("nonsense", -2.0, -3.0) for n in numbers]


def search(questions):
    return [[Found(f"It says answer {question.split()[-1]}.", 0.6)] for question in questions]


@pytest.fixture
def versions(registry, tmp_path):
    def publish(kind, rows):
        folder = tmp_path / kind
        folder.mkdir()
        if rows is not None:
            write_rows(folder / "rows.parquet", rows, schema=ROWS)
        else:
            (folder / "file").write_text(kind)
        return registry.publish(kind, kind, folder=folder, inputs={"kind": kind})

    rows = [
        {"row_id": f"{n:04}", "question": f"What is {n}", "answers": [f"answer {n}"], "split": split}
        for n in range(400)
        for split in ["calibration" if n < 300 else "train"]
    ]
    return {"small": publish("model", None), "index": publish("index", None), "synthetic": publish("synthetic", rows)}


def test_a_router_is_published_and_found_again(registry, versions):
    engine = Engine()
    asked = {**versions, "large": None, "search": search, "load": lambda _: engine, "registry": registry}
    version = calibrate(**asked, settings=SETTINGS)
    assert sum(engine.batches) == 120
    assert max(engine.batches) == 7
    assert version.facts["num_rows"] == 120
    assert version.facts["coverage"] == pytest.approx(0.5)
    assert version.facts["precision"] == 1.0
    assert set(version.parents) == {each.digest for each in versions.values()}
    assert Router.load(registry.folder(version)).rungs["small"].threshold > 0.5
    assert calibrate(**asked, settings=SETTINGS) == version
    assert sum(engine.batches) == 120


def test_without_a_model_there_is_nothing_to_calibrate(registry, versions):
    asked = {**versions, "small": None, "large": None, "search": search, "load": lambda _: Engine()}
    with pytest.raises(NothingToCalibrate, match="train"):
        calibrate(**asked, registry=registry, settings=SETTINGS)
    assert registry.versions("router") == []
