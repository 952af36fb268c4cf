"""What a head says of rows that are held out, and how right that is. Only workers import this (torch).

Guarantees: the figures are those of all held-out rows, whatever the number of workers; nothing is learned by it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.inference.encoder import cut_batches
from app.training.data import IGNORED, Example, load_examples
from app.training.heads.batches import collate
from app.training.heads.measures import (
    Located,
    best_span,
    of_answers,
    of_label_sets,
    of_labels,
    of_located,
    of_scores,
    of_tags,
)
from app.training.heads.rows import NOWHERE
from app.training.plan import HELD_OUT_FILE, Plan
from app.training.tokenizer import TOKENIZER_FILE

MOST_TOKENS = 4096
"""Of a pass, padding counted, and at least one row."""
Outputs = list[NDArray[np.float32]]


@torch.no_grad()
def judged(engine: Any, folder: Path, plan: Plan) -> dict[str, float]:
    """`heldout_loss`, a mean over rows or tagged words, and the figures of the task; every worker calls it."""
    if not (folder / HELD_OUT_FILE).exists():
        return {}
    task = plan.settings.head.task
    examples = sorted(load_examples(folder / HELD_OUT_FILE), key=lambda example: len(example.tokens))
    outputs: Outputs = []
    total, num_labels = 0.0, 0
    engine.module.eval()
    lengths = [len(example.tokens) for example in examples]
    for places in cut_batches(lengths, max_texts=len(examples), max_tokens=MOST_TOKENS):
        part = [examples[place] for place in places]
        batch = collate(part, task, pad_token=plan.pad_token)
        given = [torch.from_numpy(each).to(engine.device) for each in batch[:4]]
        made = engine(*given[:3])
        total += float(engine.module.cost(made, given[3]))
        num_labels += int((given[3] != IGNORED).sum()) if task == "token" else len(part)
        outputs += list(made.cpu().numpy())
    engine.module.train()
    figures = measured(examples, outputs, plan, folder)
    return {"heldout_loss": total / num_labels, **{f"heldout_{name}": value for name, value in figures.items()}}


def measured(examples: Sequence[Example], outputs: Outputs, plan: Plan, folder: Path) -> dict[str, float]:
    """The figures of a task, from what a model said of each example."""
    task = plan.settings.head.task
    if task == "score":
        return of_scores([example.target[0] for example in examples], [float(each[0]) for each in outputs])
    if task == "classification":
        return of_labels([int(each.target[0]) for each in examples], [int(each.argmax()) for each in outputs])
    if task == "token":
        return of_tags(*_tags(examples, outputs, plan.labels or ()))
    if task == "multilabel":
        return of_label_sets([each.target for each in examples], [[logit > 0 for logit in each] for each in outputs])
    found = _located(examples, outputs, plan, Tokenizer.from_file(str(folder / TOKENIZER_FILE)))
    if plan.has_unanswered:
        return of_located(found)
    return of_answers([each.right for each in found], [each.said for each in found])


def _tags(
    examples: Sequence[Example], outputs: Outputs, labels: Sequence[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """The right tags of each row's words, and those that were said."""
    right, said = [], []
    for example, made in zip(examples, outputs, strict=True):
        places = [place for place, label in enumerate(example.target) if label != IGNORED]
        right.append([labels[int(example.target[place])] for place in places])
        said.append([labels[int(made[place].argmax())] for place in places])
    return right, said


def _located(examples: Sequence[Example], outputs: Outputs, plan: Plan, tokenizer: Tokenizer) -> list[Located]:
    """Of each row the right answers, and the likeliest that any of its windows holds."""
    windows: dict[int, list[int]] = {}
    for place, example in enumerate(examples):
        windows.setdefault(example.group if example.group >= 0 else -1 - place, []).append(place)
    found = []
    for places in windows.values():
        right: list[str] = []
        likeliest, nothing = (-np.inf, ""), np.inf
        for example, made in ((examples[place], outputs[place]) for place in places):
            ends = [int(each) for each in example.target]
            spans = [span for span in zip(ends[::2], ends[1::2], strict=True) if span != NOWHERE]
            right += [tokenizer.decode(example.tokens[start : end + 1]) for start, end in spans]
            last, longest = len(example.tokens) - 1, plan.settings.head.max_answer_tokens
            start, end = best_span(made, first=example.num_prompt, last=last, longest=longest)
            said = tokenizer.decode(example.tokens[start : end + 1])
            likeliest = max(likeliest, (float(made[0, start] + made[1, end]), said), key=lambda each: each[0])
            nothing = min(nothing, float(made[0, 0] + made[1, 0]))
        found.append(Located(list(dict.fromkeys(right)), likeliest[1], nothing - likeliest[0]))
    return found
