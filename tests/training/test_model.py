"""Models and their loss, without workers."""

import pytest
import torch

from app.training.adapters import LoraSettings
from app.training.data import Batches, Example, pack, pad
from app.training.loop import checkpoint_steps, learning_rate, tensors
from app.training.model import AnswerLoss, new_model, with_adapters
from app.training.settings import ModelSettings, TrainSettings

SHAPE = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)


def grads(rows: list[Example], num_workers: int) -> torch.Tensor:
    """The mean over workers of the gradient of the embeddings."""
    run = Batches(rows, batch_size=4, replay_share=0, noise=0, seed=0, vocabulary_size=300)
    found = []
    for rank in range(num_workers):
        loss = AnswerLoss(new_model(SHAPE, vocabulary_size=300))
        loss(**tensors(run.passes(0, rank=rank, num_workers=num_workers)[0])).backward()
        found.append(loss.model.get_input_embeddings().weight.grad)
    return torch.stack(found).mean(0)


def test_a_new_model_follows_from_its_seed():
    one, same, other = (new_model(SHAPE.model_copy(update={"seed": seed}), vocabulary_size=300) for seed in (0, 0, 1))
    first, again, else_ = (model.get_input_embeddings().weight for model in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, else_)


def test_the_gradient_does_not_depend_on_the_number_of_workers():
    rows = [Example(list(range(4, 12)), 6), Example(list(range(9, 20)), 3), Example([7, 8, 9], 1), Example([5, 6], 1)]
    assert torch.allclose(grads(rows, 1), grads(rows, 2), atol=1e-6)
    assert grads(rows, 1).abs().max() > 1e-3


def one_grad(**given) -> torch.Tensor:
    loss = AnswerLoss(new_model(SHAPE, vocabulary_size=300))
    loss(**{name: torch.from_numpy(value) for name, value in given.items()}, scale=0.1).backward()
    return loss.model.get_input_embeddings().weight.grad


@pytest.mark.parametrize("row_tokens", [11, 16, 64])
def test_packed_examples_do_not_see_each_other(row_tokens):
    """The gradient is that of the same examples padded; with attention from one to another it is not."""
    rows = [Example(list(range(4, 12)), 6), Example(list(range(9, 20)), 0), Example([7, 8, 9], 1), Example([5, 6], 1)]
    names = ("input_ids", "labels", "position_ids")
    padded = dict(zip(names, pad(rows), strict=False))
    packed = dict(zip(names, pack(rows, row_tokens=row_tokens), strict=True))
    assert torch.allclose(one_grad(**packed), one_grad(**padded), atol=1e-6)
    del packed["position_ids"]
    assert not torch.allclose(one_grad(**packed), one_grad(**padded), atol=1e-4)


def test_prompts_are_not_learned():
    loss = AnswerLoss(new_model(SHAPE, vocabulary_size=300)).eval()
    input_ids = torch.tensor([[5, 6, 7, 8]])
    labels = torch.tensor([[-100, -100, -100, 8]])
    logits = loss.model(input_ids).logits[0, 2].log_softmax(-1)
    assert loss(input_ids, labels, 1.0).item() == pytest.approx(-logits[8].item(), rel=1e-5)


def test_adapters_leave_the_base_alone():
    model = with_adapters(new_model(SHAPE, vocabulary_size=300), LoraSettings(rank=4), seed=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.02), (49, 1.0), (60, 1.0), (199, 0.02)], ids=["start", "warm", "held", "end"]
)
def test_the_learning_rate(step, share):
    settings = TrainSettings(num_steps=200, learning_rate=1e-3, num_warmup_steps=50)
    assert learning_rate(step, settings) == pytest.approx(share * 1e-3, rel=0.02)


@pytest.mark.parametrize(("num_steps", "num", "steps"), [(10, 1, {10}), (10, 4, {3, 5, 8, 10}), (2, 4, {1, 2})])
def test_the_last_step_is_always_saved(num_steps, num, steps):
    assert checkpoint_steps(TrainSettings(num_steps=num_steps, num_checkpoints=num)) == steps
