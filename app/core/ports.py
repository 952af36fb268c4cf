"""Free ports for the many listeners of one Ray head.

Guarantees: at the time of the look, nobody listened on any port of the block, on any interface. Not guaranteed: that
nobody comes in between; whoever starts clusters holds :func:`starting` so that at least they do not meet each other.
"""

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.errors import SignalboxError

LISTENERS = (
    "gcs",
    "object_manager",
    "node_manager",
    "ray_client",
    "dashboard",
    "serve",
    "agent_http",
    "agent_grpc",
    "runtime_env_agent",
    "metrics",
    "dashboard_metrics",
)
"""Every listener of a head, in the order of their ports in a block."""

BLOCK_SIZE = 200
"""Ports of one cluster: the listeners' first, the workers' from FIRST_WORKER on."""
FIRST_WORKER = 20


class PortInUse(SignalboxError):
    """Somebody listens on a port that was asked for: end that program or ask for another port."""


@contextmanager
def starting() -> Iterator[None]:
    """One start of a cluster at a time for each user of this machine."""
    path = Path(tempfile.gettempdir()) / f"signalbox-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_free(port: int) -> bool:
    """Whether nobody listens on ``port`` on any interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
            return True
        except OSError:
            return False


def choose_block(*, first: int, last: int, seed: int) -> int:
    """First port of a free block between ``first`` and ``last``; the same ``seed`` prefers the same block."""
    num_blocks = (last - first + 1) // BLOCK_SIZE
    for turn in range(num_blocks):
        start = first + (seed + turn) % num_blocks * BLOCK_SIZE
        if all(is_free(port) for port in range(start, start + BLOCK_SIZE)):
            return start
    raise PortInUse(f"no {BLOCK_SIZE} ports in a row are free between {first} and {last}: end some programs first")


def choose_ports(*, first: int, last: int, seed: int, wanted: dict[str, int | None]) -> dict[str, int]:
    """A port for every listener; ``wanted`` names those that must be exactly so."""
    for name, port in wanted.items():
        if port is not None and not is_free(port):
            raise PortInUse(f"port {port} is in use: end the program that listens there, or set another {name}_port")
    start = choose_block(first=first, last=last, seed=seed)
    ports = {name: start + offset for offset, name in enumerate(LISTENERS)}
    ports |= {name: port for name, port in wanted.items() if port is not None}
    return ports | {"first_worker": start + FIRST_WORKER, "last_worker": start + BLOCK_SIZE - 1}
