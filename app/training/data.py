"""Rows to tokens, and tokens to batches: pure functions of rows, settings and seed.

Guarantees: the batch of step n follows from the examples, the settings and n alone, so that a run resumes at the exact
row; each epoch of a pool shows each of its examples once; rows of similar length share a batch. A row that is too long
is counted, not dropped in silence. Imports no torch.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.inference.chat import END, PAD, SPECIAL_TOKENS, plain, render_messages

IGNORED = -100
PAD_TOKEN = SPECIAL_TOKENS.index(PAD)
"""Of our own models."""
WINDOW_BATCHES = 16
LENGTH_MULTIPLE = 4
Row = Mapping[str, Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """Tokens, of which the first ``num_prompt`` are read and the others learned; pool 0 is new, pool 1 is replayed."""

    tokens: list[int]
    num_prompt: int
    pool: int = 0
    row_id: str = ""
    """Of the row that it was made of, where it had one."""
    target: tuple[float, ...] = ()
    """What `head` learns to say of them; nothing of the tokens is learned then."""
    group: int = -1
    """The row that they are a window of, where a row may be several; alike in no two rows of a table."""


class Batch(NamedTuple):
    """A worker's part of a step."""

    input_ids: Ints
    """(rows, tokens), padded on the right."""

    labels: Ints
    """(rows, tokens), -100 where nothing is learned."""

    scale: float
    """What the summed loss is multiplied by, so that the mean over the workers is the mean over the step's labels."""

    position_ids: Ints | None
    """(rows, tokens) where examples are packed: each one's begin at 0, and none attends to another's; else None."""

    reference: Floats | None = None
    """(rows,) what the base gives each row's answer, where that is known (``Batches.reference``): log-probabilities."""


def encode_rows(rows: Sequence[Row], tokenizer: Tokenizer, *, pool: int = 0) -> list[Example]:
    """Examples of rows with `question` and `answer`: the answer and its end are learned, of an `unmask` row everything.

    A row with a `history` gives one example for each answer of the assistant in it, too.
    """
    asked = [
        (render_messages(turns), answer, unmask, id_of(row))
        for row in rows
        for turns, answer, unmask in answers_in(row)
    ]
    prompts = tokenizer.encode_batch([prompt for prompt, *_ in asked], add_special_tokens=False)
    answers = tokenizer.encode_batch([plain(answer) + END for _, answer, *_ in asked], add_special_tokens=False)
    parts = zip(prompts, answers, asked, strict=True)
    return [
        Example([*prompt.ids, *answer.ids], 0 if unmask else len(prompt.ids), pool, row_id)
        for prompt, answer, (_, _, unmask, row_id) in parts
    ]


def id_of(row: Row) -> str:
    """The id of a row of questions, or of a chunk; empty where it has none."""
    return row.get("row_id") or row.get("chunk_id") or ""


def answers_in(row: Row) -> list[tuple[list[Row], str, bool]]:
    """For each answer to learn of a row: the turns before it, the answer, and whether the turns are learned as well."""
    asked = {"role": "user", "content": row["question"]}
    turns = [*(row.get("history") or []), asked, {"role": "assistant", "content": row["answer"]}]
    unmask = bool(row.get("unmask"))
    places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    return [(turns[:place], turns[place]["content"], unmask) for place in (places[-1:] if unmask else places)]


def learned_spans(row: Row, *, vocabulary_size: int, pool: int = 0) -> list[Example]:
    """Examples of a row of tokens: one for each run of labels that are learned, with all that stands before it.

    Raises:
        ValueError: a token is not in the vocabulary.
    """
    tokens, labels = row["input_ids"], row["labels"]
    if tokens and max(tokens) >= vocabulary_size:
        raise ValueError(f"token {max(tokens)} is not among the model's {vocabulary_size}")
    learned = [label != IGNORED for label in labels]
    starts = [n for n, on in enumerate(learned) if on and (n == 0 or not learned[n - 1])]
    ends = [n + 1 for n, on in enumerate(learned) if on and (n + 1 == len(learned) or not learned[n + 1])]
    return [Example(list(tokens[:end]), start, pool, id_of(row)) for start, end in zip(starts, ends, strict=True)]


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, *, block_tokens: int) -> list[Example]:
    """The texts end to end, cut into blocks; every token is learned. The last block may be shorter."""
    end = SPECIAL_TOKENS.index(END)
    encoded = tokenizer.encode_batch([plain(text) for text in texts], add_special_tokens=False)
    return blocks_of([[*text.ids, end] for text in encoded], block_tokens=block_tokens)


def blocks_of(texts: Sequence[Sequence[int]], *, block_tokens: int) -> list[Example]:
    """Tokens of texts end to end, cut into blocks; the last block may be shorter."""
    stream = [token for text in texts for token in text]
    blocks = [stream[start : start + block_tokens] for start in range(0, len(stream), block_tokens)]
    return [Example(block, 0) for block in blocks if len(block) > 1]


class Size(NamedTuple):
    """How large a pass through the model is."""

    num_rows: int
    """Rows, of several examples each where they are packed."""

    row_tokens: int
    """Tokens of a row, padding counted."""

    num_labels: int
    """Positions that are learned."""


class Batches:
    """The batches of a run, by step.

    Args:
        examples: pool 0 and, for replay, pool 1.
        batch_size: rows of a step, over all workers.
        replay_share: share of pool 1 in a batch, on average; without a pool 1 it counts for nothing.
        noise: share of the prompts' tokens that are replaced by others; special tokens never are.
        pad_token: what rows are filled up with; it is never learned, and nothing learned attends to it.
        special_tokens: ids that noise neither touches nor brings.
        grouped: let rows of similar length share a batch, so that padding is little.
        pack_tokens: lay examples end to end in rows of at most so many tokens.
        pass_tokens: most tokens, padding counted, that a worker takes through the model at once.
        sides: how many examples belong together, one after another in ``examples``: 2 where they are pairs. They share
            a pass, count as one row, and the mean over the step is that of the pairs, not of the labels.
    """

    reference: Floats | None = None
    """(examples,) log-probabilities of the answers under the base, for whoever learns by comparison with it."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        replay_share: float,
        noise: float,
        seed: int,
        vocabulary_size: int,
        pad_token: int = PAD_TOKEN,
        special_tokens: Collection[int] = range(len(SPECIAL_TOKENS)),
        grouped: bool = True,
        pack_tokens: int | None = None,
        pass_tokens: int | None = None,
        sides: int = 1,
    ) -> None:
        self._sides = sides
        self._grouped, self._pack_tokens, self._pass_tokens = grouped, pack_tokens, pass_tokens
        self.examples, self._seed, self._noise = examples, seed, noise
        self._batch_size, self._pad_token = batch_size, pad_token
        self._special = np.array(sorted(special_tokens))
        self._ordinary = np.setdiff1d(np.arange(vocabulary_size), self._special)
        lengths = np.array([len(example.tokens) for example in examples]).reshape(-1, sides)
        self._lengths, self._num_tokens = lengths.max(axis=1), lengths.sum(axis=1)
        pools = np.array([example.pool for example in examples[::sides]])
        self._pools = [np.flatnonzero(pools == pool) for pool in (0, 1)]
        num_replayed = round(replay_share * batch_size * WINDOW_BATCHES) if self._pools[1].size else 0
        self._takes = (batch_size * WINDOW_BATCHES - num_replayed, num_replayed)
        self._window = lru_cache(maxsize=2)(self._make_window)

    def indices(self, step: int) -> Ints:
        """Which examples step ``step`` shows; shortest first, where they are grouped."""
        return self._window(step // WINDOW_BATCHES)[step % WINDOW_BATCHES]

    def num_tokens(self, step: int) -> int:
        """Tokens of a step over all workers, padding not counted."""
        return int(self._num_tokens[self.indices(step)].sum())

    def passes(self, step: int, *, rank: int, num_workers: int) -> list[Batch]:
        """A worker's part of a step, in as many passes through the model as every other worker makes."""
        indices = self.indices(step)
        num = self._num_passes([indices[each::num_workers] for each in range(num_workers)])
        parts = self._cut(indices[rank::num_workers], num)
        return [self._batch(part, step, num_workers / self._weight(indices)) for part in parts]

    def _weight(self, indices: Ints) -> int:
        """What the step's summed loss is divided by: its labels, or its pairs."""
        return len(indices) if self._sides > 1 else self._num_labels(indices)

    def _num_labels(self, part: Ints) -> int:
        return sum(len(self.examples[i].tokens) - max(self.examples[i].num_prompt, 1) for i in self._places(part))

    def _places(self, part: Ints) -> Ints:
        """Where the examples of rows, or of pairs, stand."""
        return (part[:, None] * self._sides + np.arange(self._sides)).ravel()

    def sizes(self, step: int, *, num_workers: int) -> list[Size]:
        """Every pass of every worker in a step, as large as :meth:`passes` makes it."""
        shares = [self.indices(step)[each::num_workers] for each in range(num_workers)]
        num = self._num_passes(shares)
        parts = [part for share in shares for part in self._cut(share, num) if len(part)]
        return [Size(*self._shape(part), self._num_labels(part)) for part in parts]

    def _batch(self, part: Ints, step: int, scale: float) -> Batch:
        places = self._places(part)
        examples = [self._noisy(int(i), step) for i in places]
        if self._pack_tokens is None:
            return Batch(
                *pad(examples, self._pad_token), scale, None, None if self.reference is None else self.reference[places]
            )
        input_ids, labels, position_ids = pack(examples, row_tokens=self._pack_tokens, pad_token=self._pad_token)
        return Batch(input_ids, labels, scale, position_ids)

    def _num_passes(self, shares: Sequence[Ints]) -> int:
        """The least number of passes in which no share has too many tokens; a pass of one row is as small as can be."""
        most = len(shares[0])
        if self._pass_tokens is None:
            return 1
        fits = (
            num
            for num in range(1, most)
            if all(self._size(part) <= self._pass_tokens for share in shares for part in self._cut(share, num))
        )
        return next(fits, most)

    def _cut(self, share: Ints, num: int) -> list[Ints]:
        """Rows of similar length stay together where they are padded; where they are packed, lengths are mixed."""
        if self._pack_tokens is None:
            return np.array_split(share[np.argsort(self._lengths[share], kind="stable")] if num > 1 else share, num)
        return [share[number::num] for number in range(num)]

    def _size(self, part: Ints) -> int:
        """Tokens of rows as they go through the model, padding counted."""
        num_rows, row_tokens = self._shape(part)
        return num_rows * row_tokens

    def _shape(self, part: Ints) -> tuple[int, int]:
        """Rows as they go through the model, and the tokens of each."""
        lengths = self._lengths[part]
        if self._pack_tokens is not None:
            filled = [sum(lengths[place] for place in row) for row in bins(lengths, self._pack_tokens)]
            return len(filled), padded(int(max(filled)))
        return len(lengths) * self._sides, padded(int(max(lengths)))

    def _make_window(self, window: int) -> list[Ints]:
        parts = [self._take(pool, window * take, take) for pool, take in enumerate(self._takes) if take]
        order, shuffle = np.concatenate(parts), np.random.default_rng([self._seed, 2, window])
        order = order[np.argsort(self._lengths[order], kind="stable")] if self._grouped else shuffle.permutation(order)
        batches = [order[i * self._batch_size : (i + 1) * self._batch_size] for i in range(WINDOW_BATCHES)]
        return [batches[i] for i in shuffle.permutation(WINDOW_BATCHES)]

    def _take(self, pool: int, start: int, num: int) -> Ints:
        """Items start..start+num of the endless stream of a pool's shuffled epochs."""
        members = self._pools[pool]
        positions = np.arange(start, start + num)
        epochs = positions // len(members)
        drawn = [members[self._epoch(pool, int(e))[positions[epochs == e] % len(members)]] for e in np.unique(epochs)]
        return np.concatenate(drawn)

    def _epoch(self, pool: int, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, pool, epoch]).permutation(len(self._pools[pool]))

    def _noisy(self, index: int, step: int) -> Example:
        example = self.examples[index]
        if not self._noise:
            return example
        rng = np.random.default_rng([self._seed, 3, step, index])
        prompt = np.array(example.tokens[: example.num_prompt])
        drawn = self._ordinary[rng.integers(0, len(self._ordinary), len(prompt))]
        swap = (rng.random(len(prompt)) < self._noise) & ~np.isin(prompt, self._special)
        tokens = [*np.where(swap, drawn, prompt).tolist(), *example.tokens[example.num_prompt :]]
        return Example(tokens, example.num_prompt, example.pool)


def padded(length: int) -> int:
    """A row's length with the padding that it has in any case."""
    return int(-(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)


def pad(examples: Sequence[Example], pad_token: int = PAD_TOKEN) -> tuple[Ints, Ints]:
    """input_ids and labels, padded on the right to a common length; what is not learned has the label -100."""
    longest = max(len(example.tokens) for example in examples)
    length = padded(longest)
    input_ids = np.full((len(examples), length), pad_token, dtype=np.int64)
    labels = np.full((len(examples), length), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        input_ids[row, : len(example.tokens)] = example.tokens
        labels[row, example.num_prompt : len(example.tokens)] = example.tokens[example.num_prompt :]
    return input_ids, labels


def pack(examples: Sequence[Example], *, row_tokens: int, pad_token: int = PAD_TOKEN) -> tuple[Ints, Ints, Ints]:
    """input_ids, labels and position_ids of examples laid end to end in rows of at most ``row_tokens``.

    An example's first token is not learned, as nothing of its own stands before it; padding is a sequence of its own.
    """
    rows = [[examples[place] for place in row] for row in bins([len(each.tokens) for each in examples], row_tokens)]
    input_ids, labels = pad([Example([token for each in row for token in each.tokens], 0) for row in rows], pad_token)
    position_ids = np.tile(np.arange(input_ids.shape[1]), (len(rows), 1))
    for number, row in enumerate(rows):
        start = 0
        for example in row:
            labels[number, start : start + max(example.num_prompt, 1)] = IGNORED
            position_ids[number, start:] -= position_ids[number, start]
            start += len(example.tokens)
        position_ids[number, start:] = np.arange(input_ids.shape[1] - start)
    return input_ids, labels, position_ids


def bins(lengths: Sequence[int] | Ints, room: int) -> list[list[int]]:
    """Which items share a row, by place: the longest first, each into the fullest row that has room for it.

    Source: best-fit decreasing, as in Krell et al., Efficient Sequence Packing without Cross-contamination
    (arXiv 2107.02027).
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fitting = [(spare, place) for place, spare in enumerate(left) if spare >= lengths[item]]
        place = min(fitting)[1] if fitting else len(rows)
        if not fitting:
            rows.append([])
            left.append(room)
        rows[place].append(item)
        left[place] -= int(lengths[item])
    return rows


def save_examples(examples: Sequence[Example], path: Path) -> None:
    """Write examples as one compact npz file."""
    lengths = np.array([len(example.tokens) for example in examples], dtype=np.int32)
    tokens = np.array([token for example in examples for token in example.tokens], dtype=np.int32)
    prompts = np.array([example.num_prompt for example in examples], dtype=np.int32)
    pools = np.array([example.pool for example in examples], dtype=np.int8)
    targets = np.array([value for example in examples for value in example.target])
    sizes = np.array([len(example.target) for example in examples], dtype=np.int32)
    said: dict[str, Any] = {"targets": targets, "sizes": sizes} if len(targets) else {}
    if any(example.row_id for example in examples):
        said["row_ids"] = np.array([example.row_id.encode() for example in examples])
    if any(example.group >= 0 for example in examples):
        said["groups"] = np.array([example.group for example in examples], dtype=np.int32)
    np.savez(path, tokens=tokens, lengths=lengths, prompts=prompts, pools=pools, **said)


def load_examples(path: Path) -> list[Example]:
    """Examples as :func:`save_examples` wrote them."""
    with np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    ends = np.cumsum(columns["lengths"])
    parts = np.split(columns["tokens"], ends[:-1])
    targets = columns.get("targets", np.zeros(0))
    said = np.split(targets, np.cumsum(columns.get("sizes", np.zeros(len(parts), dtype=np.int32)))[:-1])
    groups = columns.get("groups", np.full(len(parts), -1))
    row_ids = columns.get("row_ids", np.full(len(parts), b""))
    numbers = (columns["prompts"].tolist(), columns["pools"].tolist(), groups.tolist(), row_ids.tolist())
    rows = zip(*numbers, said, strict=True)
    return [
        Example(tokens.tolist(), prompt, pool, row_id.decode(), tuple(each.tolist()), group)
        for tokens, (prompt, pool, group, row_id, each) in zip(parts, rows, strict=True)
    ]
