"""Facts in sentences: "The A of the E is V", "E has an A of V", "For the E, the A is V" and their kin.

A sentence is cut into clauses; each clause is held against a list of patterns, and the first that matches counts.
Guarantees: pure; a fact's subject, attribute and value are verbatim parts of the sentence (articles aside).
Not guaranteed: that every sentence of this kind is found, or that prose with the same shape always states a fact.
Patterns of this sort are Hearst's (1992, COLING), for attributes in place of classes.
"""

import re
from collections.abc import Iterator

MAX_CLAUSE_CHARS = 300
"""A longer clause states no short fact, and matching patterns against it would take long."""

ABBREVIATION = r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bDr\.)(?<!\bMr\.)(?<!\bMs\.)"
SENTENCE_END = re.compile(rf"(?<=[.!?]){ABBREVIATION}\s+(?=[\"'(]?[A-Z0-9])")
CLAUSE_END = re.compile(r";\s+|,\s+(?:and|while|whereas)\s+(?=(?:its|the|their)\s)|\s+and\s+(?=(?:its|their)\s)")

NAME = r"[A-Z0-9][\w&/-]*(?:\s(?:(?:of|and|for|the|de)\s)?[A-Z0-9][\w&/-]*)*"
ENTITY = rf"(?:[Tt]he\s|[Oo]ur\s)?(?P<e>{NAME})"
ATTRIBUTE = r"(?P<a>(?:[A-Za-z][a-z/-]*|[A-Z]{2,})(?:\s(?:[a-z][a-z/-]*|[A-Z]{2,})){0,4}?)"
ATTRIBUTE_GREEDY = ATTRIBUTE.replace("{0,4}?", "{0,4}")
IS = (
    r"(?:(?:currently\s|now\s)?(?:is|are|was|were|remains|amounts?\sto|comes?\sto|stands?\sat|equals?)"
    r"(?:\s(?:currently|now|set\sat|fixed\sat|set\sto|limited\sto))?)"
)
OF = r"(?:of|for|at|with|on|under|in)"
VALUE = r"(?P<v>\S.*?)"
END = r"[.!]?$"

PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^(?:For|With|At|On|Under|In|As\sfor)\s{ENTITY},\s(?:the|an?|its)\s{ATTRIBUTE}\s{IS}\s{VALUE}{END}",
        rf"^(?:For|With|At|On|Under|In)\s{ENTITY},\s(?:the|an?|its)\s{ATTRIBUTE_GREEDY}\sof\s{VALUE}\sapplies{END}",
        rf"^(?:An?|The)\s{ATTRIBUTE_GREEDY}\sof\s{VALUE}\sapplies\sto\s{ENTITY}{END}",
        rf"^(?:The\s|An?\s|Our\s)?{ATTRIBUTE}\s{OF}\s{ENTITY}\s{IS}\s{VALUE}{END}",
        rf"^(?:The\s)?{ATTRIBUTE}\s{OF}\s{ENTITY}:\s{VALUE}{END}",
        rf"^{ENTITY}'s?\s{ATTRIBUTE}\s{IS}\s{VALUE}{END}",
        rf"^{ENTITY}\s(?:has|have|lists?|takes?|uses?|names?)\s{VALUE}\sas\s(?:its|the|their)\s{ATTRIBUTE_GREEDY}{END}",
        rf"^{ENTITY}\s(?:has|have|carries|offers|charges|comes\swith|requires|asks\sfor|sets|provides)\s"
        rf"(?:an?|the|its|their)\s{ATTRIBUTE_GREEDY}\sof\s{VALUE}{END}",
        rf"^{VALUE}\s{IS}\s(?:the|an?)\s{ATTRIBUTE}\s{OF}\s{ENTITY}{END}",
    )
)
ITS = re.compile(rf"^(?:[Ii]ts|[Tt]heir)\s{ATTRIBUTE}\s{IS}\s{VALUE}{END}")
THE = re.compile(rf"^[Tt]he\s{ATTRIBUTE}\s{IS}\s(?P<v>(?=.*[A-Z0-9])\S+(?:\s\S+){{0,5}}?){END}")


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of a paragraph; a stop inside a number or a common abbreviation ends none."""
    return [sentence.strip() for sentence in SENTENCE_END.split(paragraph) if sentence.strip()]


def sentence_facts(paragraph: str, *, subject: str | None) -> Iterator[tuple[str, str, str]]:
    """(subject, attribute, value) of every clause that a pattern fits, untidied.

    Args:
        subject: what "its" and "the" refer to before the paragraph names something itself; None when unknown.
    """
    for sentence in split_sentences(paragraph):
        for clause in CLAUSE_END.split(sentence):
            found = _named(clause) or _referring(clause, subject)
            if found:
                subject = found[0]
                yield found


def _named(clause: str) -> tuple[str, str, str] | None:
    if len(clause) > MAX_CLAUSE_CHARS:
        return None
    matches = (pattern.match(clause) for pattern in PATTERNS)
    return next(((match["e"], match["a"], match["v"]) for match in matches if match), None)


def _referring(clause: str, subject: str | None) -> tuple[str, str, str] | None:
    match = (ITS.match(clause) or THE.match(clause)) if len(clause) <= MAX_CLAUSE_CHARS else None
    return (subject, match["a"], match["v"]) if subject and match else None
