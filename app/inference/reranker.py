"""The cross-encoder: a question and a text read together, and one score for how well the text answers.

Source: Nogueira and Cho, Passage Re-ranking with BERT (2019). The folder holds a ``BertForSequenceClassification`` with
one label, as transformers and sentence-transformers write it: ``config.json``, weights, tokenizer.

Guarantees: the files are those of the digest that was asked for, or nothing is loaded; the order of the texts does not
matter; a question longer than 64 tokens and a pair longer than 256 are cut at their ends. Not guaranteed: the same bits
in batches of other sizes (bf16); scores of two questions do not compare.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.core.digests import digest_file, digest_json
from app.inference.bert import EncoderUnusable, load_bert, read_weights
from app.inference.encoder import BATCH_TOKENS, PINNED, DigestMismatch, cut_batches, load_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

MAX_PAIR_TOKENS = 256
MAX_QUESTION_TOKENS = 64
BATCH_PAIRS = 64


class Pairs:
    """Questions and texts to the token ids that a cross-encoder reads: ``[CLS] question [SEP] text [SEP]``."""

    def __init__(self, tokenizer: "Tokenizer", *, max_tokens: int = MAX_PAIR_TOKENS) -> None:
        self._tokenizer, self._max = tokenizer, max_tokens
        self._max_question = min(MAX_QUESTION_TOKENS, max_tokens // 2)
        start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        if start is None or end is None:
            raise EncoderUnusable("the re-ranker's tokenizer has no [CLS] and [SEP]: take the model's own")
        self._start, self._end = int(start), int(end)

    def question(self, text: str) -> list[int]:
        """The ids before the text."""
        return [self._start, *self.texts([text])[0][: self._max_question - 2], self._end]

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, not yet cut."""
        return [
            item.ids for item in self._tokenizer.encode_batch([str(text) for text in texts], add_special_tokens=False)
        ]

    def joined(self, question: list[int], text: list[int]) -> list[int]:
        """Ids of a pair; the text begins behind ``len(question)``."""
        return [*question, *text[: self._max - len(question) - 1], self._end]


class Reranker:
    """Scores of texts for a question; ``digest`` is the identity of the re-ranker."""

    def __init__(self, folder: Path, *, digest: str | None = None, num_threads: int = 1) -> None:
        """Load and check the weights.

        Args:
            digest: what the identity must be; None: whatever the folder holds.

        Raises:
            DigestMismatch: the files are not those of the digest.
            EncoderUnusable: the folder holds no BERT with one score.
        """
        import torch

        self.digest = reranker_digest(folder)
        if digest not in (None, self.digest):
            raise DigestMismatch(f"the re-ranker in {folder} is {self.digest}, not {digest}: restore it")
        torch.set_num_threads(num_threads)
        self._torch = torch
        self._model, shape = load_bert(folder)
        self._pairs = Pairs(load_tokenizer(folder), max_tokens=min(MAX_PAIR_TOKENS, shape.num_positions))
        weights = read_weights(folder)
        try:
            self._pooler = weights["pooler.dense.weight"].float(), weights["pooler.dense.bias"].float()
            self._head = weights["classifier.weight"].float(), weights["classifier.bias"].float()
        except KeyError as error:
            raise EncoderUnusable(f"{folder} has no weights {error}: name a cross-encoder's folder") from error
        if len(self._head[0]) != 1:
            raise EncoderUnusable(f"{folder} gives {len(self._head[0])} scores a pair: name a cross-encoder with one")

    def scores(self, question: str, texts: Sequence[str]) -> "NDArray[np.float32]":
        """How well each text answers: float32 (len(texts),), higher is better, on no fixed scale.

        Pairs go through the model sorted by length, so that little of a batch is padding.
        """
        return self.many([question], [texts])[0]

    def many(self, questions: Sequence[str], texts: Sequence[Sequence[str]]) -> "list[NDArray[np.float32]]":
        """Scores of each question's texts; pairs of all questions share batches."""
        import numpy as np

        pairs: list[list[int]] = []
        starts: list[int] = []
        for question, each in zip(questions, texts, strict=True):
            asked = self._pairs.question(question)
            pairs += [self._pairs.joined(asked, text) for text in self._pairs.texts(each)]
            starts += [len(asked)] * len(each)
        scores = np.zeros(len(pairs), dtype=np.float32)
        lengths = [len(pair) for pair in pairs]
        for places in cut_batches(lengths, max_texts=BATCH_PAIRS, max_tokens=BATCH_TOKENS):
            scores[places] = self._score_batch([pairs[place] for place in places], [starts[place] for place in places])
        return np.split(scores, np.cumsum([len(each) for each in texts])[:-1])

    def _score_batch(self, pairs: list[list[int]], starts: list[int]) -> "NDArray[np.float32]":
        torch = self._torch
        longest = max(map(len, pairs))
        ids = torch.tensor([pair + [0] * (longest - len(pair)) for pair in pairs])
        places = torch.arange(longest)
        mask = places < torch.tensor([len(pair) for pair in pairs])[:, None]
        second = places >= torch.tensor(starts)[:, None]
        with torch.inference_mode():
            padded = longest != min(map(len, pairs))
            hidden = self._model(ids, mask[:, None, None] if padded else None, second)[:, 0].float()
            pooled = torch.tanh(torch.nn.functional.linear(hidden, *self._pooler))
            scores: NDArray[np.float32] = torch.nn.functional.linear(pooled, *self._head)[:, 0].numpy()
        return scores


def reranker_digest(folder: Path) -> str:
    """Identity of the re-ranker in a folder: its three files, and how scores are made from them.

    Raises:
        EncoderUnusable: a file is missing.
    """
    missing = [name for name in PINNED if not (folder / name).is_file()]
    if missing:
        raise EncoderUnusable(f"{folder} has no {missing[0]}: name a folder with {', '.join(sorted(PINNED))}")
    files = {name: digest_file(folder / name) for name in PINNED}
    return digest_json({"files": files, "head": "one label", "dtype": "bfloat16"})
