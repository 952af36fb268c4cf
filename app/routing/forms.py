"""The form of a question: what it asks for, how its options are made, whether it tells of a case: counted, no model.

Which prompts a large model answers better hangs less on their subject than on their form: cases with persons, sums,
verdicts on several statements at once, options that share their words. A subject is another one tomorrow, the form
stays: on subjects that a router never saw these numbers help more than they do on known ones.

Guarantees: the same text gives the same numbers, all finite; what is not there counts zero. Not guaranteed: anything
for prompts in other languages than English: words and signs are counted, not understood.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"\w+")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
ROMAN = re.compile(r"\b(?:I{1,3}|IV|V)\b")
VERDICT = re.compile(
    r"\b(?:true|false|yes|no|not|wrong|right|both|neither|none|all|only|correct|incorrect|valid|invalid"
    r"|increased?|increases|decreased?|decreases)\b",
    re.IGNORECASE,
)
SUMMARY = re.compile(
    r"\b(?:all|none|both|neither|any) of (?:the|these)\b|^(?:both|neither|none|all)\b|cannot be determined",
    re.IGNORECASE,
)
CALCULATE = re.compile(
    r"\b(?:calculate|compute|evaluate|find|determine|solve|estimate|approximately|how (?:many|much|far|long|fast|large)"
    r"|what is the (?:value|probability|area|total|number|sum|average|mean|rate|cost|price))\b",
    re.IGNORECASE,
)
PERSON = re.compile(r"\b(?:he|she|his|her|him|they|their)\b", re.IGNORECASE)
FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine)\b")
CASE = re.compile(
    r"\b\d+-(?:year|month|week|day)-old\b"
    r"|\b[Aa] (?:man|woman|boy|girl|patient|student|company|farmer|homeowner|driver|plaintiff|defendant)\b"
)
QUOTE = re.compile('["\u201c\u201d]')
IF = re.compile(r"\b(?:if|suppose|assume|assuming|given that|let)\b", re.IGNORECASE)
BEST = re.compile(r"\b(?:most|best|primarily|mainly|main|greatest|strongest|likely)\b", re.IGNORECASE)
REASON = re.compile(r"\b(?:because|therefore|thus|since|unless|however|although|whether)\b", re.IGNORECASE)
SENTENCE = re.compile(r"[.!?](?:\s|$)")
LONG_WORD = 10
LARGEST, LARGEST_SPREAD = 1e12, 1e6
NUM_FORMS = 33


def form_of(stem: str, options: Sequence[str]) -> list[float]:
    """Numbers (``NUM_FORMS``) of a question and of the options, if any, that it gives to choose from."""
    return [*_asked(stem), *_told(stem), *_offered(options), *_varied(options)]


def _asked(stem: str) -> list[float]:
    """What is asked for, and how much there is to keep in mind."""
    figures, bare = NUMBER.findall(stem), stem.rstrip()
    words = len(WORD.findall(stem)) + 1
    return [
        float(len(ROMAN.findall(stem)) > 1),
        math.log1p(len(figures)),
        math.log1p(len(set(figures))),
        float(bool(CALCULATE.search(stem))),
        len(IF.findall(stem)) / words,
        float(bool(IF.search(stem))),
        float(bool(BEST.search(stem))),
        len(REASON.findall(stem)) / words,
        float(bare.endswith(":")),
        float(bare[-1:].isalnum()),
    ]


def _told(stem: str) -> list[float]:
    """Whether a case is told, of whom, in what words."""
    found = WORD.findall(stem)
    words, sentences = len(found) + 1, max(1, len(SENTENCE.findall(stem)))
    persons, mine = len(PERSON.findall(stem)), len(FIRST_PERSON.findall(stem))
    return [
        persons / words,
        float(persons > 0),
        mine / words,
        float(mine > 0),
        float(bool(CASE.search(stem))),
        float(len(QUOTE.findall(stem)) > 1),
        math.log(sentences),
        math.log(words / sentences),
        len({word.lower() for word in found}) / words,
        sum(len(word) >= LONG_WORD for word in found) / words,
        sum(map(str.isupper, stem)) / (len(stem) + 1),
    ]


def _offered(options: Sequence[str]) -> list[float]:
    """What options are made of: verdicts, several parts, words that they share."""
    if not options:
        return [0.0] * 8
    num, words = len(options), [WORD.findall(option.lower()) for option in options]
    among = Counter(word for each in words for word in set(each))
    shared = sum(count for count in among.values() if count > 1) / max(1, among.total())
    return [
        sum(bool(ROMAN.search(option)) for option in options) / num,
        sum(bool(VERDICT.search(option)) for option in options) / num,
        sum(len(VERDICT.findall(option)) for option in options) / max(1, sum(map(len, words))),
        sum(bool(SUMMARY.search(option)) for option in options) / num,
        sum("," in option or ";" in option or " and " in option for option in options) / num,
        shared,
        float(shared > 0.7),
        sum(len(word) >= LONG_WORD for each in words for word in each) / max(1, sum(map(len, words))),
    ]


def _varied(options: Sequence[str]) -> list[float]:
    """How long options are, and how far figures among them lie apart."""
    if not options:
        return [0.0] * 4
    lengths = [len(option) + 1 for option in options]
    said = [found for option in options if (found := NUMBER.findall(option))]
    first = [min(float(each[0].replace(",", "")), LARGEST) for each in said]
    spread = (max(first) - min(first)) / (sum(first) / len(first) + 1e-9) if len(first) == len(options) else 0.0
    return [
        math.log(max(lengths) / min(lengths)),
        math.log(min(lengths)),
        math.log1p(min(LARGEST_SPREAD, spread)),
        math.log1p(sum(len(WORD.findall(option)) for option in options)),
    ]
