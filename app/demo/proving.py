"""The end of the story: the evidence is recomputed, and one answer is traced back to its document."""

from typing import Any

from app.console.lineage import render, render_page, render_text
from app.core.files import replace_text
from app.core.parquet import read_rows
from app.demo.building import Models
from app.demo.operating import wait_until
from app.demo.scene import Scene
from app.escalation.ladder import Ladder
from app.evaluation.pipeline import evaluate
from app.governance.lineage import find_answer, trace_answer
from app.ledger.verify import verify
from app.loop import Knowledge
from app.registry.versions import Version
from app.serving.log import read_log
from app.training.loss import CURVE_FILE

FLUSH_S = 30.0
MAX_FAULTS_SHOWN = 10
PICTURE = "lineage.html"


def prove(scene: Scene) -> None:
    """Verify the ledger with everything that it names, then print where one answer came from."""
    scene.figures["trace"] = _trace(scene)
    report = verify(scene.workspace)
    for fault in report.faults[:MAX_FAULTS_SHOWN]:
        scene.say(f"FAULT {fault}")
    scene.say(report.lines()[-1])
    counts = {"leaves": report.num_leaves, "artifacts": report.num_artifacts, "files": report.num_files}
    scene.figures["verify"] = {"ok": report.ok, **counts, "faults": [str(fault) for fault in report.faults]}


def figures_of(scene: Scene, knowledge: Knowledge, models: Models, ladder: Ladder, suite: Version) -> dict[str, Any]:
    """The report's figures about everything up to the first release."""
    documents, trained = knowledge.dataset.facts, models.small.facts["train"]
    before, after = (
        evaluate(model, suite, registry=scene.registry, settings=scene.settings.evaluation).facts["exact_match"]
        for model in (models.base, models.small)
    )
    runs = {model.ref: model for model in (models.base, models.adapter, models.small, models.large)}
    return {
        "documents": documents["num_documents"],
        "chunks": documents["num_chunks"],
        "rejected": documents["num_rejected"],
        "synthetic_rows": knowledge.rows.facts["num_rows"],
        "ladder": ladder.to_rows(),
        "recommendation": ladder.recommendation,
        "train": {
            "loss_first": trained["loss_first"],
            "loss_last": trained["loss_last"],
            "tokens_per_s": trained["tokens_per_s"],
            "workers": trained["num_workers"],
            "duration_s": trained["duration_s"],
            "curves": {ref: _curve(scene, model) for ref, model in runs.items()},
        },
        "evaluation": {"first": {"before": before, "after": after}},
    }


def figures_untaught(knowledge: Knowledge, reason: str) -> dict[str, Any]:
    """The same figures where a gate was red before or between the trainings, so that no model came of them."""
    documents = knowledge.dataset.facts
    return {
        "documents": documents["num_documents"],
        "chunks": documents["num_chunks"],
        "rejected": documents["num_rejected"],
        "synthetic_rows": knowledge.rows.facts["num_rows"],
        "ladder": [],
        "recommendation": reason,
        "train": {"curves": {}},
        "evaluation": {},
    }


def _curve(scene: Scene, model: Version) -> list[list[float]]:
    rows = read_rows(scene.registry.folder(model) / CURVE_FILE)
    return [[row["step"], row["loss"]] for row in rows]


def _trace(scene: Scene) -> str:
    """The tree behind an answer of the last phase, a right one of the small model where there is one."""
    replies = [reply for reply in scene.traffic["after the promotion"].replies if not reply.error]
    best = min(replies, key=lambda reply: (not reply.answered, not reply.model.startswith("small")))
    wait_until(lambda: _is_logged(scene, best.request_id), timeout_s=FLUSH_S)
    tree = trace_answer(scene.registry, find_answer(scene.registry, best.request_id))
    scene.console.print(render(tree))
    scene.workspace.demo_dir.mkdir(parents=True, exist_ok=True)
    replace_text(scene.workspace.demo_dir / PICTURE, render_page(tree, title=f"Lineage of {tree.kind} {tree.label}"))
    return render_text(tree)


def _is_logged(scene: Scene, request_id: str) -> bool:
    return request_id in read_log(scene.workspace.requests_dir)["request_id"].to_pylist()
