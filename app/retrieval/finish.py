"""From tuned weights to a retriever's folder and facts: average, choose on the held-out questions, write. No Ray."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.inference.encoder import Encoder, digest_of
from app.inference.reranker import Reranker, reranker_digest
from app.inference.retrievers import ENCODER_FOLDER, QUESTIONS_FOLDER, RERANKER_FOLDER
from app.retrieval.choose import (
    Chosen,
    HeldOut,
    Reranking,
    average,
    choose_reranking,
    choose_share,
    compared,
    outcomes,
    ranked,
)
from app.retrieval.filters import Scope
from app.retrieval.fusion import Candidates
from app.retrieval.learnt import Asked, Learnt, Terms
from app.retrieval.lexical import Analyser
from app.retrieval.measure import DEPTH
from app.retrieval.prepare import Prepared
from app.retrieval.retriever_files import copy_encoder, write_encoder, write_reranker
from app.retrieval.search import SearchIndex
from app.retrieval.settings import SearchSettings, TuneSettings
from app.retrieval.terms import learn_terms
from app.retrieval.tuning_plan import ENCODER, RERANKER, SUMMARY_FILE, TunePlan

CURVE_POINTS = 100


def finish(folder: Path, trained: Path, plan: TunePlan, prepared: Prepared, *, num_threads: int = 1) -> dict[str, Any]:
    """Write both encoders and, where they help, learnt words and ``reranker/`` to a new folder; its facts come back.

    Args:
        trained: the last checkpoint.
    """
    held, read = prepared.held_out, prepared.examples.read
    base_values = _values(held.found, prepared.search.settings, held)
    learnt, worded, by_words = choose_words(prepared, plan.settings)
    chosen = _choose_encoder(folder, trained, plan, worded, num_threads=num_threads)
    figures = {"words": compared(base_values, _values(by_words.found, by_words.search, held))} if learnt else {}
    figures["encoder"] = compared(base_values, _values(chosen.found, chosen.search, held))
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
        "words": learnt.write(folder) if learnt else None,
        "num_terms": len(learnt.terms.codes) if learnt else 0,
        "num_asked": len(learnt.asked.chunks) if learnt else 0,
        "encoder_share": chosen.share,
        "search": {"dense_weight": chosen.search.dense_weight, "rerank_weight": how.weight, "rerank_depth": how.depth},
        "num_pairs": len(prepared.examples.train),
        "num_held_out": len(held.questions),
        "num_without_negatives": sum(not each.negatives for each in prepared.examples.train),
        "held_out": figures,
        "train": {"steps": summary["step"], "duration_s": summary["duration_s"], **_curves(summary["curve"])},
    }


def choose_words(prepared: Prepared, settings: TuneSettings) -> tuple[Learnt | None, Prepared, Chosen]:
    """Have BM25 learn of questions, as far as held-out ones find more with it, by the base's vectors.

    Returns:
        What an index is to be built with, what is prepared with a search by that, and how good it is.
    """
    held, how = prepared.held_out, prepared.search.settings
    best: tuple[Learnt | None, Prepared, Chosen] = (None, prepared, choose_share(held, {0.0: held.found}, how))
    for learnt in learn_words(prepared, settings):
        parts = prepared.parts.reworded(learnt)
        search = SearchIndex(parts, settings=how, dim=prepared.search.dim)
        scope = Scope(labels=None)
        found = search.candidates(held.questions, prepared.vectors, num=how.num_candidates, scope=scope)
        chosen = choose_share(held, {0.0: found}, how)
        if chosen.ndcg_at_10 > best[2].ndcg_at_10:
            best = learnt, replace(prepared, search=search, parts=parts, held_out=replace(held, found=found)), chosen
    return best


def learn_words(prepared: Prepared, settings: TuneSettings) -> list[Learnt]:
    """What BM25 could learn: weights of terms, words that are asked by, and both."""
    train, parts = prepared.examples.train, prepared.parts
    questions, gold = [each.question for each in train], [each.gold for each in train]
    analyse = Analyser(parts.shards[0].parts.lexical.settings.language)
    no_terms, not_asked = Terms.none(), Asked.of([], [], [], analyse)
    terms, asked = [no_terms], [not_asked]
    if settings.term_epochs:
        terms.append(learn_terms(questions, gold, prepared.found, parts.shares, settings=settings))
    if settings.learn_asked:
        asked.append(Asked.of(questions, gold, parts.chunk_ids, analyse))
    every = [Learnt(weights, words) for words in asked for weights in terms]
    return every[1:]


def _values(found: Sequence[Candidates], search: SearchSettings, held: HeldOut) -> dict[str, list[float]]:
    """Every measure of every question held out."""
    return outcomes([rows for rows, _ in ranked(found, search, num=DEPTH)], held.gold)


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
