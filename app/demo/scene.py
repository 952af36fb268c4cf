"""What the acts of the demo share: where they play, the stopwatch of each step, and the figures for the report.

Guarantees: every step is timed and announced; figures go into one dictionary, from which table, JSON and page are made.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from app.core.workspace import Workspace
from app.demo.material import Material
from app.demo.traffic import Traffic, Users
from app.registry.versions import Registry
from app.settings import SignalboxSettings


@dataclass
class Scene:
    """The stage of one run of the demo."""

    workspace: Workspace
    settings: SignalboxSettings
    registry: Registry
    material: Material
    console: Console
    serve_url: str
    figures: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    phases: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def documents(self) -> Path:
        """The folder that the organisation publishes its documents in."""
        return self.workspace.demo_dir / self.material.dataset

    @property
    def users(self) -> Users:
        """The people who ask."""
        return Users(self.serve_url)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce a step and take its time."""
        self.console.rule(f"[bold]{len(self.steps) + 1}. {name}", align="left")
        started_s = time.monotonic()
        yield
        duration_s = time.monotonic() - started_s
        self.steps.append({"name": name, "duration_s": round(duration_s, 2)})
        self.console.print(f"[dim]{duration_s:.1f} s[/dim]")

    def say(self, text: str) -> None:
        """One line to the reader; text from documents is shown as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
