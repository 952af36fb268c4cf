"""What verification finds: faults, each with a kind, a place and a sentence."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was signed.

    ``kind`` is for programs (``changed-leaf``), ``where`` names the leaf, version or file, ``message`` is for people.
    """

    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Report:
    """What was checked and everything that was found; ``notes`` are observations that are no faults."""

    num_leaves: int = 0
    num_checkpoints: int = 0
    num_artifacts: int = 0
    num_files: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def exit_status(self) -> int:
        """0 when all holds, 1 when something does not."""
        return 0 if self.ok else 1

    def add(self, kind: str, where: str, message: str) -> None:
        self.faults.append(Fault(kind, where, message))

    def lines(self) -> list[str]:
        """The report for a terminal: a line for each fault and note, the sum last."""
        checked = f"{self.num_leaves} leaves, {self.num_checkpoints} checkpoints, {self.num_artifacts} artifacts"
        end = "all hold" if self.ok else f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)} found"
        found = [f"FAULT {fault.kind}: {fault}" for fault in self.faults]
        return [*found, *(f"note: {note}" for note in self.notes), f"{checked}, {self.num_files} files checked: {end}"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles while a million leaves are read: there are none, and looking doubles the time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
