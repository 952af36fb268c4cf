"""From tuned weights to a retriever's folder and facts: average, choose on the held-out questions, write. No Ray."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.inference.encoder import Encoder, digest_of
from app.inference.reranker import Reranker, reranker_digest
from app.inference.retrievers import ENCODER_FOLDER, QUESTIONS_FOLDER, RERANKER_FOLDER
from app.retrieval.choose import (
    Chosen,
    Reranking,
    average,
    choose_reranking,
    choose_share,
    compared,
    outcomes,
    ranked,
)
from app.retrieval.filters import Scope
from app.retrieval.measure import DEPTH
from app.retrieval.prepare import Prepared
from app.retrieval.retriever_files import copy_encoder, write_encoder, write_reranker
from app.retrieval.tuning_plan import ENCODER, RERANKER, SUMMARY_FILE, TunePlan

CURVE_POINTS = 100


def finish(folder: Path, trained: Path, plan: TunePlan, prepared: Prepared, *, num_threads: int = 1) -> dict[str, Any]:
    """Write both encoders and, if it helps, ``reranker/`` to a new folder; the facts of the version come back.

    Args:
        trained: the last checkpoint.
    """
    held, read = prepared.held_out, prepared.examples.read
    chosen = _choose_encoder(folder, trained, plan, prepared, num_threads=num_threads)
    before = [rows for rows, _ in ranked(held.found, prepared.search.settings, num=DEPTH)]
    after = [rows for rows, _ in ranked(chosen.found, chosen.search, num=DEPTH)]
    base_values, encoder_values = outcomes(before, held.gold), outcomes(after, held.gold)
    figures = {"encoder": compared(base_values, encoder_values)}
    how, reranker = Reranking(min(plan.settings.rerank_depths), 0.0), None
    if plan.settings.reranker_epochs:
        from safetensors.torch import load_file

        place = folder / RERANKER_FOLDER
        write_reranker(place, load_file(trained / f"{RERANKER}.safetensors"), base=plan.base_folder)
        how, again = choose_reranking(
            held, chosen, Reranker(place, num_threads=num_threads), read, depths=plan.settings.rerank_depths
        )
        figures["reranked"] = compared(base_values, outcomes(again, held.gold))
        reranker = reranker_digest(place) if how.weight else None
        if not how.weight:
            shutil.rmtree(place)
    summary = json.loads((trained / SUMMARY_FILE).read_text(encoding="utf-8"))
    return {
        "encoder": digest_of(folder / ENCODER_FOLDER),
        "question_encoder": digest_of(folder / QUESTIONS_FOLDER),
        "dim": prepared.search.dim,
        "reranker": reranker,
        "encoder_share": chosen.share,
        "search": {"dense_weight": chosen.search.dense_weight, "rerank_weight": how.weight, "rerank_depth": how.depth},
        "num_pairs": len(prepared.examples.train),
        "num_held_out": len(held.questions),
        "num_without_negatives": sum(not each.negatives for each in prepared.examples.train),
        "held_out": figures,
        "train": {"steps": summary["step"], "duration_s": summary["duration_s"], **_curves(summary["curve"])},
    }


def _choose_encoder(folder: Path, trained: Path, plan: TunePlan, prepared: Prepared, *, num_threads: int) -> Chosen:
    """Choose the share of the tuned weights, and write the encoder of it beside that of the chunks."""
    from safetensors.torch import load_file

    from app.inference.bert import read_weights

    held, search = prepared.held_out, prepared.search
    num = search.settings.num_candidates
    tuned = load_file(trained / f"{ENCODER}.safetensors")
    base = read_weights(plan.base_folder)
    by_share = {0.0: held.found}
    with tempfile.TemporaryDirectory() as name:
        for share in {*plan.settings.encoder_shares} - {0.0}:
            place = Path(name) / str(share)
            write_encoder(place, average(base, tuned, share), base=plan.base_folder)
            vectors = Encoder(folder=place, num_threads=num_threads).encode(held.questions)
            by_share[share] = search.candidates(held.questions, vectors, num=num, scope=Scope(labels=None))
    chosen = choose_share(held, by_share, search.settings)
    copy_encoder(folder / ENCODER_FOLDER, base=plan.chunks_folder)
    write_encoder(folder / QUESTIONS_FOLDER, average(base, tuned, chosen.share), base=plan.base_folder)
    return chosen


def _curves(curve: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The loss of each stage: a point for every few steps, the mean over them."""
    curves = {}
    for stage in (ENCODER, RERANKER):
        losses = [point["loss"] for point in curve if point["stage"] == stage]
        every = -(-len(losses) // CURVE_POINTS) or 1
        parts = [losses[start : start + every] for start in range(0, len(losses), every)]
        curves[f"{stage}_loss"] = [round(sum(part) / len(part), 4) for part in parts]
    return curves
