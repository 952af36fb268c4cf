"""A long load while replicas are killed: is a request lost, is a row of the log lost, does memory grow?"""

import random
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil

from app.core.jobs import ClusterUnreachable
from app.serving.log import read_log
from benchmarks._serving_app import Application
from benchmarks._serving_load import Reply, Users, summary

KILL_PERIOD_S = 30.0
LOOK_PERIOD_S = 5.0
LOG_WAIT_S = 75.0
"""The log's journals of killed gateways are looked for once a minute."""
GIVE_UP_S = 600.0
"""As long as OpenAI's client waits."""


def soak(
    served: Application, bodies: Sequence[Mapping[str, Any]], *, rate_per_s: float, seconds: float, seed: int
) -> dict[str, Any]:
    """So many requests a second by clients that retry, while every 30 s a replica is killed; ``skipped`` for 0 s."""
    if not seconds:
        return {"skipped": "--soak-s 0"}
    with disturbing(served, random.Random(seed)) as seen:
        users = Users(served.url, bodies, retries=True, give_up_s=GIVE_UP_S)
        replies = users.open(rate_per_s=rate_per_s, seconds=seconds, seed=seed)
    time.sleep(LOG_WAIT_S)
    return summary(replies) | {
        "rate_per_s": rate_per_s,
        "seconds": seconds,
        "num_killed": len(seen.killed),
        "killed": sorted(set(seen.killed)),
        "num_retried": sum(reply.num_retries > 0 for reply in replies),
        "num_lost": sum(not reply.ok for reply in replies),
        "num_log_rows_lost": _unlogged(served, replies),
        "memory_growth": seen.growth(),
    }


def _unlogged(served: Application, replies: Sequence[Reply]) -> int:
    """Answers that a client got and the log does not hold."""
    logged = set(read_log(served.workspace.requests_dir)["request_id"].to_pylist())
    return sum(reply.ok and reply.request_id not in logged for reply in replies)


class Disturbance:
    """What was killed, and the application's memory over time, in bytes."""

    def __init__(self) -> None:
        self.killed: list[str] = []
        self.resident_bytes: list[int] = []

    def growth(self) -> float | None:
        """Memory of the last third of the time over that of the second; the first is for warming up."""
        third = len(self.resident_bytes) // 3
        if not third:
            return None
        middle, last = self.resident_bytes[third : 2 * third], self.resident_bytes[-third:]
        return statistics.median(last) / statistics.median(middle)


@contextmanager
def disturbing(served: Application, rng: random.Random) -> Iterator[Disturbance]:
    """Kill a replica of a random deployment now and then, for as long as the context lasts."""
    seen, over = Disturbance(), threading.Event()

    def disturb() -> None:
        next_kill_s = time.monotonic() + KILL_PERIOD_S
        while not over.wait(LOOK_PERIOD_S):
            try:
                replicas = {name: pids for name, pids in served.replicas().items() if pids}
            except ClusterUnreachable:  # the dashboard is as busy as all else: the next look will do
                continue
            seen.resident_bytes.append(sum(map(_resident_bytes, (pid for pids in replicas.values() for pid in pids))))
            if time.monotonic() >= next_kill_s:
                name = rng.choice(sorted(replicas))
                if _killed(rng.choice(replicas[name])):
                    seen.killed.append(name)
                    next_kill_s += KILL_PERIOD_S

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(disturb)
        try:
            yield seen
        finally:
            over.set()
        done.result()


def _killed(pid: int) -> bool:
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
