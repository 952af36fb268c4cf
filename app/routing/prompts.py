"""What can be read off a prompt, and off a first model's answer to it, without a model: lengths, signs, options, sums.

Of a text of more than ``READ_CHARS`` characters its length is known, and all else read off the first and the last half
of so many, where questions and options stand: a gateway reads prompts between other requests, and has milliseconds.
Guarantees: the same text gives the same numbers; every number is finite; a text without options, figures or sums has
zeros there. Not guaranteed: that a reader of English would count the same: words and signs are counted, not understood.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from app.routing.forms import NUMBER, WORD, form_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OPTION = re.compile(r"^[^\S\n]*\(?([A-J])[.):]\s+(.*)$", re.MULTILINE)
SIGN = re.compile(r"[=+*^\\<>|()$]")
PUNCTUATION = re.compile(r"[^\w\s]")
NEGATION = re.compile(r"\b(?:not|except|least|incorrect|false)\b", re.IGNORECASE)
LOUD_NEGATION = re.compile(r"\b(?:NOT|EXCEPT|LEAST)\b")
ASKING = re.compile(r"\b(?:which|what|who|when|where|why|how)\b", re.IGNORECASE)
NAME = re.compile(r"\b[A-Z][a-z]+")
CODE = re.compile(r"```|\bdef |\bassert\b|\breturn\b")
HEDGE = re.compile(r"\b(?:assum\w*|approximately|maybe|perhaps|cannot|unclear|not enough|seems|sorry)\b", re.IGNORECASE)
RESULT = re.compile(r"=\s{0,3}\$?(-?\d[\d,]*(?:\.\d+)?)")
RESULT_NAMED = re.compile(r"####|\\boxed|\b(?:answer|total|result) is\b", re.IGNORECASE)
STEP = re.compile(r"\n|(?<=[.!?])\s")
UNIT = re.compile(r"\bhow (?:many|much) (\w+)", re.IGNORECASE)
TERMS = re.compile(r"\d[\d.,$%() ]*[-+*/x\u00d7\u00f7].*\d")
SIGNS_OF_SUMS = frozenset("0123456789.,$%() -+*/x\u00d7\u00f7")
LONGEST_SUM = 80
MOST_COMPARED = 26
"""Options of which each is compared with each."""
WRITTEN = str.maketrans({"x": "*", "\u00d7": "*", "\u00f7": "/", ",": "", "$": "", " ": "", "%": "/100"})
OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
ENDS = frozenset(".!?)]}%$\"'`*\u201d")
LARGEST = 1e12
READ_CHARS = 8192
"""Of a longer prompt or answer no more is read, and no more time taken."""
TOLERANCE = 0.01
"""Relative; answers round."""


def prompt_features(prompts: Sequence[str]) -> "NDArray[np.float64]":
    """Features of prompts, float64 (n, 59), on their raw scales."""
    import numpy as np

    return np.array([_of_prompt(prompt) for prompt in prompts], dtype=np.float64)


def answer_features(prompts: Sequence[str], answers: Sequence[str]) -> "NDArray[np.float64]":
    """Features of a first model's answers, float64 (n, 19): its length, its sums and whether they come out, its doubts,
    the figure that it ends with (how large, whether whole, whether it stood in the question, if it ends at all), and
    its steps: how many, what share said twice, whether a result is named, is the last sum's, and names what was asked.

    That sums which do not come out tell of a wrong answer is what verifiers learn (Cobbe et al., arXiv 2110.14168).
    """
    import numpy as np

    pairs = zip(prompts, answers, strict=True)
    return np.array([_of_answer(prompt, answer) for prompt, answer in pairs], dtype=np.float64)


def sums_that_hold(text: str) -> tuple[int, int]:
    """How many sums (``48 / 2 = 24``) stand in a text, and how many of them come out."""
    held = [_holds(_terms(text, found.start()), found[1]) for found in RESULT.finditer(text)]
    known = [each for each in held if each is not None]
    return len(known), sum(known)


def _terms(text: str, end: int) -> str:
    """What stands before an equals sign and can be part of a sum."""
    start = end
    while start > max(0, end - LONGEST_SUM) and text[start - 1] in SIGNS_OF_SUMS:
        start -= 1
    return text[start:end]


def _read(text: str) -> str:
    """What is read of a text: all of it, or its beginning and its end."""
    half = READ_CHARS // 2
    return text if len(text) <= READ_CHARS else f"{text[:half]}\n{text[-half:]}"


def _of_prompt(whole: str) -> list[float]:
    prompt = _read(whole)
    stem, options = _parted(prompt)
    told = [*_of_text(prompt, stem), *_of_options(stem, options), *form_of(stem, options)]
    return [(len(whole) + 1) / 1000, math.log(len(whole) + 1), *told]


def _of_text(prompt: str, stem: str) -> list[float]:
    words, length = WORD.findall(prompt), len(prompt) + 1
    return [
        math.log(len(stem) + 1),
        sum(map(len, words)) / (len(words) + 1),
        sum(map(str.isdigit, stem)) / (len(stem) + 1),
        float(any(map(str.isdigit, stem))),
        len(SIGN.findall(prompt)) / length,
        len(PUNCTUATION.findall(prompt)) / length,
        float(bool(NEGATION.search(stem))),
        float(bool(LOUD_NEGATION.search(stem))),
        float(bool(ASKING.search(stem))),
        float("___" in stem),
        float(stem.rstrip().endswith("?")),
        float(stem.count(".")),
        float(stem.count("\n")),
        len(NAME.findall(stem)) / (len(words) + 1),
        float(bool(CODE.search(prompt))),
        float("statement" in stem.lower()),
    ]


def _of_options(stem: str, options: Sequence[str]) -> list[float]:
    """Of the options that a question gives to choose from: how long, how alike, how many are figures."""
    if not options:
        return [0.0] * 8
    lengths = [len(option) + 1 for option in options]
    words = [set(WORD.findall(option.lower())) for option in options]
    all_words = [word for option in options for word in WORD.findall(option.lower())]
    alike = [len(a & b) / max(1, len(a | b)) for a, b in combinations(words[:MOST_COMPARED], 2)]
    asked = set(WORD.findall(stem.lower()))
    mean = sum(lengths) / len(lengths)
    return [
        float(len(options)),
        math.log(mean),
        math.log(max(lengths)),
        math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths)) / mean,
        sum(alike) / max(1, len(alike)),
        len(set(all_words)) / max(1, len(all_words)),
        sum(len(each & asked) / max(1, len(each)) for each in words) / len(words),
        sum(bool(NUMBER.match(option.lstrip("-$ "))) for option in options) / len(options),
    ]


def _parted(prompt: str) -> tuple[str, list[str]]:
    """The question with its line's end, and its options; blank lines between them belong to neither."""
    first = OPTION.search(prompt)
    if first is None:
        return prompt, []
    before = prompt[: first.start()]
    bare = before.rstrip()
    stem = prompt[: before.index("\n", len(bare)) + 1] if bare else ""
    return stem, [text.strip() for _, text in OPTION.findall(prompt)]


def _of_answer(whole_prompt: str, whole: str) -> list[float]:
    prompt, answer = _read(whole_prompt), _read(whole)
    num, right = sums_that_hold(answer)
    given, used = set(NUMBER.findall(prompt)), set(NUMBER.findall(answer))
    words = WORD.findall(answer.lower())
    return [
        math.log(len(whole) + 1),
        float(answer.count("\n")),
        math.log(len(used) + 1),
        float(num),
        float(num - right),
        right / num if num else 0.0,
        len(given & used) / max(1, len(given)),
        float(bool(NUMBER.search(answer[-40:]))),
        float(len(HEDGE.findall(answer))),
        len(set(words)) / max(1, len(words)),
        *_of_end(answer, given),
        *_of_steps(prompt, answer),
    ]


def _of_end(answer: str, given: set[str]) -> list[float]:
    """Of the last figure: its size, whether it has a fraction, whether it was given; whether the text breaks off."""
    figures = NUMBER.findall(answer)
    last = figures[-1] if figures else ""
    value = float(last.replace(",", "")) if last else 0.0
    broken = bool(answer.strip()) and answer.strip()[-1] not in ENDS and not answer.strip()[-1].isalnum()
    return [math.log1p(min(value, LARGEST)), float(not value.is_integer()), float(last in given), float(broken)]


def _of_steps(prompt: str, answer: str) -> list[float]:
    """Of a chain of thought: its steps, those said twice, and whether it comes to what was asked for."""
    steps = [step.strip().lower() for step in STEP.split(answer) if step.strip()]
    figures, results = NUMBER.findall(answer), RESULT.findall(answer)
    unit = UNIT.search(prompt)
    return [
        math.log1p(len(steps)),
        1 - len(set(steps)) / len(steps) if steps else 0.0,
        float(bool(RESULT_NAMED.search(answer))),
        float(bool(figures) and bool(results) and figures[-1] == results[-1].strip("-").rstrip(",")),
        float(unit[1].lower() in answer.lower() if unit else "$" in prompt and "$" in answer),
    ]


def _holds(terms: str, said: str) -> bool | None:
    """Whether a sum comes out; None when it is none that can be read."""
    if not TERMS.search(terms):
        return None
    try:
        found = _value(ast.parse(terms.translate(WRITTEN).lstrip("."), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None
    return math.isclose(found, float(said.replace(",", "")), rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _value(node: ast.expr) -> float:
    """The value of figures joined by the four operations; ValueError for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not a sum")
