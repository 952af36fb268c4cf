"""Linear heads fitted to features that have moved on: what a head can do without a step of the encoder.

Guarantees: what comes out follows from what is given alone; nothing but the heads changes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LABEL_PENALTY, LABEL_STEPS = 0.01, 50
"""Of the squared weights beside the mean cross-entropy, and the most steps of L-BFGS."""
PENALTIES = tuple(10.0 ** (-n / 2) for n in range(12))
"""Of a ridge regression, as shares of the largest squared singular value."""


def fit_labels(head: nn.Linear, features: Tensor, labels: Tensor) -> None:
    """Fit a head to the labels (n) of features (n, dim) by logistic regression, from where it stands."""
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=LABEL_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(head(features), labels) + LABEL_PENALTY * head.weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]


@torch.no_grad()
def follow(heads: Sequence[nn.Linear], features: Tensor, said: Tensor) -> None:
    """Change heads as little as it takes for them to say of features (n, dim) what was ``said`` (n, all labels).

    ``said`` has the heads' labels side by side. Ridge regression of what they say amiss now, with the penalty whose
    leave-one-out error is the least; where none beats no change at all, nothing changes. Source of the error: Allen,
    PRESS (Technometrics 16, 1974).
    """
    inputs = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    amiss = said.double() - torch.cat([head(features) for head in heads], 1)
    left, sizes, right = torch.linalg.svd(inputs, full_matrices=False)
    seen = left.T @ amiss

    def error(shares: Tensor) -> float:
        apart = 1 - (left**2 * shares).sum(1, keepdim=True)
        return float((((amiss - left @ (shares[:, None] * seen)) / apart) ** 2).mean())

    candidates = [torch.zeros_like(sizes), *(sizes**2 / (sizes**2 + share * sizes[0] ** 2) for share in PENALTIES)]
    shares = min(candidates, key=error)
    change = (right.T @ ((shares / sizes.clamp_min(1e-9))[:, None] * seen)).T.float()
    for head, part in zip(heads, change.split([head.out_features for head in heads]), strict=True):
        head.weight.add_(part[:, :-1])
        head.bias.add_(part[:, -1])
