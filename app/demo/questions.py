"""Held-out questions about the sample corpus, and the traffic that its users send.

The wordings here are the demo's own: none is a synthesis template (a test compares them), so a model that answers
them has generalised beyond the rows it was trained on. Everything is deterministic by its arguments.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypedDict

from app.core.digests import digest_json
from app.demo.facts import Fact, Revision, added_facts, facts, unchanged_facts

Subject = Literal["old", "new", "all"]
TrafficKind = Literal["before", "after"]


class Question(TypedDict):
    """A row of a suite; `answers` lists every accepted form and is empty where the handbook has no answer."""

    question_id: str
    question: str
    answers: list[str]
    subject: str
    source: str


CARRIERS = (
    "What does the handbook give as the {a} of the {e}?",
    "I was wondering about the {a} that goes with the {e}.",
    "Any idea what the {e} has as its {a}?",
    "Where the {e} is concerned, what exactly is the {a}?",
    "Help me fill in this form: {a} of the {e}.",
    "Somebody at the desk asks about the {e}. Which {a} do I quote?",
    "Remind me again of the {e} and its {a}.",
    "Under the {e}, what have we written down for the {a}?",
    "The {a} listed with the {e}, what was it again?",
    "My neighbour swears by the {e}, but what {a} do you state for it?",
)
"""Wordings of the held-out questions: {a} is the attribute, {e} the entity."""

OFF_TOPIC = (
    "Hello, how are you today?",
    "Can you recommend a good book about sailing?",
    "What will the weather be like on Sunday?",
    "Who won the football match last night?",
    "What is the annual fee of the Moonbeam Account?",
    "Which manager runs the branch in Paris?",
    "Should I buy shares or gold this year?",
    "How do I bake bread without yeast?",
    "Why was my payment from last week refused?",
    "What is the interest rate of the Diamond Deposit?",
    "Please write me a poem about money.",
    "Is there a cash machine at the airport?",
    "How many moons does Jupiter have?",
    "What did the board decide in secret?",
)
"""Small talk, unknown entities and questions that the handbook cannot answer."""

OFF_TOPIC_SHARE = 0.06
NEW_SUBJECT_SHARE = 0.75


def suite_rows(revision: Revision, *, subject: Subject = "all", num_wordings: int = 2) -> list[Question]:
    """The held-out questions about a revision's facts, `num_wordings` per fact.

    `old` in revision 2 means the facts that both revisions state alike; `new` is the subject that it adds.
    """
    return [row for fact in _chosen_facts(revision, subject) for row in _worded(fact, num_wordings)]


def traffic(kind: TrafficKind, *, num: int, seed: int = 0) -> list[Question]:
    """`num` questions as users send them: before or after the new subject arrived."""
    rng = random.Random(f"{kind}:{seed}")
    old = facts(1) if kind == "before" else unchanged_facts()
    new_share = NEW_SUBJECT_SHARE if kind == "after" else 0.0
    return [_asked(rng, old=old, new_share=new_share) for _ in range(num)]


def accepted_answers(value: str) -> list[str]:
    """The value, then the other ways to write it that count as right."""
    number, _, unit = value.partition(" ")
    signs: Mapping[str, Sequence[str]] = {
        "euros": (f"€{number}", f"{number} EUR", f"{number} euro"),
        "percent": (f"{number}%", f"{number} %"),
    }
    return [value, *signs.get(unit, ())]


def _chosen_facts(revision: Revision, subject: Subject) -> Iterable[Fact]:
    if subject == "all":
        return facts(revision)
    if subject == "new":
        return added_facts() if revision == 2 else ()
    return facts(1) if revision == 1 else unchanged_facts()


def _worded(fact: Fact, num_wordings: int) -> list[Question]:
    rng = random.Random("|".join(fact.key))
    return [_question(carrier, fact) for carrier in rng.sample(CARRIERS, num_wordings)]


def _asked(rng: random.Random, *, old: Sequence[Fact], new_share: float) -> Question:
    if rng.random() < OFF_TOPIC_SHARE:
        return _row(rng.choice(OFF_TOPIC), [], subject="", source="off-topic")
    pool = added_facts() if rng.random() < new_share / (1 - OFF_TOPIC_SHARE) else old
    return _question(rng.choice(CARRIERS), rng.choice(pool))


def _question(carrier: str, fact: Fact) -> Question:
    text = carrier.format(a=fact.attribute, e=fact.entity)
    return _row(text, accepted_answers(fact.value), subject=fact.entity, source=fact.topic)


def _row(text: str, answers: list[str], *, subject: str, source: str) -> Question:
    identity = digest_json({"question": text, "answers": answers})
    return Question(question_id=identity, question=text, answers=answers, subject=subject, source=source)
