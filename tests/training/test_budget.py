"""Which runs may start: the limits of the settings, those of a policy with its verdict, and the probe before both."""

import json

import pytest

from app.governance.gate import replay
from app.governance.policy import load_policy
from app.governance.stoplights import StopLight
from app.training.budget import allowed, check_budget, failure, is_near, together
from app.training.errors import OutOfMemory, OverBudget, TrainingFailed
from app.training.estimate import Estimate, Memory, estimate
from app.training.extensions import number_type
from app.training.settings import TrainSettings
from app.training.speed import SPEED_FILE, publish_speed
from tests.training.test_estimate import write_run

SPEED = {"tokens_per_s": 50.0, "steps": 3, "duration_s": 1.0, "device": "abacus", "peak_memory_bytes": 10}
POLICY = """
name: purse
gate: training
checks: [{kind: training_budget, maximum_usd: %s, maximum_minutes: %s, maximum_memory_bytes: %s}]
"""


def enough(**parts) -> Estimate:
    names = ("process", "weights", "gradients", "masters", "optimizer", "subspaces", "activations", "logits")
    needs = Memory(**{name: parts.get(name, 1) for name in names})
    return Estimate(1, needs, 1000, flops=1e9, duration_s=90.0, cost_usd=0.02, rate_of="stated")


@pytest.mark.parametrize(
    ("found", "changes", "message"),
    [
        (enough(activations=2_000_000_000), {}, "2.0 GB a worker .* lower train.max_tokens_per_worker \\(now none\\)"),
        (
            enough(optimizer=2_000_000_000),
            {},
            "recipe lora, take train.zero_stage 2 .* train.workers.worker_memory_bytes",
        ),
        (enough(weights=2_000_000_000), {"zero_stage": 3}, "for weights: take more train.workers.num_workers"),
        (enough(), {"workers": {"max_minutes": 1.0}}, "1.5 minutes of 1 allowed: .* raise train.workers.max_minutes"),
        (enough(), {"workers": {"max_usd": 0.01}}, "\\$0.0200 of \\$0.01 allowed: .* raise train.workers.max_usd"),
    ],
)
def test_a_run_over_its_budget_is_refused_with_the_setting_to_change(tmp_path, found, changes, message):
    plan = write_run(tmp_path / "run")
    plan = plan.model_copy(update={"settings": TrainSettings.model_validate(changes)})
    with pytest.raises(OverBudget, match=message) as refused:
        check_budget(found, plan)
    assert refused.value.exit_status == 1
    check_budget(enough(), plan.model_copy(update={"settings": TrainSettings()}))


@pytest.mark.parametrize(
    ("said_by_it", "kind"),
    [
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory", OutOfMemory),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", OutOfMemory),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", OutOfMemory),
        ("MemoryError", OutOfMemory),
        ("ValueError: no such file", TrainingFailed),
    ],
)
def test_a_worker_without_memory_says_which_setting_to_change(tmp_path, said_by_it, kind):
    made = failure(RuntimeError(said_by_it), write_run(tmp_path / "run"))
    assert type(made) is kind
    assert ("train.workers.worker_memory_bytes" in str(made)) == (kind is OutOfMemory)


class Probe:
    """Stands where the workers of a cluster measure: leaves what they leave, and counts."""

    def __init__(self, registry, tokens_per_s):
        self.registry, self.figures, self.num = registry, {**SPEED, "tokens_per_s": tokens_per_s}, 0
        self.figures["dtype"] = number_type("auto")

    def __call__(self, plan, folder):
        self.num += 1
        (folder / SPEED_FILE).write_text(json.dumps(self.figures))
        publish_speed(plan, folder, registry=self.registry)


def policy_file(folder, *limits):
    path = folder / "purse.yaml"
    path.write_text(POLICY % limits)
    return str(path)


def let(registry, folder, plan, *, tokens_per_s=1e6):
    probe = Probe(registry, tokens_per_s)
    found = allowed(plan, folder, registry=registry, parents=[], on_gpu=False, probe=probe)
    return *found, probe.num


def test_a_run_within_the_budget_has_a_green_verdict_on_record(registry, tmp_path):
    plan = write_run(tmp_path / "run")
    found, verdict, num_probes = let(registry, tmp_path / "run", plan)
    assert (verdict.facts["light"], verdict.facts["gate"], num_probes) == ("green", "training", 0)
    (stated,) = registry.versions("plan")
    assert stated.facts["estimate"] == json.loads(json.dumps(found.as_json()))
    assert let(registry, tmp_path / "run", plan)[1] == verdict
    assert replay(verdict, registry=registry).same


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (("1e-9", "null", "null"), r"\$\S+ expected, at most \$1e-09 allowed: take fewer train.num_steps"),
        (
            ("null", "1e-7", "null"),
            r"minutes expected, at most 1e-07 minutes allowed: .* more train.workers",
        ),
        (("null", "null", "1000000"), r"GB a worker expected, at most 0.001 GB .* raise maximum_memory_bytes"),
    ],
)
def test_a_run_over_the_policy_s_budget_is_red_and_on_record(registry, tmp_path, limits, message):
    plan = write_run(tmp_path / "run", workers={"budget_policy": policy_file(tmp_path, *limits), "probe": "never"})
    with pytest.raises(StopLight, match=message) as refused:
        let(registry, tmp_path / "run", plan)
    assert refused.value.exit_status == 3
    (verdict,) = registry.versions("verdict")
    (check,) = verdict.facts["checks"]
    assert (verdict.facts["light"], check["threshold"]) == ("red", 1.0)
    assert check["figure"] > 1.0


def test_a_probe_is_made_where_a_limit_is_near_and_its_rate_counts(registry, tmp_path):
    plan = write_run(tmp_path / "run")
    stated = estimate(plan, tmp_path / "run")
    limit = 2 * stated.duration_s / 60
    plan = write_run(tmp_path / "near", workers={"budget_policy": policy_file(tmp_path, "null", limit, "null")})
    with pytest.raises(StopLight, match="minutes expected"):
        let(registry, tmp_path / "near", plan, tokens_per_s=1e-3)
    (speed,) = registry.versions("speed")
    assert speed.facts["train"] == {**SPEED, "tokens_per_s": 1e-3, "num_threads": 1}
    again = estimate(plan, tmp_path / "near", registry=registry)
    assert (again.rate_of, again.duration_s) == (f"probe {speed.ref}", again.num_tokens / 1e-3)
    with pytest.raises(StopLight):
        assert let(registry, tmp_path / "near", plan)
    assert len(registry.versions("speed")) == 1  # what is known is not measured again


@pytest.mark.parametrize(("probe", "memory", "num"), [("always", 0, 1), ("never", 0, 0), ("always", 1, 0)])
def test_when_a_probe_is_made(registry, tmp_path, probe, memory, num):
    workers = {"probe": probe, **({"worker_memory_bytes": memory} if memory else {})}
    plan = write_run(tmp_path / "run", workers=workers)
    if memory:  # what does not fit is not tried
        with pytest.raises(OverBudget, match="reserved"):
            let(registry, tmp_path / "run", plan)
    else:
        assert let(registry, tmp_path / "run", plan)[2] == num
    assert len(registry.versions("speed")) == num


def test_a_gpu_s_rate_is_none_of_a_processor_s(registry, tmp_path):
    plan = write_run(tmp_path / "run")
    Probe(registry, 5.0)(plan, tmp_path / "run")
    rates = [estimate(plan, tmp_path / "run", registry=registry, on_gpu=each).rate_of for each in (False, True)]
    assert rates == ["probe m@1", "stated"]


@pytest.mark.parametrize(("usd", "near"), [(0.19, True), (0.21, False)])
def test_a_limit_is_near_where_a_rate_off_by_ten_would_reach_it(tmp_path, usd, near):
    policy = load_policy(policy_file(tmp_path, usd, "null", "null"))
    assert is_near(enough(), TrainSettings().workers, policy) == near


def test_runs_together_cost_their_sum_until_they_are_ended():
    one, large = enough(), enough(weights=10)
    whole = together([one, large, one], at_once=2, max_usd=None, max_minutes=None)
    assert (whole.cost_usd, whole.duration_s, whole.memory) == (pytest.approx(0.06), 135.0, large.memory)
    ended = together([one, one, one], at_once=1, max_usd=0.05, max_minutes=2.0)
    assert (ended.cost_usd, ended.duration_s) == (0.05, 120.0)
