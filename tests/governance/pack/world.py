"""A small release as the loop makes one: documents, rows, a model, an evaluation, verdict, approval, promotion."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from app.core.parquet import write_rows
from app.core.workspace import Workspace
from app.governance.approvals import approve
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.keys import new_key
from app.governance.pack.write import write_pack
from app.governance.policy import parse_policy, publish_policy
from app.governance.promotion import promote
from app.governance.release import build_release
from app.governance.stoplights import ask_about_release
from app.registry.versions import Registry, Version, open_registry
from tests.governance.conftest import POLICY

MEANING = "approved for production"
INTERVAL = {"value": 0.96, "low": 0.91, "high": 0.99}
PERSON = "Zuzana Okafor-Lindqvist"
OUTCOMES = pa.schema(
    [(name, pa.string()) for name in ("question_id", "question", "prediction")]
    + [(name, pa.float64()) for name in ("exact_match", "grounded")]
)
ROWS = pa.schema([("row_id", pa.string()), ("question", pa.string()), ("answers", pa.list_(pa.string()))])


@dataclass
class Scene:
    registry: Registry
    release: Version
    verdict: Version
    model: Version
    pack: Path
    key: Path


def pack_scene(root):
    """Play, pack, and copy the log's public key, as an auditor would have it."""
    registry = open_registry(Workspace.find(root / "workspace"))
    release, verdict, model = play(registry, root)
    write_pack(release, root / "pack.zip", registry=registry)
    shutil.copy(registry.workspace.keys_dir / "service.pub", root / "auditor.pub")
    return Scene(registry, release, verdict, model, root / "pack.zip", root / "auditor.pub")


def play(registry, root):
    """Publish everything and promote it: ``(release, verdict, model)``."""
    (dataset, rows, index, suite), policy = _data(registry, root), parse_policy(POLICY)
    model = _model(registry, root / "model", [rows.digest, dataset.digest])
    asked = [f"Who is {PERSON}?", *(f"What is {n}?" for n in range(1, 100))]
    said = {"prediction": "That", "grounded": 1.0}
    outcomes = [
        {"question_id": f"q{n}", "question": asked[n], "exact_match": float(n >= 4), **said} for n in range(100)
    ]
    evaluation = registry.publish(
        "evaluation", "small-exam", folder=_folder(root, "evaluation", outcomes, OUTCOMES),
        inputs={"suite": suite.digest}, parents=[model.digest, suite.digest],
        facts={"suite": suite.digest, "exact_match": INTERVAL, "seconds_per_question": 0.1},
    )  # fmt: skip
    evidence = Evidence.collect(model, registry=registry, candidate={"target": evaluation})
    verdict = judge(policy, evidence, registry=registry)
    router = registry.publish("router", "handbook", inputs={"m": model.digest}, parents=[model.digest])
    release = build_release(
        "handbook", small=model, index=index, dataset=dataset, router=router, verdict=verdict, registry=registry,
        policy=publish_policy(policy, registry), prices={"small_usd_per_1k_tokens": 0.1},
    )  # fmt: skip
    ask_about_release(release, verdict=verdict, registry=registry)
    signer = new_key(registry, "jane", role="approver", person="Jane Doe")
    approve(verdict, release, signer=signer, printed_name="Jane Doe", meaning=MEANING, registry=registry)
    promote(release, verdict=verdict, registry=registry, policy=policy, reason="a test")
    return release, verdict, model


def _data(registry, root):
    folder = root / "documents"
    folder.mkdir()
    (folder / "documents.txt").write_text("the handbook " * 100)
    dataset = registry.publish("dataset", "handbook", folder=folder, inputs={"n": 1}, facts={"num_rows": 90})
    taught = [
        {"row_id": "r1", "question": "What?", "answers": ["That"]},
        {"row_id": "r2", "question": f"Who is {PERSON}?", "answers": ["A clerk"]},
    ]
    folder = _folder(root, "rows", taught, ROWS)
    rows = registry.publish("synthetic", "handbook-qa", folder=folder, inputs={"n": 1}, parents=[dataset.digest])
    suite = registry.publish("suite", "exam", folder=_folder(root, "suite", taught, ROWS), inputs={"n": 1})
    index = registry.publish("index", "handbook", inputs={"n": 1}, parents=[dataset.digest])
    return dataset, rows, index, suite


def _model(registry, folder, parents):
    """A folder as a trained model's is, with random weights."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    save_file({"lm_head.weight": weights}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    facts = {"recipe": "sft", "train": {"loss_first": 4.0, "loss_last": 0.5}}
    inputs = {"data": parents, "settings": {"learning_rate": 0.001}, "code_version": "1"}
    return registry.publish(
        "model", "small", folder=folder, inputs=inputs, parents=parents, facts=facts, actor="trainer-job"
    )


def _folder(root, name, rows, schema):
    folder = root / name
    folder.mkdir()
    write_rows(folder / "rows.parquet", rows, schema=schema)
    return folder
