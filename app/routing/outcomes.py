"""Recorded outcomes: of each prompt, how good every model's answer was; what a router learns from and is judged by.

Formats, one JSON object per line, gzipped or not: ``prompt`` (or ``question``) with either ``scores`` ({model: 0 to 1})
or one ``MODEL_correct`` field per model; optionally ``MODEL_response`` (the text of a model's answer), and ``subject``,
``task`` or ``group``, by which prompts belong together. Guarantees: models stand in the order of their names; a row
without a prompt or without a model's score is refused with its number, not passed over.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from app.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPTS, GROUPS = ("prompt", "question"), ("subject", "task", "group")
CORRECT, RESPONSE = "_correct", "_response"


class BadOutcomes(UsageError):
    """A file of outcomes cannot be read; the message names the line and what it lacks."""


@dataclass(frozen=True)
class Outcomes:
    """Prompts, and the quality of every model's answer to each."""

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    quality: "NDArray[np.float64]"
    """0 to 1, (n, models)."""
    groups: tuple[str, ...]
    """What each prompt belongs to; empty strings where the file does not say."""
    answers: Mapping[str, tuple[str, ...]]
    """Texts of answers, of the models of which every row has one."""

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, places: "NDArray[np.int64]") -> "Outcomes":
        """Some of the rows."""
        chosen = [int(place) for place in places]
        answers = {model: tuple(texts[place] for place in chosen) for model, texts in self.answers.items()}
        prompts, groups = (tuple(each[place] for place in chosen) for each in (self.prompts, self.groups))
        return Outcomes(prompts, self.models, self.quality[chosen], groups, answers)

    def of(self, models: Sequence[str]) -> "Outcomes":
        """The same rows with these models, in this order.

        Raises:
            BadOutcomes: the rows have no scores of one of them.
        """
        if unknown := [model for model in models if model not in self.models]:
            raise BadOutcomes(f"there are no scores of {unknown[0]}: name one of {', '.join(self.models)}")
        columns = [self.models.index(model) for model in models]
        answers = {model: self.answers[model] for model in models if model in self.answers}
        return Outcomes(self.prompts, tuple(models), self.quality[:, columns], self.groups, answers)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of outcomes.

        Raises:
            BadOutcomes: a line is no such object, or the file is empty or missing.
        """
        import numpy as np

        rows = list(_rows(path))
        if not rows:
            raise BadOutcomes(f"{path} holds no row: give a file of outcomes, one JSON object per line")
        models = tuple(sorted(rows[0][1]))
        for number, (_, quality, _) in enumerate(rows, start=1):
            if tuple(sorted(quality)) != models:
                raise BadOutcomes(
                    f"{path}, line {number}: it has scores of {sorted(quality)}, the first of {list(models)}"
                )
        table = np.array([[quality[model] for model in models] for _, quality, _ in rows], dtype=np.float64)
        said = [{model: row.get(model + RESPONSE) for model in models} for _, _, row in rows]
        answers = {
            model: tuple(str(each[model]) for each in said)
            for model in models
            if all(isinstance(each[model], str) for each in said)
        }
        groups = tuple(next((str(row[name]) for name in GROUPS if row.get(name)), "") for _, _, row in rows)
        return cls(tuple(prompt for prompt, _, _ in rows), models, table, groups, answers)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, float], dict[str, Any]]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _row(line, where=f"{path}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadOutcomes(f"{path} cannot be read ({error}): give a file of JSON lines") from error


def _row(line: str, *, where: str) -> tuple[str, dict[str, float], dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadOutcomes(f"{where}: it is not JSON ({error})") from error
    prompt = (
        next((row[name] for name in PROMPTS if isinstance(row.get(name), str)), None) if isinstance(row, dict) else None
    )
    if prompt is None:
        raise BadOutcomes(f"{where}: it has no text in any of the fields {', '.join(PROMPTS)}")
    found = row.get("scores") or {
        name.removesuffix(CORRECT): value for name, value in row.items() if name.endswith(CORRECT)
    }
    quality = {str(model): float(value) for model, value in found.items() if isinstance(value, bool | int | float)}
    if not quality or len(quality) < len(found) or not all(0 <= value <= 1 for value in quality.values()):
        raise BadOutcomes(f"{where}: give scores from 0 to 1 by model, as `scores` or as `MODEL{CORRECT}` fields")
    return prompt, quality, row
