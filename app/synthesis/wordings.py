"""Wordings: one fact asked about in many ways, composed from frames, noun phrases, leads, tails and styles.

A frame is a sentence with a hole for the thing asked about. Each split has frames of its own, so that no carrier
wording of the calibration or held-out split occurs in training; noun phrases, styles and answers are shared.
Guarantees: deterministic by its arguments; every wording names attribute and subject verbatim, up to letter case.
Not guaranteed: good grammar in every combination; users do not write that either.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "calibration", "heldout"]

NOUN_PHRASES = (
    "the {a} of {e}",
    "the {a} for {e}",
    "{e}'s {a}",
    "the {a} with {e}",
    "the {a} at {e}",
    "the {a} on {e}",
    "the {a} that {e} has",
    "the {a} that applies to {e}",
    "the {e_bare} {a}",
)

TRAIN_FRAMES = (
    "What is {np}?",
    "What's {np}?",
    "Tell me {np}.",
    "Can you tell me {np}?",
    "Could you tell me {np}?",
    "I need {np}.",
    "I need to know {np}.",
    "I want to know {np}.",
    "I would like to know {np}.",
    "Could you check {np}?",
    "Please give me {np}.",
    "Give me {np}.",
    "Show me {np}.",
    "Do you know {np}?",
    "Looking for {np}.",
    "Question about {np}.",
    "Let me know {np}.",
    "May I ask for {np}?",
    "What would be {np}?",
    "Which one is {np}?",
    "I am asking about {np}.",
    "State {np}.",
    "Find {np}.",
    "Explain {np}.",
    "How about {np}?",
    "{np}?",
    "{np}, what is it?",
    "{np}, tell me.",
    "For {e}, what is the {a}?",
    "For {e}, tell me the {a}.",
    "With {e}, what is the {a}?",
    "About {e}: what is the {a}?",
    "Regarding {e}, I need the {a}.",
    "I have a question about {e}: what is the {a}?",
    "{e}: {a}?",
    "{e} - {a}",
    "{e_bare} {a}",
    "{a} {e_bare}",
    "{a}, {e_bare}",
    "{a} of {e}",
    "{a} for {e}?",
    "What {a} does {e} have?",
    "Which {a} does {e} have?",
    "Which {a} belongs to {e}?",
    "What {a} applies to {e}?",
    "Does {e} have a {a}, and what is it?",
    "I have {e}. What is the {a}?",
    "I am interested in {e}; give me the {a}.",
    "Thinking about {e}, which {a} would I get?",
    "In the case of {e}, the {a} is what?",
    "The {a} is what for {e}?",
    "The {a}, for {e}, how is it set?",
    "When it comes to {e}, what {a} is there?",
    "Someone wants {e} and needs the {a}.",
)

CALIBRATION_FRAMES = (
    "Would you mind sharing {np}?",
    "I cannot find {np} anywhere.",
    "Is there a note about {np}?",
    "As a member, what {a} can I expect of {e}?",
    "Talking of {e}, the {a} would be?",
    "Which {a} is meant when people mention {e}?",
    "Quote the {a}, it is for {e}.",
    "{e} interests me, mostly the {a}.",
)

HELDOUT_FRAMES = (
    "Kindly confirm {np}.",
    "How would you state {np}?",
    "I forgot {np}, can you help?",
    "A customer wants to hear {np}.",
    "Look at {e} and name the {a}.",
    "Concerning {e}, how is the {a} defined?",
    "If I choose {e}, what will the {a} be?",
    "Just the {a} please, it is about {e}.",
)

FRAMES: Mapping[Split, tuple[str, ...]] = {
    "train": TRAIN_FRAMES,
    "calibration": CALIBRATION_FRAMES,
    "heldout": HELDOUT_FRAMES,
}

LEADS = (
    "Hi,", "Hello,", "Good morning,", "Sorry,", "Hey there,", "Quick question:", "Please,", "Well,", "So,",
    "One more thing:", "I am comparing offers.", "I am new here.", "My sister sent me.", "I am at work now.",
    "We talked about this yesterday.", "It is for my records.", "Not sure if you can help.", "Dear team,",
)  # fmt: skip

TAILS = (
    "please", "thanks", "thank you", "today", "right now", "if possible", "for me", "exactly", "at the moment",
    "before I sign", "in short", "as far as you know", "for my father", "this year", "and nothing else",
)  # fmt: skip

_STRAY = (
    "a about actually after again all also and any anybody are ask asked at be because been before being book by call "
    "came can could day decide did do does down each else even ever every far few find first form friend from get go "
    "good had has have he hear help her here him his house how idea if in into is it job just keep know last later "
    "less let like list listed little long look lot made make many me mean mention might mine more most mother much "
    "must my name need never new next no nobody not note now of office often old on once only open or other our out "
    "over own page paper part people place put question quite read really said same saw say see seem send set she "
    "should show side since so some someone something soon state still stop such sure take talk tell than that the "
    "their them then there these they thing think this those though time to told too under until up us used very "
    "wait want was way we week went were what when where which while who why will with word work would write yet you "
    "your"
)
STRAY_WORDS = tuple(_STRAY.split())

DEFINITION_FRAMES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "What is {e}?", "Define {e}.", "Explain {e}.", "What does {e} mean?", "Tell me what {e} is.", "{e}?",
        "I need an explanation of {e}.", "Can you explain {e}?", "Describe {e}.", "How do you define {e}?",
    ),
    "calibration": ("Would you explain what {e} is?", "What should I understand by {e}?"),
    "heldout": ("What do people mean by {e}?", "Give a short definition of {e}."),
}  # fmt: skip

SECTION_FRAMES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "What does it say about {e}?", "Tell me about {e}.", "What is said on {e}?", "{e}", "Summarise {e}.",
        "I need information on {e}.", "What about {e}?", "Show me {e}.", "Read me {e}.", "Start of {e}?",
    ),
    "calibration": ("Would you go into {e}?", "What is there to say on {e}?"),
    "heldout": ("What should I know about {e}?", "Please outline {e}."),
}  # fmt: skip

CLOZE_FRAMES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "Fill in the gap: {e}", "Which words are missing? {e}", "Complete this: {e}", "What goes in the gap? {e}",
        "Find the missing words: {e}", "Gap text: {e}", "Complete the sentence: {e}",
    ),
    "calibration": ("Would you finish this one: {e}", "Supply what is left out: {e}"),
    "heldout": ("What completes the statement? {e}", "Put the right words in: {e}"),
}  # fmt: skip

FALLBACK_FRAMES: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "definition": DEFINITION_FRAMES,
    "section": SECTION_FRAMES,
    "cloze": CLOZE_FRAMES,
}


@dataclass(frozen=True)
class Wording:
    """A question and the template that made it."""

    question: str
    template: str


def fact_wordings(
    subject: str, attribute: str, *, split: Split, num: int, noise_share: float, rng: random.Random
) -> list[Wording]:
    """`num` distinct wordings of a question about an attribute of a subject; fewer where the frames give no more."""
    share = noise_share if split == "train" else 0.0
    return _distinct(_endless(subject, attribute, split=split, noise_share=share, rng=rng), num=num)


def fallback_wordings(text: str, *, method: str, split: Split, num: int, rng: random.Random) -> list[Wording]:
    """`num` wordings at most of a fallback question; `text` is the term, the heading or the sentence with a gap."""
    frames = FALLBACK_FRAMES[method][split]
    chosen = rng.sample(range(len(frames)), min(num, len(frames)))
    return [Wording(frames[number].format(e=text), f"{method}:{split}:{number}") for number in chosen]


def _distinct(wordings: Iterator[Wording], *, num: int) -> list[Wording]:
    found: dict[str, Wording] = {}
    for _ in range(20 * num):
        if len(found) == num:
            break
        wording = next(wordings)
        found.setdefault(wording.question, wording)
    return list(found.values())


def _endless(
    subject: str, attribute: str, *, split: Split, noise_share: float, rng: random.Random
) -> Iterator[Wording]:
    order: list[int] = []
    while True:
        order = order or rng.sample(range(len(FRAMES[split])), len(FRAMES[split]))
        number = order.pop()
        question, phrase = _framed(FRAMES[split][number], subject, attribute, rng=rng)
        question, style = _styled(question, rng=rng)
        if rng.random() < noise_share:
            question, style = _with_stray_words(question, subject, attribute, rng=rng), f"{style}+stray"
        yield Wording(question, f"{split}:{number}:{phrase}:{style}")


def _framed(frame: str, subject: str, attribute: str, *, rng: random.Random) -> tuple[str, int]:
    named = subject if _takes_no_article(subject) or rng.random() < 0.35 else f"the {subject}"
    names = {"a": attribute, "e": named, "e_bare": subject}
    phrase = rng.randrange(len(NOUN_PHRASES))
    text = frame.format(np=NOUN_PHRASES[phrase].format(**names), **names)
    return text[:1].upper() + text[1:], phrase if "{np}" in frame else 0


def _takes_no_article(subject: str) -> bool:
    return " " not in subject or subject.lower().startswith(("the ", "a ", "an ", "our ", "my "))


def _styled(question: str, *, rng: random.Random) -> tuple[str, str]:
    styles = []
    if rng.random() < 0.25:
        question, styles = f"{rng.choice(LEADS)} {question}", ["lead"]
    if rng.random() < 0.2:
        question, styles = _with_tail(question, rng.choice(TAILS)), [*styles, "tail"]
    if rng.random() < 0.25:
        question, styles = question.lower(), [*styles, "lower"]
    if rng.random() < 0.25:
        question, styles = question.rstrip("?.!"), [*styles, "bare"]
    return question, "+".join(styles) or "plain"


def _with_tail(question: str, tail: str) -> str:
    body = question.rstrip("?.!")
    return f"{body} {tail}{question[len(body) :]}"


def _with_stray_words(question: str, subject: str, attribute: str, *, rng: random.Random) -> str:
    """Stray words at random places, never inside the subject or the attribute."""
    marked = _mark(_mark(question, subject, "\x00"), attribute, "\x01")
    words = marked.split(" ")
    for _ in range(rng.randint(2, 6)):
        words.insert(rng.randint(0, len(words)), rng.choice(STRAY_WORDS))
    lower = question == question.lower()
    unmarked = {"\x00": subject, "\x01": attribute}
    text = " ".join(words)
    for mark, name in unmarked.items():
        text = text.replace(mark, name.lower() if lower else name)
    return text


def _mark(text: str, name: str, mark: str) -> str:
    start = text.lower().find(name.lower())
    return text if start < 0 else text[:start] + mark + text[start + len(name) :]


def all_frames(split: Split) -> Sequence[str]:
    """Every frame that a split may use, fallback frames included."""
    return (*FRAMES[split], *(frame for frames in FALLBACK_FRAMES.values() for frame in frames[split]))
