"""A PostgreSQL server of one's own for tests and benchmarks: started from the installed binaries, then removed.

Guarantees: it listens on a free loopback port, asks for a random password, keeps its data in a fresh temp folder, and
at the end exactly the process started here is ended. As root it runs as the user `postgres`: initdb refuses root.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DEBIAN = "/usr/lib/postgresql"
USER = "signalbox"
START_S = 60.0
STOP_S = 30.0


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, the newest version that is installed; None when there is none."""
    found = sorted(Path(DEBIAN).glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    known = shutil.which("initdb")
    return found[-1].parent if found else Path(known).resolve().parent if known else None


@contextlib.contextmanager
def server(bin_dir: Path, *, options: Sequence[str] = ()) -> Iterator[str]:
    """A running server; yields the URL of its database `postgres`, for ``new_database``.

    Args:
        options: more settings, as ``name=value``.
    """
    folder = Path(tempfile.mkdtemp(prefix="signalbox-pg-"))
    try:
        password, port = secrets.token_hex(16), _free_port()
        _init(bin_dir, folder, password)
        url = f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}/postgres"
        settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *options]
        with (folder / "log").open("wb") as log:
            command = [str(bin_dir / "postgres"), "-D", str(folder / "data"), *_flags(settings)]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **_identity())
        try:
            _wait(process, url, folder / "log")
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(url: str, name: str) -> str:
    """Make an empty database on the server of ``url``; its URL comes back."""
    with _connect(url) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"{url.rpartition('/')[0]}/{name}"


def _flags(settings: Sequence[str]) -> Iterator[str]:
    for each in settings:
        yield from ("-c", each)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _identity() -> dict[str, Any]:
    """Whose process it is: as root the user `postgres`, else one's own."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def _init(bin_dir: Path, folder: Path, password: str) -> None:
    secret = folder / "password"
    secret.write_text(password)
    if os.geteuid() == 0:
        for path in (folder, secret):
            shutil.chown(path, "postgres", "postgres")
    options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync"]
    command = [str(bin_dir / "initdb"), "-D", str(folder / "data"), "-U", USER, *options]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **_identity())


def _connect(url: str) -> Any:
    import psycopg

    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True, connect_timeout=5)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_S
    while True:
        try:
            _connect(url).close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text(errors='replace')[-500:]}") from error
            time.sleep(0.05)
