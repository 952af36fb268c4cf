"""What each check says of fixed facts, word for word, under one version of the gate's code.

A reason stands in verdicts that strangers replay: when one changes, ``gate.CODE_VERSION`` goes up, and
``python -m tests.governance.test_golden_reasons`` writes the golden file anew.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.governance import gate
from app.governance.checks import known_checks
from app.governance.evidence import Evidence, EvidenceMissing
from app.governance.findings import Finding
from app.governance.policy import parse_policy
from tests.governance.conftest import PRICES, World

GOLDEN = Path(__file__).with_name("golden_reasons.json")
AT = "2099-01-01T00:00:00Z"


@dataclass
class Facts(World):
    """One fixed version of everything that a check may look at."""

    def __post_init__(self):
        whole = {"num_rows": 90, "num_rejected": 10, "licence": "CC0-1.0"}
        chunks = [{"chunk_id": f"c{n}", "text": f"Fee {n} is {n} euros, ask jo@example.org"} for n in range(4)]
        self.documents = self.table(chunks, kind="dataset", name="handbook", file="chunks.parquet", **whole)
        rows = [{"question": f"What is fee {n}?", "answer": f"{n % 3} euros", "label": f"l{n % 2}"} for n in range(9)]
        rows += [{"question": None, "answer": "\x00", "label": "l0"}]
        self.rows = self.table([{**row, "split": "train"} for row in rows], parents=[self.documents.digest], **whole)
        asked = [{"question_id": "q0", "question": "what is fee 3", "answers": ["0 euros"]}]
        self.suite = self.table(asked, kind="suite", name="exam")
        self.base = self.trained("base", None)
        self.small = self.trained("small", self.base)
        self.before, self.after = (self.asked(model, right) for model, right in ((self.base, 40), (self.small, 57)))
        self.verdict = self.judged("candidate")
        self.report = self.registry.publish("report", "sources", inputs={}, parents=[self.small.digest])
        parents = [self.small.digest, self.verdict.digest]
        facts = {"small": self.small.digest, "prices": PRICES}
        self.release = self.registry.publish("release", "assistant", inputs={}, parents=parents, facts=facts)
        alarm = {"alarm": True, "signals": ["embedding", "confidence"]}
        trigger = self.registry.publish("trigger", "assistant", inputs={"trigger": "t"}, facts=alarm)
        facts = {"cause": "t", "cost_usd": 0.5, "spent_usd": 0.25, "cheaper": ["target"]}
        facts |= {"estimate": {"cost_usd": 0.5, "duration_s": 90.0, "memory_bytes": 1_500_000_000}}
        self.plan = self.registry.publish("plan", "retraining", inputs={}, parents=[trigger.digest], facts=facts)

    def trained(self, name, base):
        train = {"loss_first": 4.0, "loss_last": 0.5, "num_losses_not_finite": 0}
        facts = {"train": train, "base": base.digest if base else None}
        parents = [self.rows.digest, *([base.digest] if base else [])]
        same = [{"vocabulary": 1}]
        return self.table(same, kind="model", name=name, file="tokenizer.json", parents=parents, **facts)

    def asked(self, model, right):
        said = {"prediction": "3 euros", "citations": ["c3"]}
        rows = [{"question_id": f"q{n}", "exact_match": float(n < right), **said} for n in range(59)]
        rows += [{"question_id": "q59", "exact_match": 0.0, "prediction": "I do not know", "citations": []}]
        inputs = {"model": model.digest, "suite": self.suite.digest}
        facts = {"seconds_per_question": 0.125, "exact_match": {"low": 0.5}}
        return self.table(rows, kind="evaluation", name="e", inputs=inputs, parents=[model.digest], **facts)

    def judged(self, name):
        policy = parse_policy({"name": name, "gate": "candidate", "checks": [{"kind": "loss_improves"}]})
        return gate.judge(policy, Evidence(self.small, self.registry), registry=self.registry)

    def evidence_of(self, artifact):
        labelled = {"attribution": self.report}
        given = ({"target": self.after}, {"target": self.before}, (self.before,), labelled)
        return Evidence(artifact, self.registry, *given, at=AT)


SETTINGS = {
    "min_metric": {"threshold": 0.8}, "non_inferior": {"margin": 0.05}, "forgetting_budget": {"budget": 0.05},
    "min_rows": {"minimum": 20, "attention": 100}, "max_rejected_share": {"maximum": 0.5},
    "latency_ceiling": {"maximum_s": 5}, "cost_ceiling": {"facts": ["prices"], "maximum_usd": 1},
    "min_questions": {"minimum": 50},
    "budget": {"maximum_usd": 10}, "training_budget": {"maximum_usd": 10, "maximum_minutes": 1},
    "refusal_rate": {"maximum": 0.2}, "grounding_rate": {"minimum": 0.5},
    "cited_share": {"minimum": 0.5}, "gate_passed": {"gate": "candidate", "of": "small"},
    "cool_down": {"min_minutes": 30}, "freshness": {"max_age_days": 365},
    "near_duplicate_share": {"of": "dataset", "table": "chunks.parquet", "columns": ["text"], "maximum": 0.9},
    "personal_data": {"of": "dataset", "table": "chunks.parquet", "columns": ["text"], "maximum": 0.9},
}  # fmt: skip
"""Fields that a check needs beside its kind."""
OF = {
    "rows": (
        "min_rows", "max_rejected_share", "missing_values", "malformed_rows", "duplicate_share", "label_balance",
        "near_duplicate_share", "personal_data", "freshness", "licence_present",
    ),
    "release": ("latency_ceiling", "cost_ceiling", "gate_passed", "complete_lineage"),
    "plan": ("budget", "training_budget", "trigger_evidence", "cool_down", "cheaper_rungs"),
}  # fmt: skip
"""What is judged; the small model where nothing else is said."""
VOLATILE = {"freshness": "days old"}
"""Checks whose figure is a time that passed, up to which text the reason holds."""


def findings(facts):
    """What every check of Signalbox's own says, by kind."""
    about = {kind: getattr(facts, name) for name, kinds in OF.items() for kind in kinds}
    own = {kind: check for kind, check in known_checks().items() if check.__module__.startswith("app.")}
    said = {}
    for kind, check in own.items():
        evidence = facts.evidence_of(about.get(kind, facts.small))
        try:
            found = check(**SETTINGS.get(kind, {})).judge(evidence)
        except EvidenceMissing as missing:
            found = Finding("red", str(missing))
        figure = None if found.figure is None else round(found.figure, 9)
        said[kind] = {"light": found.light, "reason": found.reason, "figure": figure}
        if kind in VOLATILE:
            said[kind] = {"light": found.light, "reason": found.reason.partition(VOLATILE[kind])[2], "figure": None}
    return said


def test_no_reason_changes_under_one_version_of_the_code(registry, tmp_path):
    golden, said = json.loads(GOLDEN.read_text("utf-8")), findings(Facts(registry, tmp_path))
    assert golden["code"] == gate.CODE_VERSION, "write the golden reasons of this version"
    changed = [kind for kind in golden["checks"].keys() | said if golden["checks"].get(kind) != said.get(kind)]
    assert not changed, f"{gate.CODE_VERSION} says something else now: raise gate.CODE_VERSION, write the file anew"


def test_a_verdict_by_another_version_is_named_as_such(registry, tmp_path, monkeypatch):
    verdict = Facts(registry, tmp_path).verdict
    monkeypatch.setattr(gate, "CODE_VERSION", "gate-99")
    again = gate.replay(verdict, registry=registry)
    assert not again.same
    (said,) = again.differences
    assert said.startswith("code: judged by 'gate-")
    assert "this is 'gate-99'" in said


@pytest.mark.parametrize("kind", sorted(known_checks()))
def test_every_check_has_a_golden_reason(kind):
    if known_checks()[kind].__module__.startswith("app."):
        assert kind in json.loads(GOLDEN.read_text("utf-8"))["checks"]


def write():
    """Write the golden file of this version."""
    from app.core.workspace import Workspace
    from app.registry.versions import open_registry

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tables").mkdir()
        registry = open_registry(Workspace.find(folder / "workspace"))
        golden = {"code": gate.CODE_VERSION, "checks": findings(Facts(registry, folder / "tables"))}
    GOLDEN.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    write()
