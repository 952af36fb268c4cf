"""Facts as a handbook would put them: sentences of several forms, with text between them.

Guarantees: deterministic by the fact; every sentence made from a fact states entity, attribute and value once.
The text between the facts states none.
"""

import re
from collections.abc import Sequence
from zlib import crc32

from app.demo.facts import Fact

MEASURE = re.compile(
    r"^\d[\d.,]* (?:euros?|percent|days?|weeks?|months?|years?|hours|working days|cents|tonnes|kilometres|watts|"
    r"watt hours|members)$"
)
PEOPLE = frozenset({"manager", "chair", "secretary", "policy owner", "chief executive", "savings adviser"})
ARTICLES = {
    "welcome gift": "a",
    "required security": "a",
    "annual assembly": "the",
    "meeting day": "the",
    "largest room": "the",
}

PLAIN_FORMS = (
    "The {a} of the {e} is {v}.",
    "The {e}'s {a} is {v}.",
    "For the {e}, the {a} is {v}.",
    "The {e} has {v} as its {a}.",
)
PEOPLE_FORMS = ("{v} is the {a} of the {e}.", *PLAIN_FORMS)
MEASURE_FORMS = (
    "The {a} of the {e} is {v}.",
    "The {e} has {one} {a} of {v}.",
    "With the {e}, {one} {a} of {v} applies.",
    "The {a} for the {e} currently stands at {v}.",
    "For the {e}, the {a} is set at {v}.",
    "The {e}'s {a} is {v}.",
)

INTRODUCTIONS = {
    "cooperative": "We are owned by the people who bank with us. This page says who we are and how to reach us.",
    "accounts": "Members run their daily payments through it. Wages arrive here, bills leave from here, and a card can "
    "be ordered at any counter.",
    "savings": "It suits members who put money aside. Deposits come in at a counter, by standing order or by post.",
    "loans": "We lend what members need and can carry. An adviser looks at income and plans before anything is signed.",
    "cards": "Members pay with it in shops and online. Keep the code secret, and tell us at once when a card is lost.",
    "insurance": "It covers members when something goes wrong. Report damage early, with photographs where you can.",
    "branches": "Visit us for advice, cash and signatures. Appointments can be made by telephone or at the counter.",
    "committees": "It is elected by the members. Minutes are kept and can be read by every member on request.",
    "policies": "It binds everybody who works for us. Ask your team lead when a case does not fit the text.",
    "solar": "Members put panels, pumps and turbines on their own roofs and land with it. Green electricity pays back "
    "slowly, so we plan the sums together.",
    "ebikes": "Members ride to work on a leased bicycle with an electric motor. Servicing and a spare battery can be "
    "arranged through our cycle dealers.",
}

BETWEEN = (
    "Our staff will gladly explain what that means for you.",
    "Nothing else needs to be signed.",
    "Changes are announced in good time.",
    "Bring some identification when you visit us.",
    "Members have confirmed this by vote.",
    "Write to us if anything remains unclear.",
)


def sentence(fact: Fact, *, again: bool = False) -> str:
    """The fact as a sentence; `again` where the sentence before named the same entity."""
    if again and _pick(fact, 3) == 0:
        return f"Its {fact.attribute} is {_value(fact)}."
    forms = _forms(fact)
    text = forms[_pick(fact, len(forms))]
    return text.format(a=fact.attribute, e=fact.entity, v=_value(fact), one=_article(fact.attribute))


def paragraph(facts: Sequence[Fact]) -> str:
    """Facts in running text, each a sentence, with a sentence that states no fact at the end."""
    sentences = [sentence(fact, again=number > 0) for number, fact in enumerate(facts)]
    return " ".join([*sentences, BETWEEN[_pick(facts[0], len(BETWEEN))]])


def list_item(fact: Fact) -> str:
    """The fact as a line of a list on its entity's own page."""
    return f"{capitalised(fact.attribute)}: {fact.value}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def _forms(fact: Fact) -> tuple[str, ...]:
    if MEASURE.match(fact.value):
        return MEASURE_FORMS
    return PEOPLE_FORMS if fact.attribute in PEOPLE else PLAIN_FORMS


def _value(fact: Fact) -> str:
    article = ARTICLES.get(fact.attribute)
    if article is None or fact.value.startswith("every") or fact.value.endswith("papers"):
        return fact.value
    return f"{_article(fact.value) if article == 'a' else article} {fact.value}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _pick(fact: Fact, num: int) -> int:
    return crc32("|".join(fact.key).encode()) // 7 % num
