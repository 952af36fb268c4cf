"""Heads that are fitted to features which have moved on."""

import torch
from torch import nn

from app.training.refit import fit_labels, follow


def heads_on(features, *sizes):
    torch.manual_seed(0)
    heads = [nn.Linear(features.shape[1], size) for size in sizes]
    with torch.no_grad():
        return heads, torch.cat([head(features) for head in heads], 1)


def said_by(heads, features):
    with torch.no_grad():
        return torch.cat([head(features) for head in heads], 1)


def test_heads_follow_features_that_were_turned():
    torch.manual_seed(1)
    features, turn = torch.randn(300, 12), torch.eye(12) + 0.2 * torch.randn(12, 12)
    heads, said = heads_on(features, 2, 3)
    seen, unseen = features[:200] @ turn, features[200:] @ turn
    before = (said_by(heads, unseen) - said[200:]).square().mean()
    follow(heads, seen, said[:200])
    assert (said_by(heads, unseen) - said[200:]).square().mean() < 1e-4 * before


def test_heads_do_not_follow_noise():
    torch.manual_seed(1)
    features = torch.randn(30, 60)
    heads, said = heads_on(features, 2)
    before = heads[0].weight.detach().clone()
    follow(heads, features, said + torch.randn(30, 2))
    assert (heads[0].weight - before).norm() < 0.1 * before.norm()


def test_labels_are_fitted_from_where_a_head_stands():
    torch.manual_seed(1)
    features = torch.randn(200, 8)
    labels = (features[:, 0] > 0).long()
    (head,), _ = heads_on(features, 2)
    fit_labels(head, features, labels)
    assert (head(features).argmax(1) == labels).float().mean() > 0.95
    again = head.weight.detach().clone()
    fit_labels(head, features, labels)
    assert torch.allclose(head.weight, again, atol=1e-3)
