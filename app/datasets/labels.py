"""Labels that the other rows speak against, by confident learning over words.

Guarantees: deterministic; a row is judged by a model that did not see it (five folds). Not guaranteed: that a label is
wrong; a person should look. Source: Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset
labels (JAIR, 2021).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NUM_FOLDS = 5
MAX_FEATURES = 50_000


def label_issues(texts: Sequence[str], labels: Sequence[str], *, min_rows: int) -> list[tuple[int, str, float]]:
    """Rows whose label is doubtful, the most doubtful first: their place, the likelier label and its probability.

    Args:
        min_rows: rows of a label that has fewer are neither learned from nor judged; at least as many as folds count.
    """
    counts = Counter(labels)
    places = [place for place, label in enumerate(labels) if counts[label] >= max(min_rows, NUM_FOLDS)]
    names = sorted({labels[place] for place in places})
    if len(names) < 2:
        return []
    given: Any = [names.index(labels[place]) for place in places]
    chances = _out_of_sample([texts[place] for place in places], given)
    found = [
        (places[row], names[likelier], float(chances[row, likelier])) for row, likelier in _confident(chances, given)
    ]
    return sorted(found, key=lambda issue: (-issue[2], issue[0]))


def _out_of_sample(texts: list[str], given: list[int]) -> "NDArray[np.float64]":
    """Probability of each label for each row, by logistic regression over words fitted on the other folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, max_features=MAX_FEATURES)
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=200))
    folds = StratifiedKFold(n_splits=NUM_FOLDS, shuffle=True, random_state=0)
    chances: NDArray[np.float64] = cross_val_predict(model, texts, given, cv=folds, method="predict_proba")
    return chances


def _confident(chances: "NDArray[np.float64]", given: list[int]) -> list[tuple[int, int]]:
    """Rows that belong confidently to another label than theirs, with that label.

    A row belongs to a label when its probability reaches that label's mean among the rows that carry it.
    """
    import numpy as np

    labels = np.asarray(given)
    thresholds = np.array([chances[labels == label, label].mean() for label in range(chances.shape[1])])
    reached = np.where(chances >= thresholds, chances, -1.0)
    likelier = reached.argmax(axis=1)
    rows = np.flatnonzero((reached.max(axis=1) > 0) & (likelier != labels))
    return [(int(row), int(likelier[row])) for row in rows]
