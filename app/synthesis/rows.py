"""Facts to rows: the wordings of every fact, sorted into train, calibration and held-out splits.

Guarantees: deterministic by the fact and the seed alone, so that a fact keeps its rows and its split when other
documents come or go; a withheld fact has no train row. Plain Python: the pipeline maps it over batches of facts.
Not guaranteed: that an unanswerable question keeps its attribute, which is drawn from those of all facts.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.core.digests import digest_json, hex_of
from app.synthesis.settings import SynthesisSettings
from app.synthesis.wordings import FALLBACK_FRAMES, Split, Wording, fact_wordings, fallback_wordings

UNANSWERABLE = "unanswerable"
SPLITS: tuple[Split, ...] = ("train", "calibration", "heldout")


@dataclass(frozen=True)
class ExtractedFact:
    """A fact read out of a chunk.

    `method` says how: table, list, sentence; or definition, section, cloze, whose `subject` is what is asked about
    and whose `attribute` is empty.
    """

    subject: str
    attribute: str
    value: str
    method: str = "table"
    chunk_id: str = ""
    document_id: str = ""
    source: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What the fact is about, letter case aside."""
        return self.subject.casefold(), self.attribute.casefold()

    @property
    def is_fallback(self) -> bool:
        """Whether it is a definition, section or cloze instead of an attribute's value."""
        return self.method in FALLBACK_FRAMES


def rows_from_facts(facts: Iterable[ExtractedFact], settings: SynthesisSettings) -> list[dict[str, Any]]:
    """Rows of `schema.ROWS` for facts; every question is distinct within a fact."""
    return [row for fact in facts for row in _rows_of(fact, settings)]


def unanswerable_rows(facts: Sequence[ExtractedFact], settings: SynthesisSettings) -> list[dict[str, Any]]:
    """Calibration rows that ask for an attribute which their subject does not have; no answer to them is right.

    A router learns from them what a model's guess looks like. Source: Rajpurkar et al. (2018), SQuAD 2.0.
    """
    plain = [fact for fact in facts if not fact.is_fallback]
    known = {fact.key for fact in plain}
    attributes = sorted({fact.attribute for fact in plain})
    made = []
    for fact in plain:
        rng = random.Random(f"{settings.seed}:unanswerable:{fact.key}")
        asked = replace(fact, attribute=rng.choice(attributes), value="", method=UNANSWERABLE)
        if rng.random() < settings.unanswerable_share and asked.key not in known:
            wordings = _wordings(asked, "calibration", rng, settings)
            made += [
                {**_row(asked, wording, split="calibration", seed=settings.seed), "answers": []} for wording in wordings
            ]
    return made


def is_withheld(fact: ExtractedFact, settings: SynthesisSettings) -> bool:
    """Whether a fact is kept out of training, by a hash of the seed and what it is about."""
    share = int(hex_of(digest_json([settings.seed, "withheld", *fact.key]))[:8], 16) / 2**32
    return share < settings.withheld_fact_share


def _rows_of(fact: ExtractedFact, settings: SynthesisSettings) -> list[dict[str, Any]]:
    seed = int(hex_of(digest_json([settings.seed, *fact.key]))[:12], 16)
    splits: tuple[Split, ...] = ("calibration",) if is_withheld(fact, settings) else SPLITS
    return [
        _row(fact, wording, split=split, seed=seed)
        for split in splits
        for wording in _wordings(fact, split, random.Random(f"{seed}:{split}"), settings)
    ]


def _wordings(fact: ExtractedFact, split: Split, rng: random.Random, settings: SynthesisSettings) -> list[Wording]:
    num = {
        "train": settings.num_fallback_wordings if fact.is_fallback else settings.num_train_wordings,
        "calibration": settings.num_calibration_wordings,
        "heldout": settings.num_heldout_wordings,
    }[split]
    if fact.is_fallback:
        return fallback_wordings(fact.subject, method=fact.method, split=split, num=num, rng=rng)
    share = settings.noise_share
    return fact_wordings(fact.subject, fact.attribute, split=split, num=num, noise_share=share, rng=rng)


def _row(fact: ExtractedFact, wording: Wording, *, split: Split, seed: int) -> dict[str, Any]:
    identity = {"question": wording.question, "answer": fact.value, "chunk_id": fact.chunk_id, "split": split}
    return {
        "row_id": digest_json(identity),
        "question": wording.question,
        "answer": fact.value,
        "answers": [fact.value],
        "subject": fact.subject,
        "attribute": fact.attribute,
        "chunk_id": fact.chunk_id,
        "document_id": fact.document_id,
        "source": fact.source,
        "method": fact.method,
        "template": wording.template,
        "seed": seed,
        "split": split,
    }
