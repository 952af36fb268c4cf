"""Tasks learned one after another by one encoder: replay, subspaces that are split anew, and what was forgotten.

Replay keeps a uniform sample of all rows seen so far (reservoir sampling: Vitter, ACM TOMS 11, 1985), each with what
the model said of it when its task had been learned, and shows some of it in each step: to be labelled, and to be said
again (dark experience replay, DER++: Buzzega et al., NeurIPS 2020, arXiv 2004.07211). A head learns in its own task
only: the encoder has to stay usable for it. With `refit_heads` every row, a new one too, keeps what all heads say of it
(as in learning without forgetting: Li and Hoiem, ECCV 2016, arXiv 1606.09282), and after a task the heads are fitted
anew to the features as they are by then: its own to the labels, those of the tasks before to what they said. With
`osft` the encoder's weights, as the tasks before left them, are split anew at each task, and a larger share of their
directions is kept (arXiv 2504.07097, section 3).
Guarantees: the rows of a step follow from settings, seed and the tasks so far alone, whatever else the method does, so
that methods are compared on the same rows in the same order.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from app.training.heads.per_task import Batch, HeadedEncoder, LabelledRow, accuracy, features_of
from app.training.heads.per_task_fit import add_adapters, fit, merge_adapters, ordered_batches
from app.training.heads.settings import HeadSettings
from app.training.matrix import Matrix
from app.training.osft import Osft, chosen_weights
from app.training.refit import fit_labels, follow
from app.training.sequence import kept_share
from app.training.settings import ContinualSettings


@dataclass(frozen=True)
class Task:
    """Rows of one task to learn and to be judged by; ``labels`` by their numbers."""

    name: str
    labels: Sequence[str]
    train: Sequence[LabelledRow]
    test: Sequence[LabelledRow]


class Reservoir:
    """A uniform sample of all rows that it was offered."""

    def __init__(self, capacity: int, *, seed: int) -> None:
        self.rows: list[LabelledRow] = []
        self._capacity, self._seen = capacity, 0
        self._random = np.random.default_rng([seed, 1])

    def offer(self, rows: Iterable[LabelledRow]) -> None:
        """Show it rows, each once; it keeps each with equal chance."""
        for row in rows:
            self._seen += 1
            if len(self.rows) < self._capacity:
                self.rows.append(row)
            elif (place := int(self._random.integers(self._seen))) < self._capacity:
                self.rows[place] = row

    def draws(self, num_steps: int, num_rows: int, *, seed: int) -> list[list[LabelledRow]]:
        """Rows for each step, passing over the whole sample again and again; empty while there is none."""
        if not self.rows or not num_rows:
            return [[] for _ in range(num_steps)]
        random, order = np.random.default_rng([seed, 2]), list[int]()
        while len(order) < num_steps * num_rows:
            order += random.permutation(len(self.rows)).tolist()
        return [[self.rows[at] for at in order[n * num_rows : (n + 1) * num_rows]] for n in range(num_steps)]


class Learner:
    """One encoder that learns tasks in turn; a subclass may prepare and settle the encoder otherwise."""

    def __init__(self, model: HeadedEncoder, head: HeadSettings, continual: ContinualSettings) -> None:
        self.model, self.head, self.continual = model, head, continual
        self.leaks: list[float] = []
        self._reservoir = Reservoir(continual.replay_rows, seed=head.seed)
        self._subspaces: Osft | None = None

    def learn(self, task: Task, *, place: int, num_tasks: int) -> float:
        """Learn a task, replaying some of those before; returns the last step's loss.

        Raises:
            NothingToTrain: the task has no rows.
            SubspaceBroken: weights left the subspace that they were to stay in.
        """
        known = list(self.model.labels)
        rows = with_logits(self.model, task.train, known) if self.continual.refit_heads else task.train
        self.model.add_head(task.name, task.labels)
        self.begin(place, num_tasks)
        rate = self.head.learning_rate * (self.continual.rewarm_share if place else 1)
        loss = fit(
            self.model, self._steps(task.name, rows), self.head.model_copy(update={"learning_rate": rate}),
            tasks={task.name},
            keep_weight=self.continual.keep_weight,
            after_step=self._subspaces.after_step if self._subspaces else None,
        )  # fmt: skip
        self.settle()
        if self.continual.refit_heads:
            rows = self._refit(task.name, rows, known)
        elif self.continual.replay_share:
            rows = with_logits(self.model, rows, [task.name])
        if self.continual.replay_share:
            self._reservoir.offer(rows)
        return loss

    def begin(self, place: int, num_tasks: int) -> None:
        """Before a task: adapters, or the weights split anew with more directions kept."""
        if self.head.base == "adapted":
            add_adapters(self.model, self.head.lora, seed=self.head.seed + place)
        if self.continual.osft:
            how = self.continual
            share = kept_share(place, num_tasks, first=how.keep_first, last=how.keep_last)
            chosen = chosen_weights(self.model.encoder)
            self.model.encoder.requires_grad_(False)
            for weight in chosen.values():
                weight.requires_grad_(True)
            dtype = torch.bfloat16 if self.model.computes_bf16 else None
            self._subspaces = Osft(chosen, 1 - share, gradient_dtype=dtype)

    def settle(self) -> None:
        """After a task: the adapters are merged, the subspaces are checked and given up; what was learned stays."""
        if self.head.base == "adapted":
            merge_adapters(self.model)
        if self._subspaces:
            self.leaks.append(self._subspaces.check()["leak_master"])
            self._subspaces.close()
            self._subspaces = None

    def _refit(self, task: str, rows: Sequence[LabelledRow], known: Sequence[str]) -> list[LabelledRow]:
        """Fit the heads anew; the rows remembered and the task's, which come back, keep what the new one says."""
        model, pool = self.model, [*rows, *self._reservoir.rows]
        features = features_of(model, pool)
        fit_labels(model.head(task), features[: len(rows)], torch.tensor([row.label for row in rows]))
        if known:
            said = torch.tensor([[logit for name in known for logit in row.said[name]] for row in pool])
            follow([model.head(name) for name in known], features, said)
        pool = _saying(model, pool, features, [task])
        self._reservoir.rows[:] = pool[len(rows) :]
        return pool[: len(rows)]

    def _steps(self, task: str, rows: Sequence[LabelledRow]) -> list[list[Batch]]:
        """The batches of each step, replayed rows in one of their own."""
        new = ordered_batches(rows, self.head, name=task)
        share = self.continual.replay_share
        num_old = round(self.head.batch_size * share / (1 - share))
        old = self._reservoir.draws(len(new), num_old, seed=self.head.seed)
        return [[Batch.of(rows) for rows in pair if rows] for pair in zip(new, old, strict=True)]


def with_logits(model: HeadedEncoder, rows: Sequence[LabelledRow], tasks: Sequence[str]) -> list[LabelledRow]:
    """Rows, each with what the heads of some tasks say of it now, beside what it kept."""
    return _saying(model, rows, features_of(model, rows), tasks) if rows and tasks else list(rows)


@torch.no_grad()
def _saying(
    model: HeadedEncoder, rows: Sequence[LabelledRow], features: Tensor, tasks: Sequence[str]
) -> list[LabelledRow]:
    said = {task: model.head(task)(features).tolist() for task in tasks}
    return [
        replace(row, said={**row.said, **{task: logits[place] for task, logits in said.items()}})
        for place, row in enumerate(rows)
    ]


def learn_in_turn(
    tasks: Sequence[Task], learner: Learner, *, report: Callable[[str, list[float]], None] | None = None
) -> Matrix:
    """Learn tasks in their order, and after each judge it and all before it.

    Args:
        report: called after each task with its name and the accuracies so far.
    """
    matrix = Matrix([])
    for place, task in enumerate(tasks):
        learner.learn(task, place=place, num_tasks=len(tasks))
        matrix.tasks.append(task.name)
        matrix.rows.append([accuracy(learner.model, known.test) for known in tasks[: place + 1]])
        if report:
            report(task.name, matrix.rows[-1])
    return matrix
