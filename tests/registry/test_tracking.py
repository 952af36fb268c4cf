"""MLflow beside the registry, on the workspace's own database."""

import pytest

from app.registry.tracking import Tracker, flatten, tracking_uri

CURVE = [{"step": 1, "loss": 3.0, "learning_rate": 1e-3}, {"step": 2, "loss": 2.0, "learning_rate": 5e-4}]


@pytest.fixture
def tracker(registry):
    return Tracker(registry.workspace)


def publish(registry, name: str, number: int):
    return registry.publish("model", name, inputs={"number": number})


def test_a_run_keeps_its_parameters_curve_and_files(tracker, registry, tmp_path):
    from mlflow.tracking import MlflowClient

    plot = tmp_path / "loss.png"
    plot.write_bytes(b"png")
    params = {"base": None, "settings": {"num_steps": 2}}
    run_id = tracker.begin_run("small", params=params, tags={"recipe": "sft"}).result()
    tracker.finish_run(run_id, curve=CURVE, metrics={"cost_usd": 0.5}, files=[plot])

    client = MlflowClient(tracking_uri(registry.workspace))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"settings.num_steps": "2"}
    assert run.data.metrics["cost_usd"] == 0.5
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(1, 3.0), (2, 2.0)]
    assert (registry.workspace.root / "mlflow" / run_id / "artifacts" / "loss.png").read_bytes() == b"png"

    first, second = publish(registry, "small", 1), publish(registry, "small", 2)
    numbers = [tracker.add_version(v, run_id=run_id, source=tmp_path) for v in (first, second, first)]
    assert numbers == ["1", "2", "1"]
    assert tracker.production("small") is None
    for version in (second, first):
        tracker.set_production("small", version)
        assert tracker.production("small") == version.digest

    tracker.set_production("small", publish(registry, "small", 3))
    assert tracker.production("small") == first.digest
    assert registry.get("model", "small@1").digest == first.digest


def test_a_run_that_failed_says_so(tracker, registry):
    from mlflow.tracking import MlflowClient

    run_id = tracker.start_run("small", params={}, tags={})
    tracker.fail_run(run_id)
    assert MlflowClient(tracking_uri(registry.workspace)).get_run(run_id).info.status == "FAILED"


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": None, "e": [1, 2]}}, "f": "x"}) == {"a.b": 1, "a.c.e": [1, 2], "f": "x"}
