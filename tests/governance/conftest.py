"""A small world for gates: a dataset, models trained on it, and their evaluations."""

from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.core.parquet import write_rows
from app.governance.evidence import Evidence
from app.governance.keys import enrol
from app.governance.policy import parse_policy
from app.governance.stoplights import StopLight, ask_about_release
from app.ledger.keys import load_or_create
from app.registry.versions import Registry
from tests.governance.served import build_served

SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("exact_match", pa.float64()),
        ("prediction", pa.string()),
        ("grounded", pa.float64()),
    ]
)
PRICES = {"small_usd_per_1k_tokens": 0.1}
POLICY = {
    "name": "candidate",
    "gate": "candidate",
    "checks": [
        {"kind": "loss_improves"},
        {"kind": "min_metric", "threshold": 0.8},
        {"kind": "forgetting_budget", "budget": 0.05},
        {"kind": "complete_lineage"},
        {"kind": "approvals"},
    ],
}


def ask_for_traffic(release, verdict, registry):
    """Have the gate before traffic judge a release, whatever it says."""
    with suppress(StopLight):
        ask_about_release(release, verdict=verdict, registry=registry)
    return release


def person_of(name):
    """Jane's key belongs to Jane Doe, every other name's to a person of that name."""
    return {"jane": "Jane Doe"}.get(name, name.title())


@dataclass
class World:
    registry: Registry
    tmp: object
    count: int = 0

    def folder(self):
        self.count += 1
        folder = self.tmp / f"folder{self.count}"
        folder.mkdir()
        return folder

    def dataset(self, **facts):
        folder = self.folder()
        (folder / "documents.txt").write_text(str(self.count))
        facts = {"num_rows": 90, "num_rejected": 10, **facts}
        return self.registry.publish("dataset", "handbook", folder=folder, inputs={"n": self.count}, facts=facts)

    def table(
        self, rows, *, kind="synthetic", name="handbook-qa", parents=(), file="rows.parquet", inputs=None, **facts
    ):
        """A version of any kind that holds these rows."""
        folder = self.folder()
        pq.write_table(pa.Table.from_pylist(rows), folder / file)
        inputs = {"n": self.count} | (inputs or {})
        return self.registry.publish(kind, name, folder=folder, inputs=inputs, parents=list(parents), facts=facts)

    def model(self, *, parents=None, losses=(4.0, 0.5), actor="trainer-job"):
        facts = {"train": {"loss_first": losses[0], "loss_last": losses[1]}}
        self.count += 1
        parents = [self.dataset().digest] if parents is None else parents
        return self.registry.publish(
            "model", "small", inputs={"n": self.count}, parents=parents, facts=facts, actor=actor
        )

    def evaluation(self, outcomes, *, model=None, prefix="q", name="evaluation", **more):
        folder = self.folder()
        said = {"prediction": "12 crowns", "grounded": 1.0}
        rows = [
            {"question_id": f"{prefix}{n}", "exact_match": float(value), **said} for n, value in enumerate(outcomes)
        ]
        write_rows(folder / "rows.parquet", rows, schema=SCHEMA)
        parents = [model.digest] if model else []
        inputs, facts = {"n": self.count, **more}, {"seconds_per_question": 0.1}
        return self.registry.publish("evaluation", name, folder=folder, inputs=inputs, parents=parents, facts=facts)

    def evidence(self, artifact, **given):
        return Evidence.collect(artifact, registry=self.registry, **given)

    def signer(self, name="jane", role="approver", *, person=None):
        """A key on record, for the person that ``person_of`` names unless another is given."""
        signer = load_or_create(self.registry.workspace.keys_dir, name, role)
        enrol(self.registry, signer.public, person="" if role == "service" else person or person_of(name))
        return signer


@pytest.fixture
def world(registry, tmp_path):
    return World(registry, tmp_path)


@pytest.fixture
def policy():
    return parse_policy(POLICY)


@pytest.fixture
def served(world, policy):
    """The registry and the release of a promoted release with one logged answer."""
    return build_served(world, policy)
