import numpy as np
import pytest
import torch

from app.inference.drawing import draw
from app.inference.sampling import Sampling

LOGITS = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()


@pytest.mark.parametrize(
    ("temperature", "top_p", "number", "token"),
    [
        (0.0, 1.0, 0.99, 1),
        (1.0, 1.0, 0.0, 1),
        (1.0, 1.0, 0.49, 1),
        (1.0, 1.0, 0.51, 3),
        (1.0, 1.0, 0.76, 2),
        (1.0, 1.0, 0.91, 0),
        (1.0, 0.5, 0.99, 1),
        (1.0, 0.6, 0.66, 1),  # 0.5 and 0.25 are left: two thirds and one third
        (1.0, 0.6, 0.67, 3),
        (1.0, 1e-9, 0.99, 1),
        (1.0, 1e-50, 0.99, 1),
        (1e-50, 1.0, 0.99, 1),
        (1e-40, 1.0, 0.99, 1),
        (2.0, 1.0, 0.36, 1),  # square roots: 0.371 of the whole
        (2.0, 1.0, 0.38, 3),
    ],
)
def test_a_number_draws_a_token_by_the_rows_rules(temperature, top_p, number, token):
    others = [Sampling(), Sampling(temperature=2.0)]
    samplings = [others[0], Sampling(temperature=temperature, top_p=top_p), others[1]]
    drawn = draw(LOGITS.repeat(3, 1), samplings, [0.5, number, 0.0])
    assert drawn.tokens == [1, token, 1]
    assert drawn.logprobs[1] == pytest.approx(LOGITS[token].item(), abs=1e-6)


def test_a_row_that_is_no_numbers_spoils_no_other():
    drawn = draw(torch.stack([LOGITS, LOGITS * torch.nan]), [Sampling(temperature=1.0)] * 2, [0.51, 0.51])
    assert (drawn.tokens[0], 0 <= drawn.tokens[1] < 4) == (3, True)


def test_the_best_others_come_to_those_who_ask():
    samplings = [Sampling(num_logprobs=count) for count in (-1, 0, 1, 20)]
    drawn = draw(LOGITS.repeat(4, 1), samplings, [0.0] * 4)
    assert {row: [token for token, _ in best] for row, best in drawn.top.items()} == {2: [1], 3: [1, 3, 2, 0]}


def test_what_is_not_allowed_is_not_drawn_and_keeps_its_probability():
    allowed = {1: np.array([True, False, False, True]), 2: np.array([True, False, True, False])}
    drawn = draw(LOGITS.repeat(3, 1), [Sampling(), Sampling(), Sampling(temperature=1.0)], [0.0, 0.0, 0.99], allowed)
    assert drawn.tokens == [1, 3, 0]
    assert drawn.logprobs == pytest.approx([LOGITS[token].item() for token in drawn.tokens], abs=1e-6)


def test_many_numbers_draw_tokens_as_often_as_they_are_likely():
    numbers = [(place + 0.5) / 1000 for place in range(1000)]
    drawn = draw(LOGITS.repeat(1000, 1), [Sampling(temperature=1.0)] * 1000, numbers)
    assert [drawn.tokens.count(token) for token in range(4)] == [100, 500, 150, 250]
