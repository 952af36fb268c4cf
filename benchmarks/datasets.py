"""How much personal data and how many duplicates does the datasets stage find, and how fast?

Personal data is judged by type against spans that are known: a hit counts when it overlaps a span of its type, a span
is found when such a hit overlaps it. Baselines, in the same run: presidio's own recognisers as they come (words without
a model, the same least score), and the patterns that the gate's check uses alone. The words around phone numbers and
the ranges of card numbers in :mod:`app.datasets.personal` were chosen while looking at presidio-research's set.

Near-duplicates are judged against every pair that exists: an exhaustive join with prefix filtering (Bayardo, Ma and
Srikant, Scaling up all pairs similarity search, WWW 2007) is truth and baseline at once.
"""

import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from app.core.errors import exit_status
from app.core.personal import Hit, find_personal
from app.core.resemblance import near_duplicates
from app.core.text import ngrams, words
from app.core.workspace import Workspace
from app.datasets.examine import Examiner
from app.datasets.formats import parse
from app.datasets.personal import LANGUAGE, OWN_KINDS, PersonalFinder, known_kinds, language_engine
from app.datasets.settings import QualitySettings
from benchmarks._record import record, write

app = typer.Typer(add_completion=False)
TYPES = {"URL": "DOMAIN_NAME"}
"""Types of the spans, by presidio's names where these differ."""
SIMILARITY = 0.8
FILES = ("few", "many")
SETTLING_S = 15
"""A head that has just come up starts its agents."""
Rows = list[dict[str, Any]]
Find = Callable[[str], Iterable[Hit]]


@app.command()
def main(
    personal: Annotated[
        Path | None, typer.Option(help="JSON lines with `text` and `spans` (type, start, end); default: made up.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="JSON lines with `question` and `answer`; default: made up.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Rows to take of each file; 0: all.")] = 0,
    few: Annotated[int, typer.Option(help="Rows of the small import that is timed, its start counted.")] = 2000,
    many: Annotated[int, typer.Option(help="Rows of the large one; rows come again with a number each.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of what is made up.")] = 0,
    cluster: Annotated[bool, typer.Option(help="Time the stage on a cluster with 2 workers, too.")] = True,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
) -> None:
    """Find personal data and duplicates where they are known; print and write precision, recall and rows a second."""
    with exit_status():
        known = _read(personal, limit) if personal else made_up_personal(random.Random(seed))
        pairs = _read(rows, limit) if rows else made_up_rows(random.Random(seed))
        found, baselines = personal_figures(known)
        doubles = {name: duplicate_figures(texts) for name, texts in _texts(pairs).items()}
        speed = speeds(pairs, few=few, many=many, cluster=cluster)
        params = {
            "personal": personal and personal.name,
            "rows": rows and rows.name,
            "limit": limit,
            "few": few,
            "many": many,
            "seed": seed,
        }
        params |= {"num_texts": len(known), "num_rows": len(pairs), "similarity": SIMILARITY}
        ratios = {"duplicates_vs_exhaustive": {name: each["time_ratio"] for name, each in doubles.items()}}
        ratios |= {"personal_vs_presidio_speed": found["rows_per_s"] / baselines["presidio"]["rows_per_s"]}
        if cluster:
            ratios["two_workers_vs_one_process"] = speed["many_on_cluster"] / speed["many_in_one_process"]
            ratios["on_cluster_vs_one_process_of_few"] = speed["few_on_cluster"] / speed["few_in_one_process"]
        results = {"personal": found, "duplicates": doubles, "rows_per_s": speed}
        whole = record("datasets", params=params, results=results, baselines=baselines, ratios=ratios)
        _print(whole)
        if out:
            write(whole, out)


def personal_figures(known: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures by type of the stage, and of the baselines."""
    finder = PersonalFinder(kinds=known_kinds())
    finder.find("the first text pays for the imports: a@example.org")
    return _judged(known, finder.find), {
        "presidio": _judged(known, _stock_finder()),
        "gate_patterns": _judged(known, _gate_patterns),
    }


def _judged(known: Rows, find: Find) -> dict[str, Any]:
    started_s = time.process_time()
    every = [[(TYPES.get(hit.kind, hit.kind), hit.start, hit.end) for hit in find(row["text"])] for row in known]
    took_s = time.process_time() - started_s
    spans = [[(span["type"], span["start"], span["end"]) for span in row["spans"]] for row in known]
    counts = {name: Counter() for name in ("right", "hits", "met", "spans")}  # type: ignore[var-annotated]
    for hits, true in zip(every, spans, strict=True):
        counts["hits"].update(kind for kind, *_ in hits)
        counts["spans"].update(kind for kind, *_ in true)
        counts["right"].update(hit[0] for hit in hits if any(_meet(hit, span) for span in true))
        counts["met"].update(span[0] for span in true if any(_meet(hit, span) for hit in hits))
    by_type = {
        kind: {
            "spans": counts["spans"][kind],
            "hits": counts["hits"][kind],
            "precision": _ratio(counts["right"][kind], counts["hits"][kind]),
            "recall": _ratio(counts["met"][kind], counts["spans"][kind]),
        }
        for kind in sorted(counts["spans"] | counts["hits"])
    }
    return {"by_type": by_type, "rows_per_s": len(known) / took_s}


def _meet(hit: tuple[str, int, int], span: tuple[str, int, int]) -> bool:
    return hit[0] == span[0] and hit[1] < span[2] and span[1] < hit[2]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def duplicate_figures(texts: Sequence[str]) -> dict[str, Any]:
    """Texts that resemble an earlier one: how many there are, how many of them are found, and what either takes."""
    found, found_s = _timed(lambda: near_duplicates(texts, threshold=SIMILARITY))
    truth, truth_s = _timed(lambda: exhaustive(texts, threshold=SIMILARITY))
    first: dict[str, int] = {}
    repeats = {place for place, text in enumerate(texts) if first.setdefault(" ".join(text.split()), place) != place}
    later = {place for place, _ in found}
    return {
        "exact_repeats": len(repeats),
        "exact_repeats_found": _ratio(len(repeats & later), len(repeats)),
        "near_duplicates": len(truth),
        "precision": _ratio(len(later & truth), len(later)),
        "recall": _ratio(len(later & truth), len(truth)),
        "rows_per_s": len(texts) / found_s,
        "exhaustive_rows_per_s": len(texts) / truth_s,
        "time_ratio": found_s / truth_s,
    }


def shingles(text: str) -> set[tuple[str, ...]]:
    """Runs of three words; a shorter text is one run."""
    tokens = words(text)
    return ngrams(tokens, 3) or {tuple(tokens)}


def exhaustive(texts: Sequence[str], *, threshold: float) -> set[int]:
    """Every text whose shingles resemble an earlier text's; no pair is missed.

    Two sets of that similarity share one of the rarest shingles of each: as many as the larger part may differ in.
    """
    sets = [shingles(text) for text in texts]
    counts = Counter(run for each in sets for run in each)
    holders: dict[Any, list[int]] = defaultdict(list)
    later = set()
    for place, each in enumerate(sets):
        rarest = sorted(each, key=lambda run: (counts[run], run))[: len(each) - int(threshold * len(each) - 1e-9)]
        candidates = {earlier for run in rarest for earlier in holders[run]}
        if any(_similar(each, sets[earlier], threshold) for earlier in candidates):
            later.add(place)
        for run in rarest:
            holders[run].append(place)
    return later


def _similar(a: set[Any], b: set[Any], threshold: float) -> bool:
    close = min(len(a), len(b)) >= threshold * max(len(a), len(b)) - 1e-9
    return close and len(a & b) / len(a | b) >= threshold


def speeds(pairs: Rows, *, few: int, many: int, cluster: bool) -> dict[str, float]:
    """Rows a second: personal data alone, every look at one row, and the whole import with one process or a cluster.

    Importing runs in a process of its own, so that each pays for its own start.
    """
    rows: Rows = [row for each in pairs[:1000] for row in parse(each) if isinstance(row, dict)]
    finder, examiner = PersonalFinder(), Examiner(QualitySettings(), {})
    examiner(rows[:5])
    texts = [f"{row['question']} {row['answer']}" for row in rows]
    speed = {"personal": len(texts) / _timed(lambda: [finder.find(text) for text in texts])[1]}
    speed["every_look"] = len(texts) / _timed(lambda: examiner(rows))[1]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, number in zip(FILES, (few, many), strict=True):
            chosen = [{**pairs[n % len(pairs)], "question": _numbered(pairs, n)} for n in range(number)]
            lines = "".join(json.dumps(each) + "\n" for each in chosen)
            (place / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        with _cluster(place / "cluster") if cluster else nullcontext():
            for name in FILES:
                speed[f"{name}_in_one_process"] = _import_speed(place / f"{name}.jsonl", place / f"{name}_here")
                if cluster:
                    where = (place / f"{name}_there", place / "cluster")
                    speed[f"{name}_on_cluster"] = _import_speed(place / f"{name}.jsonl", *where)
    return speed


def _numbered(pairs: Rows, n: int) -> str:
    """A row's question; in its second turn and later with the number of the turn."""
    turn, question = n // len(pairs), pairs[n % len(pairs)]["question"]
    return f"{question} ({turn})" if turn else str(question)


def _import_speed(*arguments: Path) -> float:
    """Rows a second of wall-clock time; see the module that is run."""
    command = [sys.executable, "-m", "benchmarks._dataset_import", *map(str, arguments)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(ended.stdout.splitlines()[-1])


@contextmanager
def _cluster(place: Path) -> Iterator[None]:
    from app.core.cluster import ClusterSettings, down, up

    workspace = Workspace.find(place)
    up(workspace, settings=ClusterSettings())
    try:
        time.sleep(SETTLING_S)
        yield
    finally:
        down(workspace)


def _stock() -> Any:
    """presidio's engine with the recognisers that it loads by itself, but for those that a model or network feeds."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.predefined_recognizers.generic import email_recognizer

    domains = email_recognizer.tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    email_recognizer.tldextract = SimpleNamespace(extract=domains, TLDExtract=type(domains))
    registry = RecognizerRegistry(supported_languages=[LANGUAGE])
    registry.load_predefined_recognizers(languages=[LANGUAGE])
    registry.remove_recognizer("SpacyRecognizer")
    return AnalyzerEngine(registry=registry, nlp_engine=language_engine(None), supported_languages=[LANGUAGE])


def _stock_finder() -> Find:
    engine = _stock()
    return lambda text: [
        Hit(hit.entity_type, hit.start, hit.end) for hit in engine.analyze(text, LANGUAGE, score_threshold=0.4)
    ]


def _gate_patterns(text: str) -> list[Hit]:
    return [Hit(OWN_KINDS.get(hit.kind, "US_SSN"), hit.start, hit.end) for hit in find_personal(text)]


def made_up_personal(rng: random.Random) -> Rows:
    """Sentences with e-mail addresses and phone numbers, and as many without."""
    made = []
    for number in range(200):
        given = {"EMAIL_ADDRESS": f"user{number}@example.org", "PHONE_NUMBER": f"+49 30 {rng.randint(10**6, 10**7)}"}
        kind = rng.choice(sorted(given))
        text = f"Please call or write to {given[kind]} before noon."
        start = text.index(given[kind])
        made.append({"text": text, "spans": [{"type": kind, "start": start, "end": start + len(given[kind])}]})
        made.append({"text": f"Article {number} was read {rng.randint(2, 900)} times.", "spans": []})
    return made


def made_up_rows(rng: random.Random) -> Rows:
    """Questions with answers, one in ten a near-copy of an earlier one."""
    words = [f"word{number}" for number in range(500)]
    made: Rows = []
    for number in range(1000):
        answer = " ".join(rng.choices(words, k=60))
        if made and rng.random() < 0.1:
            answer = rng.choice(made)["answer"] + " indeed"
        made.append({"question": f"What is {words[number % 500]} of {number}?", "answer": answer})
    return made


def _texts(pairs: Rows) -> Mapping[str, list[str]]:
    return {
        "question_and_answer": [f"{row['question']} {row['answer']}" for row in pairs],
        "answer": [str(row["answer"]) for row in pairs],
        "question": [str(row["question"]) for row in pairs],
    }


def _read(path: Path, limit: int) -> Rows:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.decode().split("\n") if line][: limit or None]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started_s = time.process_time()
    result = work()
    return result, time.process_time() - started_s


def table(figures: Mapping[str, Any]) -> str:
    """README's table: kinds that recognisers know, duplicates, speed."""
    results, stock = figures["results"], figures["baselines"]["presidio"]["by_type"]
    lines = ["| personal data | spans | precision, recall | presidio alone |", "| --- | --- | --- | --- |"]
    for kind, own in results["personal"]["by_type"].items():
        if own["hits"]:
            other = stock.get(kind, {"precision": None, "recall": 0.0})
            lines.append(f"| {kind} | {own['spans']} | {_both(own)} | {_both(other)} |")
    lines += ["", "| near-duplicates among | there are | precision, recall | rows/s |", "| --- | --- | --- | --- |"]
    for name, own in results["duplicates"].items():
        named = name.replace("_", " ")
        lines.append(f"| {named} | {own['near_duplicates']:,} | {_both(own)} | {own['rows_per_s']:,.0f} |")
    return "\n".join(lines)


def _both(figures: Mapping[str, Any]) -> str:
    return ", ".join("-" if figures[key] is None else f"{figures[key]:.3f}" for key in ("precision", "recall"))


def _print(whole: Mapping[str, Any]) -> None:
    print(table(whole))
    missed = [kind for kind, figures in whole["results"]["personal"]["by_type"].items() if not figures["hits"]]
    print(f"\nkinds never found without a model: {', '.join(missed) or 'none'}")
    for name, figures in whole["results"]["duplicates"].items():
        print(f"exact repeats among {name}: {figures['exact_repeats']}, found {figures['exact_repeats_found']}")
    print(f"rows/s: {json.dumps({key: round(value) for key, value in whole['results']['rows_per_s'].items()})}")
    print(f"ratios: {json.dumps(whole['ratios'])}")


if __name__ == "__main__":
    app()
