"""What a router sees of a request: the question's embedding, its words, what was found, and then a model's answer.

Guarantees: the same request gives the same numbers, when a router is trained and when it serves; numpy and nothing
heavier. Not guaranteed: that a forecast from them is right.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.routing.features import Answer, Features, Passage
from app.routing.prompts import answer_features, prompt_features

SIMILARITY = -3
"""Where the best passage's similarity stands in what is seen before."""
VERSION = 2
"""Goes up with every change of what is seen, so that a router made for other numbers is refused."""

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def before(question: str, embedding: Sequence[float], passages: Sequence[Passage]) -> "Floats":
    """Before a model is asked (d,): the embedding, 59 numbers of the text, and 3 of the passages' similarities.

    Those are the best, how far the second lies below it, and the mean; zeros when nothing was found.
    """
    import numpy as np

    found = sorted((float(passage.similarity) for passage in passages), reverse=True) or [0.0]
    retrieved = [found[0], found[0] - (found[1] if len(found) > 1 else 0.0), sum(found) / len(found)]
    text: Floats = prompt_features([question])[0]
    return np.concatenate([np.asarray(embedding, dtype=np.float64), text, retrieved])


def after(seen: "Floats", question: str, answer: Answer, features: Features) -> "Floats":
    """After a model answered (d + 22,): what was seen before, the answer's form, its tokens' log-probabilities and
    whether its words stand in a passage.
    """
    import numpy as np

    form = answer_features([question], [answer.text])[0]
    return np.concatenate([seen, form, [features.mean_logprob, features.min_logprob, features.supported]])
