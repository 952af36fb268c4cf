"""Personal data by presidio-analyzer's pattern recognisers, our own patterns, and a spaCy model when one is installed.

Guarantees: no network (presidio's e-mail recogniser would fetch a list of domains, ours does not; no model is ever
fetched); of hits that overlap, the surer one counts, so that a card is no phone number as well; the text is not
repeated in a hit. Not guaranteed: names, places and addresses without a model; the patterns are English and those of
a dozen countries' numbers.

Loading costs a second of processor time, since presidio imports spaCy: nothing imports it before it is needed. What the
two would import for models of their own (torch and transformers, three seconds) is hidden from them without a model.
"""

import importlib.util
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from app.core.personal import Hit, find_personal, is_iban

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

LANGUAGE = "en"
MODELS = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm")
"""spaCy models that are used when installed, the best first."""

HEAVY = ("torch", "transformers", "stanza")
"""What spaCy and presidio use for models, and import whether there are any or not."""

OWN_KINDS = {"email": "EMAIL_ADDRESS", "card": "CREDIT_CARD", "iban": "IBAN_CODE", "phone": "PHONE_NUMBER"}
"""Kinds of :mod:`app.core.personal`, as presidio names them; its national ids become ``NATIONAL_ID``."""
NATIONAL_ID = "NATIONAL_ID"
BY_OPTION = ("DATE_TIME", "URL", "ORGANIZATION")
"""Kinds that count only when they are asked for by name: most of them are nobody's."""

COMPETING = ("DATE_TIME", "EMAIL_ADDRESS")
"""Kinds that are looked for in any case, so that a date is no phone number, and a mail's domain no web address."""

RECOGNISERS = (
    "UsSsnRecognizer",
    "UsItinRecognizer",
    "UsLicenseRecognizer",
    "UsPassportRecognizer",
    "UkNinoRecognizer",
    "NhsRecognizer",
    "EsNifRecognizer",
    "ItFiscalCodeRecognizer",
    "IpRecognizer",
    "MacAddressRecognizer",
    "CryptoRecognizer",
    "DateRecognizer",
    "UrlRecognizer",
)
"""presidio's recognisers that are used as they are, without its e-mail recogniser, which would ask the network."""

REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "NL", "CH", "SE", "IN", "AU", "BR")
CARD = r"(?<![\w.,-])\d(?:[ -]?\d){11,18}(?![\w-])"
IBAN = r"(?<!\w)[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,4})?(?!\w)"
PHONE = r"(?<![\w.,/:-])(?:\+|00)?\(?\d{1,5}\)?(?:[ .-]{0,2}\(?\d{1,4}\)?){1,5}(?![\w/:-])"
PHONE_CONTEXT = ["phone", "cell", "mobile", "call", "fax", "dial", "whatsapp", "telefon", "answer", "reach", "desk"]
WEAK, SURE = 0.1, 0.9
NATIONAL_SCORE = 0.45
"""Below that of presidio's recognisers of one country, which name the kind of number."""
MAESTRO = ("50", "56", "57", "58", "6")
OLD_JCB = ("1800", "2131")
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 7, 15
REMEMBERED, REMEMBERED_CHARS = 1 << 13, 500
"""Short texts that are remembered with what was found in them: rows repeat answers and names."""
AROUND_CHARS = 120
"""Text on either side of a digit or @ that is looked at: more than a recogniser's five words of context."""
_SIGNS = re.compile(r"[@\d]")
_SIGNS_OF_URLS = re.compile(r"[@\d]|\w[.]\w")
_COUNTED_BEFORE = re.compile(r"[$€£¥=<*/+^#.,(\[]\s*$|\d\s*[-:]\s*$")
_COUNTED_AFTER = re.compile(r"\s*[=<>*/+^%°]|\s+-\s+\$?\d|[.,]\d")
_DIGITS = re.compile(r"(?:\d\D{0,4}){6}\d|\d[^\w]{0,4}(?:;?e?xt|x|#|~|int|anexo|доб)", re.IGNORECASE)
"""Seven digits with no more between two than punctuation takes up, or digits before an extension: what is dialled."""
_SUM = re.compile(r"\d\s+-\s+\d|^\d+\.\d+$")


class PersonalFinder:
    """Finds personal data in texts; make one in each process that needs it."""

    def __init__(self, *, kinds: Sequence[str] = (), score: float = 0.4) -> None:
        """Load the recognisers.

        Args:
            kinds: what counts; all but ``BY_OPTION`` when empty.
            score: least score of a hit, 0 to 1.
        """
        self._engine = _engine()
        known = [kind for kind in self._engine.get_supported_entities(LANGUAGE) if kind not in BY_OPTION]
        self._kinds, self._score = sorted(kinds or known), score
        self._looked_for = sorted({*self._kinds, *COMPETING} & {*known, *BY_OPTION})
        found = self._engine.registry.get_recognizers(language=LANGUAGE, entities=self._looked_for)
        self._recognisers = [] if installed_model() else found
        self._signs = _SIGNS_OF_URLS if "URL" in self._kinds else _SIGNS
        self._look = lru_cache(REMEMBERED)(self._look_at)

    def find(self, text: str) -> list[Hit]:
        """Hits in a text, in their order; none overlaps another."""
        if installed_model():
            return self._look_at(text) if text.strip() else []
        found = []
        for start, end in windows(text, self._signs):
            short = end - start <= REMEMBERED_CHARS
            hits = self._look(text[start:end]) if short else self._look_at(text[start:end])
            found += [Hit(hit.kind, hit.start + start, hit.end + start) for hit in hits]
        return found

    def find_in_name(self, text: str) -> list[Hit]:
        """Hits in an id or a name, by our own patterns alone: a number there is an id."""
        own = (Hit(OWN_KINDS.get(hit.kind, NATIONAL_ID), hit.start, hit.end) for hit in find_personal(text))
        return sorted((hit for hit in own if hit.kind in self._kinds), key=lambda hit: hit.start)

    def _look_at(self, text: str) -> list[Hit]:
        if not self._may_hold(text):
            return []
        every = self._engine.analyze(text, LANGUAGE, entities=self._looked_for, score_threshold=self._score)
        every = [hit for hit in every if hit.entity_type != "PHONE_NUMBER" or is_dialled(text, hit.start, hit.end)]
        ordered = sorted(every, key=lambda hit: (-hit.score, hit.start - hit.end, hit.start, hit.entity_type))
        kept: list[Hit] = []
        for hit in ordered:
            if not any(hit.start < other.end and other.start < hit.end for other in kept):
                kept.append(Hit(hit.entity_type, hit.start, hit.end))
        return sorted((hit for hit in kept if hit.kind in self._kinds), key=lambda hit: hit.start)

    def _may_hold(self, text: str) -> bool:
        """Whether a closer look is worth it: most texts match no pattern, and need no division into words."""
        return not self._recognisers or any(
            each.analyze(text, each.supported_entities, None) for each in self._recognisers
        )

    def mask(self, text: str, hits: Sequence[Hit] | None = None) -> str:
        """The text with ``<KIND>`` in the place of every hit."""
        for hit in sorted(self.find(text) if hits is None else hits, key=lambda hit: -hit.start):
            text = f"{text[: hit.start]}<{hit.kind}>{text[hit.end :]}"
        return text


def recogniser_versions() -> dict[str, str]:
    """What decides the hits: the versions of presidio and of the model, ``none`` without one."""
    model = installed_model()
    return {
        "presidio-analyzer": version("presidio-analyzer"),
        "model": f"{model} {_version(model)}" if model else "none",
    }


def windows(text: str, signs: re.Pattern[str]) -> list[tuple[int, int]]:
    """The parts of a text around its signs, cut at white space; no pattern matches where there is none."""
    found: list[tuple[int, int]] = []
    for match in signs.finditer(text):
        if found and match.end() + AROUND_CHARS <= found[-1][1]:
            continue
        start = max(0, match.start() - AROUND_CHARS)
        end = text.find(" ", match.end() + AROUND_CHARS)
        end = len(text) if end < 0 else end
        start = text.rfind(" ", 0, start) + 1
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def known_kinds() -> list[str]:
    """Every kind that the recognisers know, those that count by name only included."""
    return sorted(_engine().get_supported_entities(LANGUAGE))


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Modules that an import shall not find; those that are loaded stay."""
    mine = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(mine))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in mine:
            sys.modules.pop(name, None)


@cache
def installed_model() -> str | None:
    """The best spaCy model that is installed; none is ever fetched."""
    return next((name for name in MODELS if importlib.util.find_spec(name)), None)


def is_issued_card(text: str) -> bool:
    """Whether the check digit holds (ISO/IEC 7812-1) and the number begins and is as long as issuers' numbers are."""
    digits = "".join(letter for letter in text if letter.isdigit())
    doubled = [
        int(digit) if place % 2 == 0 else sum(divmod(2 * int(digit), 10)) for place, digit in enumerate(digits[::-1])
    ]
    issued = {
        12: digits.startswith(MAESTRO),
        13: digits.startswith(("4", *MAESTRO)),
        14: digits.startswith(("30", "36", "38", "39")),
        15: digits.startswith(("34", "37", *OLD_JCB, *MAESTRO)),
    }.get(len(digits), digits[:1] in tuple("23456"))
    return sum(doubled) % 10 == 0 and issued and len(set(digits)) > 1


def is_dialled(text: str, start: int, end: int) -> bool:
    """Whether digits that have the form of a phone number are none of a sum, an amount or a range."""
    found = text[start:end]
    if not MIN_PHONE_DIGITS <= sum(map(str.isdigit, found)) <= MAX_PHONE_DIGITS:
        return False
    if found.startswith(("+", "00", "(")):
        return True
    counted = _COUNTED_BEFORE.search(text, max(0, start - 4), start) or _COUNTED_AFTER.match(text, end)
    return not counted and not _SUM.search(found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@cache
def _engine() -> "AnalyzerEngine":
    """presidio's engine with the recognisers below; one a process."""
    with hidden(*HEAVY if installed_model() is None else ()):
        import presidio_analyzer.predefined_recognizers as known
        from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer, RecognizerRegistry

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)

    class Iban(PatternRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return is_iban(pattern_text)

    class Card(PatternRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return is_issued_card(pattern_text)

    class Phone(PatternRecognizer):  # type: ignore[misc]
        def invalidate_result(self, pattern_text: str) -> bool:
            return not 7 <= sum(map(str.isdigit, pattern_text)) <= 15

    class DialledNumber(known.PhoneRecognizer):  # type: ignore[misc]
        def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[Any]:
            """As the library does, twelve regions' rules one after the other, where there are digits enough at all."""
            return super().analyze(text, entities, nlp_artifacts) if _DIGITS.search(text) else []

    recognisers: list[Any] = [getattr(known, name)() for name in RECOGNISERS]
    for each in recognisers:
        each.supported_language = LANGUAGE
    recognisers += [
        DialledNumber(supported_regions=REGIONS),
        _own_patterns(),
        Iban("IBAN_CODE", patterns=[Pattern("any case", IBAN, WEAK)]),
        Card("CREDIT_CARD", patterns=[Pattern("issued", CARD, WEAK)]),
        Phone("PHONE_NUMBER", patterns=[Pattern("beside its word", PHONE, WEAK)], context=PHONE_CONTEXT),
    ]
    model = installed_model()
    if model:
        recognisers.append(known.SpacyRecognizer())
    registry = RecognizerRegistry(recognizers=recognisers, supported_languages=[LANGUAGE])
    return AnalyzerEngine(registry=registry, nlp_engine=language_engine(model), supported_languages=[LANGUAGE])


def _own_patterns() -> Any:
    """The patterns that the gate's check uses, as a recogniser: what the gate finds, the report finds."""
    from presidio_analyzer import LocalRecognizer, RecognizerResult

    class OwnPatterns(LocalRecognizer):  # type: ignore[misc]
        def load(self) -> None: ...

        def analyze(self, text: str, entities: Any, nlp_artifacts: Any = None) -> list[Any]:
            return [
                RecognizerResult(OWN_KINDS[hit.kind], hit.start, hit.end, SURE)
                if hit.kind in OWN_KINDS
                else RecognizerResult(NATIONAL_ID, hit.start, hit.end, NATIONAL_SCORE)
                for hit in find_personal(text)
            ]

    return OwnPatterns(supported_entities=[*OWN_KINDS.values(), NATIONAL_ID], supported_language=LANGUAGE)


def language_engine(model: str | None) -> Any:
    """Words for the recognisers' contexts: by spaCy's model, or by its rules alone."""
    import spacy
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, SpacyNlpEngine

    if model:
        engine = SpacyNlpEngine(models=[{"lang_code": LANGUAGE, "model_name": model}])
        engine.load()
        return engine

    class Words(NlpEngine):  # type: ignore[misc]
        """Tokens without a model."""

        def __init__(self) -> None:
            self._nlp = spacy.blank(LANGUAGE)

        def load(self) -> None: ...

        def is_loaded(self) -> bool:
            return True

        def process_text(self, text: str, language: str) -> Any:
            tokens = self._nlp.make_doc(text)
            places = [token.idx for token in tokens]
            return NlpArtifacts([], tokens, places, [token.lower_ for token in tokens], self, language, [])

        def process_batch(self, texts: Any, language: str, **_: Any) -> Any:
            return ((text, self.process_text(text, language)) for text in texts)

        def is_stopword(self, word: str, language: str) -> bool:
            return bool(self._nlp.vocab[word].is_stop)

        def is_punct(self, word: str, language: str) -> bool:
            return bool(self._nlp.vocab[word].is_punct)

        def get_supported_entities(self) -> list[str]:
            return []

        def get_supported_languages(self) -> list[str]:
            return [LANGUAGE]

    return Words()
