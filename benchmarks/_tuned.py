"""The benchmark's tuning: encoder and re-ranker on other questions by the Ray Train job's own pieces, then asked again.

Guarantees: no question that is asked was trained on or chosen by. ``unseen`` are those none of whose passages answers a
question of the tuning. Not guaranteed: the same figures on a machine that rounds differently.
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray.train
from numpy.typing import NDArray

from app.core.cluster import connect, down, up
from app.core.digests import digest_json, hex_of
from app.core.workspace import Workspace
from app.inference.encoder import Encoder, encoder_folder
from app.inference.reranker import Reranker
from app.inference.retrievers import QUESTIONS_FOLDER, RERANKER_FOLDER
from app.retrieval.bank import Bank
from app.retrieval.examples import groups_of
from app.retrieval.finish import finish
from app.retrieval.learnt import Learnt
from app.retrieval.prepare import Prepared, prepare
from app.retrieval.rerank import passage_of
from app.retrieval.search import Hit, SearchIndex
from app.retrieval.settings import SearchSettings, TuneSettings
from app.retrieval.shards import Local
from app.retrieval.trainer import begin, fit
from app.retrieval.tuning_plan import TunePlan
from benchmarks._questions import Set

ASKED_SHARE = 0.25
NUM_TIMED = 50
TIME_FILE = "seconds.json"
Scored = Callable[[Sequence[int], list[list[str]]], dict[str, float]]


def divided(given: Set, *, seed: int = 0) -> Set:
    """The questions of one file, some to be asked and the others to be tuned on.

    An eighth is asked whose passages answer nothing else, and an eighth as it comes; the rest is tuned on.
    """
    keys = {key: number for number, key in enumerate(sorted({key for each in given.questions for key in each.gold}))}
    groups = list(groups_of([frozenset(keys[key] for key in each.gold) for each in given.questions]))
    random.Random(seed).shuffle(groups)
    asked: list[int] = []
    half = ASKED_SHARE / 2 * len(given.questions)
    while groups and len(asked) < half:
        asked += groups.pop()
    rest = sorted(place for group in groups for place in group)
    random.Random(seed).shuffle(rest)
    cut = round(half)
    asked += rest[:cut]
    of = given.questions
    return replace(given, questions=[of[n] for n in sorted(asked)], tuning=[of[n] for n in sorted(rest[cut:])])


class Known:
    """A re-ranker that scores a pair once, though two rankings ask for it."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker, self._scores = reranker, dict[tuple[str, str], float]()

    def scores(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the re-ranker gives them."""
        new = [text for text in dict.fromkeys(texts) if (question, text) not in self._scores]
        for text, score in zip(new, self._reranker.scores(question, new), strict=True):
            self._scores[question, text] = float(score)
        return np.array([self._scores[question, text] for text in texts], dtype=np.float32)


def tuned(
    given: Set,
    index: SearchIndex,
    parts: Local,
    encoder: Encoder,
    queries: NDArray[np.float32],
    rows: list[dict[str, Any]],
    *,
    folder: Path,
    bank: Bank,
    settings: TuneSettings,
    scored: Scored,
    depth: int,
    cache: Path | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results (``worded``, ``reranked``, ``tuned``, ``unseen``, ``tuning``) and parameters.

    Args:
        rows: the passages as chunks.
        bank: their vectors.
        scored: measures of some of the questions, by their places, from the ids found.
        cache: folder that keeps what was trained, and the time that it took, between runs.
    """
    times: dict[str, float] = {}
    folder.mkdir(parents=True)
    asked = {each.text: places_of(given, each.gold) for each in given.tuning}
    read = [passage_of(row["heading_path"], row["text"]) for row in rows]
    plan = TunePlan(name="bench", base_folder=encoder_folder(), chunks_folder=encoder_folder(), settings=settings)
    with timed(times, "mine_s"):
        prepared = prepare(asked, index, encoder, bank=bank, parts=parts, read=read, settings=settings)
    trained, times["train_s"] = _trained(folder, plan, prepared, cache)
    made, threads = folder / "retriever", settings.num_workers * settings.num_threads
    with timed(times, "choose_s"):
        facts = finish(made, trained, plan, prepared, num_threads=threads)
    print({name: value for name, value in facts.items() if name != "train"}, flush=True)
    questions = [each.text for each in given.questions]
    chosen = SearchSettings(**facts["search"])
    coded = Encoder(folder=made / QUESTIONS_FOLDER, num_threads=threads).encode(questions)
    known = Known(Reranker(made / RERANKER_FOLDER, num_threads=threads)) if facts["reranker"] else None
    learnt = Learnt.of_folder(made)
    worded = SearchIndex(parts.reworded(learnt), settings=index.settings, dim=index.dim) if learnt else index
    ways = _ways(index, worded, questions, queries, coded, settings=chosen, reranker=known, depth=depth)
    with timed(times, "ask_s"):
        found = {name: [[hit.document_id for hit in hits] for hits in search()] for name, search in ways.items()}
    trained_on = frozenset[str]().union(*(each.gold for each in given.tuning))
    unseen = [n for n, each in enumerate(given.questions) if not each.gold & trained_on]
    everything = range(len(questions))
    results: dict[str, Any] = {name: scored(everything, found[name]) for name in ("worded", "reranked", "tuned")}
    results["tuned_encoder"] = scored(everything, found["encoder"])
    if not known:
        results["reranked"] = None
    if unseen:
        results["unseen"] = {name: scored(unseen, [each[n] for n in unseen]) for name, each in found.items()}
    reranker = Reranker(made / RERANKER_FOLDER) if known else None
    spent = latencies(worded, Encoder(folder=made / QUESTIONS_FOLDER), reranker, questions, settings=chosen)
    results["tuning"] = times | spent
    facts["num_unseen"] = len(unseen)
    return results, {"retriever": facts, "tune": settings.inputs()}


def _ways(
    index: SearchIndex,
    worded: SearchIndex,
    questions: Sequence[str],
    queries: NDArray[np.float32],
    coded: NDArray[np.float32],
    *,
    settings: SearchSettings,
    reranker: Known | None,
    depth: int,
) -> dict[str, Callable[[], list[list[Hit]]]]:
    """Searches by name.

    Args:
        worded: the index whose BM25 learnt of questions.
        queries: the questions by the base's encoder.
        coded: by the tuned one.
    """
    plain: dict[str, Any] = {"questions": questions, "k": depth}
    return {
        "hybrid": lambda: index.search(**plain, vectors=queries),
        "worded": lambda: worded.search(**plain, vectors=queries),
        "encoder": lambda: worded.search(**plain, vectors=coded, settings=settings),
        "reranked": lambda: index.search(
            **plain, vectors=queries, reranker=reranker,
            settings=settings.model_copy(update={"dense_weight": index.settings.dense_weight}),
        ),
        "tuned": lambda: worded.search(**plain, vectors=coded, settings=settings, reranker=reranker),
    }  # fmt: skip


def _trained(folder: Path, plan: TunePlan, prepared: Prepared, cache: Path | None) -> tuple[Path, float]:
    """The folder of the last checkpoint, and the seconds that training took; kept by the digest of what it learns."""
    inputs = {"settings": plan.settings.inputs(), "examples": prepared.examples.model_dump(mode="json")}
    kept = (cache or folder) / f"trained-{hex_of(digest_json(inputs))[:16]}"
    if not (kept / TIME_FILE).exists():
        started_s = time.perf_counter()
        begin(folder / "run" / "plan", plan, prepared)
        with _fitted(folder, plan).as_directory() as last:
            shutil.copytree(last, kept, dirs_exist_ok=True)
        (kept / TIME_FILE).write_text(json.dumps(time.perf_counter() - started_s))
    taken_s = float(json.loads((kept / TIME_FILE).read_text()))
    print(f"train_s: {taken_s:.0f}", flush=True)
    return kept, taken_s


def _fitted(folder: Path, plan: TunePlan) -> ray.train.Checkpoint:
    """The run's last checkpoint, on a cluster of its own."""
    workspace = Workspace.find(folder / "workspace")
    up(workspace)
    try:
        with connect(workspace, log_to_driver=False):
            return fit(folder / "run", plan)
    finally:
        down(workspace)


def places_of(given: Set, keys: frozenset[str]) -> set[int]:
    """Places of passages with these keys."""
    return {number for number, passage in enumerate(given.passages) if passage.key in keys}


def latencies(
    index: SearchIndex,
    encoder: Encoder,
    reranker: Reranker | None,
    questions: Sequence[str],
    *,
    settings: SearchSettings,
) -> dict[str, float]:
    """Median ms of a question, encoded and searched, without and with re-ranking, in turns, one thread."""
    spent: dict[str, list[float]] = {"query_p50_ms": [], "query_reranked_p50_ms": []}
    for question in questions[:NUM_TIMED]:
        for name, used in zip(spent, (None, reranker), strict=True):
            started_s = time.perf_counter()
            index.search([question], encoder.encode([question]), 10, settings=settings, reranker=used)
            spent[name].append(1000 * (time.perf_counter() - started_s))
    return {name: median(each) for name, each in spent.items()}


@contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    """Enter the seconds of a block into a table."""
    started_s = time.perf_counter()
    yield
    times[name] = time.perf_counter() - started_s
    print(f"{name}: {times[name]:.0f}", flush=True)
