"""How well and how fast are passages found: words, vectors, both, beside raw FAISS and raw bm25s in the same run.

Quality is measured by ir-measures at depth 10, the mean over questions. Raw is what a script would write: FAISS' flat
index over one vector a passage (cut where the encoder cuts), bm25s with its own tokenizer, English stop words and
stemmer over the same texts. Searches and raw searches alternate, so that a busy machine slows both alike.
``hybrid_untitled`` is the hybrid without what is added for a title that the question names. With ``--tune-on``,
``worded`` is the hybrid whose BM25 learnt of those questions, ``reranked`` the hybrid behind a cross-encoder that was
trained on them, ``tuned`` has all that was learnt, the encoder of questions too, and ``unseen`` has the figures of the
questions whose passages were not trained on; without, ``reranked`` is null: no re-ranker can be had here that was
trained on other data.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from app.core.digests import digest_json
from app.core.errors import exit_status
from app.inference.encoder import MAX_TOKENS, Encoder, encoder_folder, load_tokenizer
from app.inference.processor import computes_bf16
from app.inference.retrievers import Source
from app.retrieval.bank import Bank
from app.retrieval.embedding import embed_chunks
from app.retrieval.filters import PUBLIC
from app.retrieval.fusion import fuse
from app.retrieval.index import write_index
from app.retrieval.measure import DEPTH, measure
from app.retrieval.search import SearchIndex
from app.retrieval.settings import RetrievalSettings, TuneSettings
from app.retrieval.shards import Local
from benchmarks._questions import Passage, Set, load, made_up
from benchmarks._record import record, write
from benchmarks._tuned import divided, tuned

MODES: dict[str, dict[str, Any]] = {
    "bm25": {"fusion": "lexical"},
    "dense": {"fusion": "dense"},
    "hybrid": {},
    "hybrid_untitled": {"title_weight": 0},
    "rrf": {"fusion": "rrf"},
}
DEEPER = 5
"""Passages that share a key are one result: so many times more are looked at."""
NUM_ENCODED = 256
SHOWN = {"recall_at_1": "recall@1", "recall_at_5": "recall@5", "recall_at_10": "recall@10", "map_at_10": "MAP@10"}
PART = 4096
"""Texts whose vectors the cache keeps together."""

app = typer.Typer(add_completion=False)
Found = list[list[str]]


@app.command()
def main(
    passages: Annotated[
        list[Path] | None, typer.Option(help="Passages, JSON lines; may be repeated. Default: a small set made up.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help="Questions with the ids of their passages, JSON lines.")
    ] = None,
    tune_on: Annotated[
        Path | None, typer.Option(help="Questions to tune on; the same file: part of it is asked, the rest tuned on.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take so many questions and ten times as many passages.")] = None,
    latencies: Annotated[int, typer.Option(help="Questions that are timed one by one.")] = 200,
    served: Annotated[bool, typer.Option(help="Measure through Ray Serve too, on a cluster of its own.")] = True,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps vectors, trained weights and the times that they took."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    seed: Annotated[int, typer.Option(help="Stands in the file; nothing here is random.")] = 0,
) -> None:
    """Measure retrieval on a set of passages and questions."""
    with exit_status():
        given = load(passages, questions, tune_on=tune_on, limit=limit) if passages and questions else made_up()
        given = divided(given, seed=seed) if tune_on and tune_on == questions else given
        figures = run(given, latencies=latencies, served=served, cache=cache)
        params = {"passages": [path.name for path in passages or ()], "questions": questions and questions.name}
        params |= {"tune_on": tune_on and tune_on.name, "limit": limit, "seed": seed, **figures.pop("params")}
        whole = record("retrieval", params=params, **figures)
        print(table(whole))
        if out:
            write(whole, out)


def run(
    given: Set, *, latencies: int, served: bool, cache: Path | None, tune: TuneSettings | None = None
) -> dict[str, Any]:
    """Build, search and time; the parts of the benchmark's record."""
    encoder = Encoder()
    asked = [question.text for question in given.questions]
    whole, _ = _encode(encoder, [passage.text for passage in embedded(given)], cache)
    queries, _ = _encode(encoder, asked, cache)
    vectors, windows, encode_s = passage_vectors(encoder, given, cache)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signalbox-bench-")))
        (folder / "index").mkdir()
        _, index_s = _timed(
            lambda: write_index(folder / "index", vectors, chunk_rows(given), windows=windows, kind="auto")
        )
        parts = Local.open(folder / "index")
        index = SearchIndex.of(parts, folder / "index", dim=vectors.shape[1])
        raw = Raw(given, whole)
        results, settings = quality(given, index, queries), index.settings.model_dump(mode="json")
        results["reranked"] = None
        if given.tuning:
            made, settings["tuned"] = tuned(
                given, index, parts, encoder, queries, chunk_rows(given),
                folder=folder / "tuned", settings=tune or TuneSettings(), depth=DEPTH * DEEPER,
                bank=Bank(vectors, windows), cache=cache,
                scored=lambda places, found: _scored_some(given, places, found),
            )  # fmt: skip
            results |= made
        else:
            settings["reranked"] = "null: a re-ranker is trained on the questions of --tune-on, and none were given"
        baselines: dict[str, Any] = {
            "bm25s": _scored(given, raw.by_words(asked)),
            "faiss": _scored(given, raw.near(queries)),
        }
        timings = alone(index, raw, encoder, asked[:latencies])
        speeds = encoding(encoder, [passage.text for passage in embedded(given)], asked)
        results |= {
            "build": _build(encode_s, index_s, len(given.passages), len(vectors)),
            "alone": timings["ours"],
            "encode": speeds["ours"],
        }
        baselines |= {"build": {"faiss_s": raw.faiss_s, "bm25s_s": raw.bm25s_s}, "alone": timings["raw"]}
        baselines["encode"] = speeds["bert_model"]
        ratios = {
            "search_alone_p50_vs_raw": timings["ours"]["p50_ms"] / timings["raw"]["p50_ms"],
            "encode_rate_vs_bert_model": speeds["ours"]["passages_per_s"] / speeds["bert_model"]["passages_per_s"],
            "encode_query_vs_bert_model": speeds["ours"]["query_p50_ms"] / speeds["bert_model"]["query_p50_ms"],
        }
        if served:
            from benchmarks._search_served import measure as through_serve
            from benchmarks._search_served import serving

            url = stack.enter_context(serving(folder / "workspace", folder / "index"))
            results["served"] = through = through_serve(
                url, asked, lambda text: raw.search(encoder, text), num=latencies
            )
            least_ms = through["noop_p50_ms"] + through["raw_p50_ms"]
            ratios["search_p50_vs_noop_plus_raw"] = through["search_p50_ms"] / least_ms
    params = {"num_passages": len(given.passages), "num_questions": len(asked), "num_left_out": given.num_left_out}
    params |= {"num_tuning": len(given.tuning), **settings}
    return {"params": params, "results": results, "baselines": baselines, "ratios": ratios}


def embedded(given: Set) -> list[Passage]:
    """Passages as they are embedded: behind their title, where they have one."""
    return [
        Passage(each.key, each.title, f"{each.title}. {each.text}" if each.title else each.text)
        for each in given.passages
    ]


def chunk_rows(given: Set) -> list[dict[str, Any]]:
    """Passages as chunks."""
    return [
        {
            "chunk_id": f"{number}",
            "document_id": passage.key,
            "source": passage.key,
            "title": passage.title,
            "heading_path": [passage.title] if passage.title else [],
            "ordinal": number,
            "text": passage.text,
        }
        for number, passage in enumerate(given.passages)
    ]


def quality(given: Set, index: SearchIndex, queries: NDArray[np.float32]) -> dict[str, Any]:
    """Every mode's measures, from one search for candidates."""
    found = index.candidates(
        [question.text for question in given.questions], queries, num=index.settings.num_candidates, scope=PUBLIC
    )
    keys = [passage.key for passage in given.passages]

    def ranked(change: dict[str, Any]) -> Found:
        how = index.settings.model_copy(update=change)
        fused = (fuse(each, how) for each in found)
        orders = (np.argsort(-scores, kind="stable") for scores in fused)
        return [
            unique(keys[row] for row in each.rows[order[: DEPTH * DEEPER]])
            for each, order in zip(found, orders, strict=True)
        ]

    return {mode: _scored(given, ranked(change)) for mode, change in MODES.items()}


class Raw:
    """FAISS and bm25s as a script would use them."""

    def __init__(self, given: Set, vectors: NDArray[np.float32]) -> None:
        import bm25s
        import faiss
        import Stemmer

        self._keys, self._bm25s = [passage.key for passage in given.passages], bm25s
        self._stemmer = Stemmer.Stemmer("english")
        self._flat, self._engine = faiss.IndexFlatIP(vectors.shape[1]), bm25s.BM25()
        texts = [f"{passage.title} {passage.text}" for passage in given.passages]
        _, self.faiss_s = _timed(lambda: self._flat.add(vectors))
        _, self.bm25s_s = _timed(lambda: self._engine.index(self._tokens(texts), show_progress=False))
        self._num = min(DEPTH * DEEPER, len(texts))

    def near(self, queries: NDArray[np.float32]) -> Found:
        """Keys of the nearest passages."""
        return [unique(self._keys[place] for place in row) for row in self._flat.search(queries, self._num)[1]]

    def by_words(self, asked: Sequence[str]) -> Found:
        """Keys of the passages that BM25 puts first."""
        places, _ = self._engine.retrieve(self._tokens(asked), k=self._num, show_progress=False)
        return [unique(self._keys[int(place)] for place in row) for row in places]

    def search(self, encoder: Encoder, text: str) -> None:
        """One question to both, ten passages each."""
        self._flat.search(encoder.encode([text]), DEPTH)
        self._engine.retrieve(self._tokens([text]), k=DEPTH, show_progress=False)

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self._bm25s.tokenize(list(texts), stopwords="en", stemmer=self._stemmer, show_progress=False)


def alone(index: SearchIndex, raw: Raw, encoder: Encoder, asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """Latencies in one process, ours and raw in turns: with the encoding of the question, and that alone."""
    times: dict[str, list[float]] = {"ours": [], "raw": [], "encode": []}
    for number, text in enumerate([*asked[:3], *asked]):
        acts: dict[str, Callable[[], Any]] = {
            "ours": lambda text=text: index.search([text], encoder.encode([text]), DEPTH),
            "raw": lambda text=text: raw.search(encoder, text),
            "encode": lambda text=text: encoder.encode([text]),
        }
        for name, act in acts.items():
            _, taken_s = _timed(act)
            if number >= 3:
                times[name].append(1000 * taken_s)
    figures = {name: {"p50_ms": median(each), "p95_ms": quantiles(each, n=20)[-1]} for name, each in times.items()}
    return {name: {**figures[name], "encode_p50_ms": figures["encode"]["p50_ms"]} for name in ("ours", "raw")}


def encoding(encoder: Encoder, texts: Sequence[str], asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """Passages a second and ms a question, of our forward pass and of transformers' ``BertModel``, in turns;
    both in bf16 where the processor has products of it."""
    others: dict[str, Callable[[Sequence[str]], Any]] = {"ours": encoder.encode, "bert_model": bert_model()}
    sample = list(texts)[:: max(1, len(texts) // NUM_ENCODED)][:NUM_ENCODED]
    taken: dict[str, list[float]] = {name: [] for name in others}
    single: dict[str, list[float]] = {name: [] for name in others}
    for encode in others.values():
        encode(sample[:8])
    for start in range(0, len(sample), 64):
        for name, encode in others.items():
            taken[name].append(_timed(lambda encode=encode, start=start: encode(sample[start : start + 64]))[1])
    for text in asked[:50]:
        for name, encode in others.items():
            single[name].append(1000 * _timed(lambda encode=encode, text=text: encode([text]))[1])
    return {
        name: {"passages_per_s": len(sample) / sum(taken[name]), "query_p50_ms": median(single[name])}
        for name in others
    }


def bert_model() -> Callable[[Sequence[str]], Any]:
    """The same weights in transformers' ``BertModel``, batches of 64, as one would write it."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    tokenizer, folder = load_tokenizer(max_tokens=MAX_TOKENS), encoder_folder()
    model = BertModel(BertConfig.from_json_file(folder / "config.json")).eval()
    if computes_bf16():
        model = model.bfloat16()
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: value for name, value in weights.items() if name != "embeddings.position_ids"})

    def encode(texts: Sequence[str]) -> Any:
        coded = tokenizer.encode_batch(sorted(texts, key=len))
        mask = torch.tensor([item.attention_mask for item in coded])
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([item.ids for item in coded]), attention_mask=mask).last_hidden_state
            mean = (hidden.float() * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            return torch.nn.functional.normalize(mean, dim=1).numpy()

    return encode


def unique(keys: Any) -> list[str]:
    """The first ten different keys, in order."""
    return list(dict.fromkeys(keys))[:DEPTH]


def table(figures: dict[str, Any]) -> str:
    """What is printed."""
    shown = {**figures["results"], **{f"raw {name}": figures["baselines"][name] for name in ("bm25s", "faiss")}}
    shown |= {f"unseen {name}": each for name, each in figures["results"].get("unseen", {}).items()}
    rows = {name: each for name, each in shown.items() if each and "map_at_10" in each}
    lines = [f"{'':16}" + "".join(f"{name:>13}" for name in next(iter(rows.values())))]
    lines += [f"{name:16}" + "".join(f"{value:13.4f}" for value in each.values()) for name, each in rows.items()]
    for name in ("build", "encode", "alone", "served", "tuning"):
        lines += [
            f"{name}: {_line(figures['results'].get(name, {}))}",
            f"  raw: {_line(figures['baselines'].get(name, {}))}",
        ]
    return "\n".join([*lines, f"ratios: {_line(figures['ratios'])}"])


def compared(sets: Mapping[str, dict[str, Any]]) -> str:
    """README's table of several sets' figures, by the set's name."""
    lines = ["| set | figure | BM25 | dense | RRF | hybrid |", "| --- | --- | --- | --- | --- | --- |"]
    for name, figures in sets.items():
        for measured, shown in SHOWN.items():
            each = (figures["results"][mode][measured] for mode in ("bm25", "dense", "rrf", "hybrid"))
            lines.append(f"| {name} | {shown} | {' | '.join(f'{value:.3f}' for value in each)} |")
        ratio = figures["ratios"]["search_p50_vs_noop_plus_raw"]
        lines.append(f"| {name} | search p50 over no-op + raw | | | | {ratio:.2f} |")
    return "\n".join(lines)


def compared_tuned(name: str, figures: dict[str, Any]) -> str:
    """README's table of a set before and after tuning: all that was asked, and what no passage was trained on for."""
    results, facts = figures["results"], figures["params"]["tuned"]["retriever"]
    unseen = results.get("unseen", {})
    parts = {f"{figures['params']['num_questions']} asked": results}
    parts |= {f"{facts['num_unseen']} about passages not trained on": unseen} if unseen else {}
    ways = {"hybrid": "hybrid", "worded": "words learnt", "reranked": "re-ranked", "tuned": "tuned"}
    lines = [f"| set | questions | figure | {' | '.join(ways.values())} |", "| --- " * (3 + len(ways)) + "|"]
    for said, each in parts.items():
        for measured, shown in SHOWN.items():
            values = (each[way][measured] if each.get(way) else None for way in ways)
            cells = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"| {name} | {said} | {shown} | {cells} |")
    return "\n".join(lines)


def _line(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items()) or "-"


def _scored_some(given: Set, places: Sequence[int], found: Found) -> dict[str, float]:
    some = replace(given, questions=[given.questions[place] for place in places])
    return _scored(some, [unique(each) for each in found])


def _scored(given: Set, found: Found) -> dict[str, float]:
    names = [str(number) for number in range(len(found))]
    relevant = {name: set(question.gold) for name, question in zip(names, given.questions, strict=True)}
    values = measure(dict(zip(names, found, strict=True)), relevant)
    return {name: fmean(each) for name, each in values.items()}


def _build(encode_s: float, index_s: float, num: int, num_vectors: int) -> dict[str, float]:
    rates = {"passages_per_s": num / encode_s, "vectors_per_s": num_vectors / encode_s}
    return {"encode_s": encode_s, **rates, "num_vectors": num_vectors, "index_s": index_s}


def passage_vectors(
    encoder: Encoder, given: Set, cache: Path | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Vectors of passages as an index has them, the passage of each, and the seconds that encoding took."""
    taken: list[float] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors, taken_s = _encode(encoder, texts, cache, apart=True)
        taken.append(taken_s)
        return vectors

    vectors, windows = embed_chunks(chunk_rows(given), settings=RetrievalSettings(), embed=embed, source=Source())
    return vectors, windows, sum(taken)


def _encode(
    encoder: Encoder, texts: Sequence[str], cache: Path | None, *, apart: bool = False
) -> tuple[NDArray[np.float32], float]:
    """Vectors of texts, and the seconds that they took; the cache keeps both, in parts, by the digest of the texts."""
    encode = encoder.encode_apart if apart else encoder.encode
    if cache is None:
        return _timed(lambda: encode(texts))
    parts = [_kept(encode, texts[start : start + PART], cache, apart=apart) for start in range(0, len(texts), PART)]
    return np.concatenate([vectors for vectors, _ in parts]), sum(taken_s for _, taken_s in parts)


def _kept(
    encode: Callable[[Sequence[str]], Any], texts: Sequence[str], cache: Path, *, apart: bool
) -> tuple[NDArray[np.float32], float]:
    path = cache / f"{digest_json(list(texts)).removeprefix('sha256:')[:16]}{'-apart' * apart}.npz"
    if not path.exists():
        vectors, taken_s = _timed(lambda: encode(texts))
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, vectors=vectors, taken_s=taken_s)
    kept = np.load(path)
    return kept["vectors"], float(kept["taken_s"])


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started_s = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started_s


if __name__ == "__main__":
    app()
