"""The recipe `tokenizer`: a base's tokenizer learns the words of a domain, as new merges behind those that it has.

Byte-pair encoding goes on where it stopped: of the pieces that the data's words fall into, the pair that stands side by
side most often becomes a token, and so on (Sennrich et al., 2016, arXiv 1508.07909). New merges come after all old
ones, so a text falls into its old pieces first, and some of these are then joined: the old pieces of every text can be
read off the new ones, and it decodes as before. A new token's rows in the model begin as the mean of its old pieces'
(Gee et al., 2022, Fast Vocabulary Transfer, arXiv 2402.09977).

Guarantees: the same tokenizer, texts and settings give the same tokens with the same ids. Not guaranteed: tokenizers
that are no byte-pair encoding; they are refused. Imports neither torch nor transformers, but for :func:`add_rows`.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models

from app.training.errors import CannotAddTokens
from app.training.settings import NewTokenSettings
from app.training.tokenizer import TOKENIZER_FILE, load_tokenizer

MAX_TOKEN_CHARS = 32
_WORD = re.compile("▁*[^▁]+|▁+")
_BYTE = re.compile("<0x[0-9A-F]{2}>")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Added:
    """What was added, and what it saves."""

    pieces: dict[int, list[int]] = field(default_factory=dict)
    """The old ids that each new id stands for."""

    tokens_per_text: dict[str, float] | None = None
    """Mean number of tokens of a text of the data, ``before`` and ``after``."""


def add_tokens(folder: Path, texts: Sequence[str], settings: NewTokenSettings) -> Added:
    """Add tokens to the tokenizer in a run's folder; its other files stay as they are.

    Raises:
        CannotAddTokens: it is no byte-pair encoding, or nothing in the texts is frequent enough.
    """
    tokenizer = load_tokenizer(folder)
    found = learn_merges(tokenizer, texts, num_tokens=settings.num_tokens, min_count=settings.min_count)
    if not found:
        raise CannotAddTokens("no pair of pieces is frequent enough in the data: lower train.new_tokens.min_count")
    known = tokenizer.get_vocab(with_added_tokens=True)
    before = _mean_length(tokenizer, texts)
    ids = {first + second: max(known.values()) + number for number, (first, second) in enumerate(found, start=1)}
    pieces: dict[int, list[int]] = {}
    for pair in found:
        parts = (pieces[ids[part]] if part in ids else [known[part]] for part in pair)
        pieces[ids["".join(pair)]] = [old for part in parts for old in part]
    _write(folder / TOKENIZER_FILE, found, ids)
    return Added(pieces, {"before": before, "after": _mean_length(load_tokenizer(folder), texts)})


def learn_merges(tokenizer: Tokenizer, texts: Iterable[str], *, num_tokens: int, min_count: int) -> list[Pair]:
    """The merges that byte-pair encoding would learn next from the texts; of equals, the first by its characters.

    Raises:
        CannotAddTokens: the tokenizer is no byte-pair encoding.
    """
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise CannotAddTokens("the base's tokenizer is no plain byte-pair encoding: leave train.new_tokens out")
    words = [(_pieces(model, word), count) for word, count in sorted(_words(tokenizer, texts).items())]
    known, found = set(tokenizer.get_vocab(with_added_tokens=True)), list[Pair]()
    reserved = {each.content for each in tokenizer.get_added_tokens_decoder().values()}
    counts, places = _pairs(words)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapify(heap)
    while len(found) < num_tokens and heap:
        count, best = heappop(heap)
        if -count < min_count:
            break
        if counts[best] != -count or not _is_usable(best, known, reserved):
            continue  # counted anew since, or of no use
        found.append(best)
        known.add("".join(best))
        for pair in _join(best, words, counts, places):
            heappush(heap, (-counts[pair], pair))
    return found


def add_rows(model: Any, pieces: dict[int, list[int]]) -> Any:
    """The model with rows for new ids, in its embeddings and, where these are not the same, its output layer."""
    import torch

    num = max(pieces) + 1
    if num > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(num, mean_resizing=False)
    tables = {id(each.weight): each for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each}
    of_tables = (each for table in tables.values() for each in (table.weight, getattr(table, "bias", None)))
    rows = [each for each in of_tables if each is not None]
    with torch.no_grad():
        for each in rows:
            for new, old in pieces.items():
                each[new] = each[old].mean(dim=0)
    return model


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Words as the tokenizer divides texts before it encodes them; nothing is merged from one into another."""
    found: Counter[str] = Counter()
    for text in texts:
        whole = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        if tokenizer.pre_tokenizer:
            found.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(whole))
        else:
            found.update(_WORD.findall(whole))
    return found


def _pieces(model: models.BPE, word: str) -> list[str]:
    return [token.value for token in model.tokenize(word)]


def _pairs(words: Sequence[tuple[list[str], int]]) -> tuple[Counter[Pair], dict[Pair, set[int]]]:
    """How often each pair of pieces stands side by side, and in which words."""
    counts: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = defaultdict(set)
    for number, (pieces, count) in enumerate(words):
        for pair in itertools.pairwise(pieces):
            counts[pair] += count
            places[pair].add(number)
    return counts, places


def _join(
    best: Pair, words: Sequence[tuple[list[str], int]], counts: Counter[Pair], places: dict[Pair, set[int]]
) -> set[Pair]:
    """Make a pair one piece wherever it stands, and count what stands beside it anew: the pairs that this touched."""
    touched: set[Pair] = set()
    for number in places.pop(best):
        pieces, count = words[number]
        for pair in itertools.pairwise(pieces):
            counts[pair] -= count
            touched.add(pair)
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == best:
                pieces[at : at + 2] = ["".join(best)]
            at += 1
        for pair in itertools.pairwise(pieces):
            counts[pair] += count
            places[pair].add(number)
            touched.add(pair)
    return touched


def _is_usable(pair: Pair, known: set[str], reserved: set[str]) -> bool:
    """Whether a pair makes a token that there is not yet; special tokens, and bytes by their number, make none."""
    whole = "".join(pair)
    parts_are_text = not any(part in reserved or _BYTE.fullmatch(part) for part in pair)
    return parts_are_text and whole not in known and len(whole) <= MAX_TOKEN_CHARS


def _mean_length(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return sum(len(each.ids) for each in encoded) / max(len(encoded), 1)


def _write(path: Path, found: Sequence[Pair], ids: dict[str, int]) -> None:
    stored = json.loads(path.read_text(encoding="utf-8"))
    merges = stored["model"]["merges"]
    as_text = bool(merges) and isinstance(merges[0], str)
    merges += [" ".join(pair) if as_text else list(pair) for pair in found]
    stored["model"]["vocab"] |= ids
    path.write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
