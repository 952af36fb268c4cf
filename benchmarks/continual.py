"""Continual learning: how much of what joint training reaches does an encoder keep that learns tasks one after another,
and how much does it forget, by each of the usual methods?

MiniLM with a linear head per task learns the tasks in several orders: fine-tuned in turn (``sequential``), with replay,
with replay and all that ours has beside OSFT (``replay_refit``), by adapters that are merged after each task (``lora``,
PEFT), by PEFT's OSF (``peft_osf``), by our OSFT, and by it with replay (``osft_replay``). ``joint`` learns all rows at
once, the upper bound; ``single`` is a model per task. All start from the same encoder, see the same rows in the same
order by seed and task, and pass over them as often; ``joint`` passes as often as the methods with replay, the replayed
rows counted in. No method trains the word embeddings.

Rates were chosen on other samples (seeds 1 and 14) by what anybody would: the mean accuracy of a model per task. Plain
training at 1.4e-4 (the rate of ``methods.RATES`` at 15 steps): .587, at 4e-4 .565 (8 tasks, 300 test rows); PEFT's OSF
.739, at 5e-4 .620 (4 tasks, 200 test rows). ``KEEP``, the share and the weight of what is replayed were chosen on parts
of the tasks in one order each (seeds 11 to 13), by average and forgetting; ``WITH_REPLAY`` on four tasks each of seeds
22 and 23, cut at 32 tokens: heads fitted anew gave .580 and a forgetting of -.011 where there had been .557 and .029
(sequential .567 and .027), and on the other four .540 and .006 (sequential .546 and .008), where .037 of the answers
changed with a task (sequential .114); later tasks at .4 of the rate left .010 of them, for an average of .529.

Runs share nothing but the tokenised texts, and stand on one core each, as many at once as there are cores. Without
``--rows`` the sample of each task is as large as should fit into 20 minutes, by the number of the tasks, the lengths of
their texts and the speed of this machine's cores, which is measured first; where that leaves few rows (a processor
without fast products in bf16 takes three times as long), there are fewer orders. ``average`` and ``forgetting`` are
those of Chaudhry et al. (2018), means over the orders; ``forward_transfer`` is held against ``single`` (see
:mod:`app.training.matrix`).
"""

import math
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Annotated, Any

import numpy as np
import typer

from app.core.errors import UsageError, exit_status
from app.core.progress import progress, watched
from app.training.continual import Task
from app.training.heads.settings import HeadSettings
from app.training.matrix import Matrix, draw_matrices
from benchmarks import _continual_methods as methods
from benchmarks._continual_methods import IN_TURN, METHODS, REPLAY_SHARE, Job, Outcome, Setup
from benchmarks._continual_tasks import RawTask, choose, made_up, read_folder
from benchmarks._record import record, write

MAX_PROCESSES, POLL_S = 8, 0.5
BUDGET_S = 960
"""Seconds that all runs together should take."""
LEARNED_PASSES, TOGETHER_PASSES, JUDGED_PASSES = 14.0, 3.0, 2.1
"""Epochs of an order's runs and of ``joint`` and ``single``, each by what it costs beside fine-tuning; and an order's
judgings of a task, by what they cost beside it."""
BATCH_SIZE = 24
RATED_STEPS, HEAD_TRAVEL = 30, 0.12
"""Steps of a task for which the rates of ``methods.RATES`` are meant (they fall with the root of the steps), and the
product of steps and the heads' rate."""
MIN_ROWS, ENOUGH_ROWS, ROWS_STEP, LOOKED_ROWS = 40, 80, 20, 200
MIN_EPOCHS, MAX_EPOCHS, LEARNED_ROWS = 2, 3, 300
MIN_TEST_ROWS, TEST_SHARE = 100, 2.0
REPLAYED, REPLAYED_ROWS = 0.2, 50
"""Replay remembers so large a share of all training rows, and so many rows for each task at least."""
COMPARED = (("joint", "average"), ("peft_osf", "average"), ("sequential", "forgetting"), ("peft_osf", "forgetting"))
"""What ours is held against, and by which figure."""
app = typer.Typer(add_completion=False)


@app.command()
def main(
    tasks: Annotated[Path | None, typer.Option(help="Folder of tasks; default: a small set is made up.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; default: none.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for the accuracies as heat maps.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Training rows of each task; 0: as many as fit.")] = 0,
    orders: Annotated[int, typer.Option(min=1, help="Orders of the tasks; without --rows, at most.")] = 3,
    only: Annotated[str, typer.Option("--methods", help="Methods, separated by commas.")] = ",".join(METHODS),
    seed: Annotated[int, typer.Option(min=0, help="Seed of sample, orders and training.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=8, max=512, help="Longer texts are cut.")] = 48,
    processes: Annotated[int, typer.Option(min=0, help="Runs at once; 0: one for each core.")] = 0,
) -> None:
    """Learn the tasks in turn by each method, and print what was kept and what forgotten."""
    with exit_status():
        if tasks is None:
            print("no --tasks: a small set of four tasks is made up", file=sys.stderr)
        raw = read_folder(tasks) if tasks else made_up(seed=seed)
        figures = measure(
            raw, names=chosen_methods(only), rows=rows, num_orders=orders, seed=seed, max_tokens=max_tokens,
            num_processes=processes or min(MAX_PROCESSES, len(os.sched_getaffinity(0))),
        )  # fmt: skip
        print(table(figures))
        if out:
            write(figures, out)
        if plot:
            draw(figures, plot)


def chosen_methods(only: str) -> list[str]:
    """The methods that were asked for, in the table's order.

    Raises:
        UsageError: one is none of them.
    """
    asked = {name.strip() for name in only.split(",")}
    if unknown := asked - set(METHODS):
        raise UsageError(f"no method {sorted(unknown)[0]!r}: known are {', '.join(METHODS)}")
    return [name for name in METHODS if name in asked]


def measure(
    raw: Sequence[RawTask],
    *,
    names: Sequence[str],
    rows: int,
    num_orders: int,
    seed: int,
    max_tokens: int,
    num_processes: int,
) -> dict[str, Any]:
    """The benchmark's figures."""
    began_s = time.perf_counter()
    if not rows:
        budget = methods.tokens_per_s(BATCH_SIZE) * BUDGET_S * num_processes
        rows, num_orders = fitting(raw, budget_tokens=budget, num_orders=num_orders, seed=seed, max_tokens=max_tokens)
    tasks = choose(raw, rows=rows, test_rows=test_rows(rows), seed=seed, max_tokens=max_tokens)
    setup = make_setup(tasks, seed=seed, max_tokens=max_tokens)
    orders = make_orders([task.name for task in tasks], num_orders, seed=seed)
    jobs = [Job(name, n, order) for name in names for n, order in enumerate(orders) if name in IN_TURN or n == 0]
    outcomes = run_all(jobs, setup, num_processes=num_processes)
    results = summed_up(outcomes, names)
    params = {
        "tasks": {task.name: _described(task, each) for task, each in zip(tasks, raw, strict=True)},
        "rows": rows,
        "orders": orders,
        "seed": seed,
        "max_tokens": max_tokens,
        "epochs": setup.head.num_epochs,
        "batch_size": setup.head.batch_size,
        "head_learning_rate": setup.head.head_learning_rate,
        "learning_rates": {kind: rate * setup.rate_factor for kind, rate in methods.RATES.items()},
        "keep": methods.KEEP,
        "with_replay": methods.WITH_REPLAY,
        "replay_share": REPLAY_SHARE,
        "replay_rows": setup.replay_rows,
        "processes": num_processes,
        "minutes": (time.perf_counter() - began_s) / 60,
    }
    baselines = {name: results[name] for name in names if not name.startswith("osft")}
    return record("continual", params=params, results=results, baselines=_figures(baselines), ratios=ratios(results))


def fitting(
    raw: Sequence[RawTask], *, budget_tokens: float, num_orders: int, seed: int, max_tokens: int
) -> tuple[int, int]:
    """Rows of each task, and orders, with which all runs together learn at most so many tokens, by some texts' lengths.

    As many orders as leave ``ENOUGH_ROWS``, and then as many rows as fit.
    """
    looked = choose(raw, rows=LOOKED_ROWS, test_rows=1, seed=seed, max_tokens=max_tokens)
    mean_tokens = sum(statistics.fmean(len(row.ids) for row in task.train) for task in looked)
    largest = max(len(task.splits["train"]) for task in raw)

    def cost(rows: int, orders: int) -> float:
        learned = (LEARNED_PASSES * orders + TOGETHER_PASSES) * rows * num_epochs(rows)
        return mean_tokens * (learned + JUDGED_PASSES * orders * test_rows(rows) * (len(raw) + 1) / 2)

    def rows_in(orders: int) -> int:
        tried = range(MIN_ROWS, largest + ROWS_STEP, ROWS_STEP)
        return max([MIN_ROWS, *(rows for rows in tried if cost(rows, orders) <= budget_tokens)])

    orders = next((orders for orders in range(num_orders, 1, -1) if rows_in(orders) >= ENOUGH_ROWS), 1)
    return rows_in(orders), orders


def num_epochs(rows: int) -> int:
    """Passes over a task's rows: the fewer there are, the more."""
    return max(MIN_EPOCHS, min(MAX_EPOCHS, math.ceil(LEARNED_ROWS / rows)))


def test_rows(rows: int) -> int:
    """Rows of each task that are judged, in proportion to those that are learned."""
    return max(MIN_TEST_ROWS, round(rows * TEST_SHARE))


def make_setup(tasks: Sequence[Task], *, seed: int, max_tokens: int) -> Setup:
    """What the runs share, by the size of the data."""
    num_rows = sum(len(task.train) for task in tasks)
    epochs = num_epochs(num_rows // len(tasks))
    steps = math.ceil(num_rows / len(tasks) / BATCH_SIZE) * epochs
    head = HeadSettings(
        num_epochs=epochs,
        batch_size=BATCH_SIZE,
        max_tokens=max_tokens,
        seed=seed,
        head_learning_rate=min(1e-2, max(2e-3, HEAD_TRAVEL / steps)),
    )
    replay_rows = round(max(num_rows * REPLAYED, REPLAYED_ROWS * len(tasks)))
    return Setup({task.name: task for task in tasks}, head, replay_rows, math.sqrt(RATED_STEPS / steps))


def make_orders(names: Sequence[str], num: int, *, seed: int) -> list[list[str]]:
    """The given order first, then shuffled ones."""
    shuffled = [np.random.default_rng([seed, n]).permutation(list(names)).tolist() for n in range(1, num)]
    return [list(names), *shuffled]


def run_all(jobs: Sequence[Job], setup: Setup, *, num_processes: int) -> list[Outcome]:
    """Run the jobs, the long ones first, each on one thread, with a bar of the tasks; outcomes in the jobs' order."""
    ranked = sorted(jobs, key=lambda job: methods.WEIGHTS[job.method], reverse=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    done: Queue[str] = context.Queue()

    def watch(stop: threading.Event) -> None:
        while not stop.is_set() or not done.empty():
            with suppress(Empty):
                bar.advance(1, done.get(timeout=POLL_S))

    with (
        progress("tasks learned", sum(len(job.tasks) for job in jobs)) as bar,
        watched(watch),
        ProcessPoolExecutor(num_processes, context, initializer=methods.prepare, initargs=(setup, done)) as pool,
    ):
        found = dict(zip(map(id, ranked), pool.map(methods.run, ranked), strict=True))
    return [found[id(job)] for job in jobs]


def summed_up(outcomes: Sequence[Outcome], names: Sequence[str]) -> dict[str, Any]:
    """The figures of each method, forward transfer too where there is a model per task to hold it against."""
    results = {name: _result([each for each in outcomes if each.job.method == name]) for name in names}
    for name in set(names) & set(IN_TURN) if "single" in results else ():
        own = [each.matrix for each in outcomes if each.job.method == name and each.matrix]
        found = [matrix.forward_transfer(results["single"]["accuracies"]) for matrix in own]
        results[name]["forward_transfer"] = statistics.fmean(found)
    return results


def _result(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means over a method's orders, and each order's own."""
    seconds = statistics.fmean(each.seconds for each in outcomes)
    matrices = [each.matrix for each in outcomes if each.matrix]
    if not matrices:
        accuracies = outcomes[0].accuracies
        return {"average": statistics.fmean(accuracies.values()), "forgetting": 0.0, "accuracies": accuracies,
                "seconds": seconds}  # fmt: skip
    figures = [
        {"average": each.average(), "forgetting": each.forgetting(), "backward_transfer": each.backward_transfer()}
        for each in matrices
    ]
    means: dict[str, Any] = {name: statistics.fmean(each[name] for each in figures) for name in figures[0]}
    orders = [
        {**own, "tasks": matrix.tasks, "matrix": matrix.rows} for own, matrix in zip(figures, matrices, strict=True)
    ]
    leak = max(each.leak for each in outcomes)
    return {**means, **({"leak": leak} if leak else {}), "seconds": seconds, "orders": orders}


def _described(task: Task, raw: RawTask) -> dict[str, int]:
    sizes = {"labels": len(task.labels), "train": len(task.train), "test": len(task.test)}
    return {**sizes, "left_out_unknown_label": raw.num_left_out}


def _figures(results: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: each[key] for key in ("average", "forgetting")} for name, each in results.items()}


def ratios(results: dict[str, Any]) -> dict[str, float]:
    """Ours beside the others, where both were measured; none for a forgetting of 0 or less."""
    found = {}
    for ours in ("osft", "osft_replay"):
        for other, figure in COMPARED:
            if ours in results and other in results and results[other][figure] > 0:
                found[f"{ours}_{figure}_vs_{other}"] = results[ours][figure] / results[other][figure]
    return found


def table(figures: dict[str, Any]) -> str:
    """README's table: means over the orders."""
    lines = [
        "| method | average | forgetting | backward | forward | s a run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, each in figures["results"].items():
        moved = [f"{each[key]:+.3f}" if key in each else "" for key in ("backward_transfer", "forward_transfer")]
        lost = f"{each['forgetting']:.3f}" if "orders" in each else ""
        cells = [name.replace("_", " "), f"{each['average']:.3f}", lost, *moved, f"{each['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for other, figure in COMPARED:
        if (name := f"osft_replay_{figure}_vs_{other}") in figures["ratios"]:
            place = "| {} | |" if figure == "average" else "| | {} |"
            cells = place.format(f"{figures['ratios'][name]:.3f}")
            lines.append(f"| osft replay over {other.replace('_', ' ')} {cells} | | |")
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Heat maps of the first order's matrices, a panel for each method; says so where matplotlib is missing."""
    shown = {name: each["orders"][0] for name, each in figures["results"].items() if "orders" in each}
    panels = {
        f"{name}: {order['average']:.3f}, forgot {order['forgetting']:.3f}": Matrix(order["tasks"], order["matrix"])
        for name, order in shown.items()
    }
    try:
        draw_matrices(panels, path)
    except ImportError:
        print(f"{path} is not drawn: matplotlib is not installed", file=sys.stderr)


if __name__ == "__main__":
    app()
