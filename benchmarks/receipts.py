"""What does a receipt cost on the answer's path, and how fast is the request log verified?

The baseline of the receipt is what a log without receipts does with a record there: dump request and response as JSON.
The baseline of the verification is hashing the same parts' bytes whole.
"""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.core.clock import utc_now
from app.core.digests import digest_file
from app.core.errors import exit_status
from app.ledger.batches import read_receipts, root_of, seal, write_part
from app.ledger.verify_requests import check_part
from benchmarks._record import record, write

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    rows: Annotated[int, typer.Option(help="Requests, in parts of 2,000.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the made-up requests.")] = 0,
) -> None:
    """Seal, write and verify requests of the usual size (4 citations, 384 numbers of embedding, 2.6 kB of response)."""
    with exit_status(), tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), num_rows=rows, seed=seed)
        for name, value in {**figures["results"], **figures["ratios"]}.items():
            print(f"{name:28} {value:12,.2f}")
        if out:
            write(figures, out)


def measure(folder: Path, *, num_rows: int, seed: int) -> dict[str, Any]:
    """The benchmark's figures."""
    records = [_made_up(random.Random(seed + number), number) for number in range(min(num_rows, 2_000))]
    sealed, seal_s = _timed(lambda: [seal(each) for each in records])
    _, header_s = _timed(lambda: [each.header for each in sealed])
    _, dump_s = _timed(
        lambda: [(json.dumps(each["request_json"]), json.dumps(each["response_json"])) for each in records]
    )
    parts = [folder / f"{number}.parquet" for number in range(max(1, num_rows // len(records)))]
    _, write_s = _timed(lambda: [write_part(part, sealed) for part in parts])
    roots = {part: root_of(read_receipts(part)) for part in parts}
    faults, verify_s = _timed(lambda: [list(check_part(part, root, erased=set())) for part, root in roots.items()])
    _, hash_s = _timed(lambda: [digest_file(part) for part in parts])
    assert not any(faults)
    receipt_us, count = 1e6 * (seal_s + header_s) / len(records), len(parts) * len(records)
    results = {"receipt_us": receipt_us, "write_rows_per_s": count / write_s, "verify_rows_per_s": count / verify_s}
    results["bytes_per_row"] = sum(part.stat().st_size for part in parts) / count
    baselines = {"json_dumps_us": 1e6 * dump_s / len(records), "hash_file_rows_per_s": count / hash_s}
    ratios = {
        "receipt_vs_json_dumps": receipt_us / baselines["json_dumps_us"],
        "verify_vs_hash_file": verify_s / hash_s,
    }
    params = {"rows": count, "seed": seed}
    return record("receipts", params=params, results=results, baselines=baselines, ratios=ratios)


def _timed(work: Any) -> tuple[Any, float]:
    """A result and the processor time that it took, so that a busy machine counts less."""
    started_s = time.process_time()
    result = work()
    return result, time.process_time() - started_s


def _made_up(rng: random.Random, number: int) -> dict[str, Any]:
    ids = {name: f"sha256:{rng.getrandbits(256):064x}" for name in ("document_id", "chunk_id")}
    words = " ".join(f"w{rng.randrange(5000)}" for _ in range(40))
    cited = {**ids, "source": "loans.md", "title": "Loans", "quote": words}
    citations = [{**cited, "heading_path": ["Loans", "Fees"]}] * 4
    attempt = {"rung": "small", "model": "m" * 71, "text": words, "confidence": rng.random(), "threshold": 0.5}
    account = {"request_id": f"r{number}", "route": "small", "attempts": [attempt] * 2, "cost_usd": rng.random() / 1e3}
    message = {"role": "assistant", "content": words, "refusal": None}
    response = {"id": f"chatcmpl-{number}", "choices": [{"index": 0, "message": message}], "citations": citations}
    return {
        "request_id": f"r{number}",
        "time": utc_now(),
        "release": "sha256:" + "a" * 64,
        "route": "small",
        "question": words,
        "answer": words,
        "citations": [{**cited, "heading": "Loans > Fees"}] * 4,
        "embedding": [rng.gauss(0, 0.05) for _ in range(384)],
        "confidence": rng.random(),
        "retrieval_score": rng.random(),
        "status": 200,
        "request_json": {"model": "signalbox", "messages": [{"role": "user", "content": words}]},
        "response_json": {**response, "signalbox": account},
    }


if __name__ == "__main__":
    app()
