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
from app.training.heads.measures import best_span, of_answers, of_labels, of_scores, of_tags
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
    return of_answers(*_answers(examples, outputs, plan, Tokenizer.from_file(str(folder / TOKENIZER_FILE))))


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


def _answers(
    examples: Sequence[Example], outputs: Outputs, plan: Plan, tokenizer: Tokenizer
) -> tuple[list[list[str]], list[str]]:
    """The right answers to each row's question, and the one that was found."""
    longest, right, said = plan.settings.head.max_answer_tokens, [], []
    for example, made in zip(examples, outputs, strict=True):
        last = len(example.tokens) - 1
        found = best_span(made, first=example.num_prompt, last=last, longest=longest)
        ends = [int(each) for each in example.target]
        spans = zip(ends[::2], ends[1::2], strict=True)
        texts = [tokenizer.decode(example.tokens[start : end + 1]) for start, end in [*spans, found]]
        right.append(texts[:-1])
        said.append(texts[-1])
    return right, said
