"""Orthogonal subspace fine-tuning: what is kept is kept to the bit or the tolerance, at every ZeRO stage."""

import copy
import os

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from app.training import osft
from app.training.errors import SubspaceBroken
from app.training.osft import Osft, Subspace, adaptive_ratio, adaptive_ratios, chosen_weights, importances, num_kept

RATE = 1e-2
STEPS = 6
CASES = [(1, torch.float32), (2, torch.float32), (3, torch.float32), (1, torch.bfloat16), (3, torch.bfloat16)]
SHAPES = [(24, 24), (40, 24), (17, 40), (1, 8)]


class Net(nn.Module):
    """Two numbered layers of sizes that two workers cannot share evenly, and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 17), nn.Tanh())
        self.head = nn.Linear(17, 5)

    def forward(self, given):
        return self.head(self.body(given))


def make_net():
    torch.manual_seed(0)
    return Net()


def rows(step, *, rank=0, num_workers=1):
    generator = torch.Generator().manual_seed(step)
    given, wanted = torch.randn(8, 24, generator=generator), torch.randint(5, (8,), generator=generator)
    share = 8 // num_workers
    return given[rank * share : (rank + 1) * share], wanted[rank * share : (rank + 1) * share]


def learn(net, held, *, project=True, rate=RATE):
    """Plain AdamW steps, without DeepSpeed."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(STEPS):
        given, wanted = rows(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(given), wanted).backward()
        optimizer.step()
        if held and project:
            held.after_step()
    return {name: value.detach().clone() for name, value in net.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_the_free_part_is_a_projection_orthogonal_to_the_kept_directions(shape, ratio):
    torch.manual_seed(1)
    weight, change = torch.randn(shape), torch.randn(shape)
    kept = num_kept(weight.shape, ratio)
    space = Subspace.of(weight, num_kept=kept)
    left, values, right = (each.float() for each in torch.linalg.svd(weight.double(), full_matrices=False))
    free = space.free(change)
    assert torch.allclose(space.free(free), free, atol=1e-5)
    assert (left[:, :kept].T @ free).norm() < 1e-5
    assert torch.equal(free, change) == (kept == 0)
    moved = space.nearest(weight + change)
    assert torch.allclose(left[:, :kept].T @ moved, torch.diag(values[:kept]) @ right[:kept], atol=1e-4)
    assert torch.allclose(moved @ right[:kept].T, left[:, :kept] @ torch.diag(values[:kept]), atol=1e-4)
    assert space.leak(moved) < osft.TOLERANCE
    assert (space.leak(weight + change) > 0.01) == (kept > 0)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 4096), columns=st.integers(1, 4096), ratio=st.floats(0, 1))
def test_the_number_of_kept_directions_is_the_floor_of_the_formula(rows, columns, ratio):
    kept = num_kept(torch.Size((rows, columns)), ratio)
    assert abs(kept - min(rows, columns) * (1 - ratio)) < 1 + 1e-6
    assert 0 <= kept <= min(rows, columns)


def test_ratio_0_freezes_to_the_bit_and_ratio_1_is_plain_training():
    frozen, plain, free = make_net(), make_net(), make_net()
    start = {name: value.detach().clone() for name, value in frozen.named_parameters()}
    after = learn(frozen, Osft(chosen_weights(frozen), 0.0))
    for name in chosen_weights(frozen):
        assert torch.equal(after[name], start[name])
    assert not torch.equal(after["head.weight"], start["head.weight"])
    wanted, got = learn(plain, None), learn(free, Osft(chosen_weights(free), 1.0))
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_without_the_projection_after_the_step_the_invariants_break():
    """The negative control: AdamW leaks although every gradient was projected."""
    whole, broken = make_net(), make_net()
    held, leaking = Osft(chosen_weights(whole), 0.4), Osft(chosen_weights(broken), 0.4)
    moved = learn(whole, held)
    assert held.check()["leak_master"] < osft.TOLERANCE
    assert not torch.equal(moved["body.0.weight"], make_net().body[0].weight)
    learn(broken, leaking, project=False)
    with pytest.raises(SubspaceBroken, match="left its subspace"):
        leaking.check()


def test_gradients_may_be_projected_in_a_short_type():
    net, rough = make_net(), make_net()
    wanted, found = (
        learn(each, Osft(chosen_weights(each), 0.4, gradient_dtype=dtype))
        for each, dtype in ((net, None), (rough, torch.bfloat16))
    )
    held = Osft(chosen_weights(make_net()), 0.4)
    for name, space in held.subspaces.items():
        assert space.leak(found[name]) < osft.TOLERANCE
        moved, other = wanted[name] - space.start, found[name] - space.start
        assert 0 < float((moved - other).norm() / moved.norm()) < 0.2


def test_a_weight_that_is_no_number_fails_the_check():
    net = make_net()
    held = Osft(chosen_weights(net), 0.4)
    with torch.no_grad():
        net.body[2].weight[3, 4] = float("nan")
    with pytest.raises(SubspaceBroken, match=r"body\.2\.weight"):
        held.check()


def test_plain_gradient_descent_stays_inside_by_itself():
    """For SGD the projected gradient is enough, so that what AdamW leaks is AdamW's."""
    net = make_net()
    held = Osft(chosen_weights(net), 0.4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(STEPS):
        given, wanted = rows(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(given), wanted).backward()
        optimizer.step()
    assert held.check()["leak_master"] < osft.TOLERANCE


def test_a_next_task_keeps_what_the_first_one_learned():
    """The weights are merged as they are; split again with more kept, the first task's directions hold."""
    net = make_net()
    learn(net, Osft(chosen_weights(net), 0.6))
    second = copy.deepcopy(net)
    held = Osft(chosen_weights(second), 0.3)
    kept = held.subspaces["body.0.weight"]
    learn(second, held)
    assert held.check()["leak_master"] < osft.TOLERANCE
    assert torch.equal(kept.start, net.body[0].weight)


def test_blocks_that_change_little_matter_more_and_learn_less():
    class Same(nn.Module):
        def forward(self, hidden):
            return (hidden,)

    class Turned(nn.Module):
        def forward(self, hidden):
            return hidden.roll(1, dims=-1)

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.turned = Same(), Turned()

        def forward(self, hidden):
            return self.turned(self.same(hidden)[0])

    stack = Stack()
    torch.manual_seed(0)
    found = importances(stack, {"same": stack.same, "turned": stack.turned}, [{"hidden": torch.randn(4, 9, 64)}])
    assert found["same"] > 1 > found["turned"]
    assert np.mean(list(found.values())) == pytest.approx(1)
    ratios = [adaptive_ratio(found[name], low=0.1, high=0.8) for name in ("same", "turned")]
    assert 0 <= ratios[0] < ratios[1] <= 0.9 + 1e-9


def test_each_weight_learns_by_the_importance_of_its_block():
    net = make_net()
    net.body = nn.Sequential(nn.Linear(24, 24, bias=False), nn.Linear(24, 24))
    net.head = nn.Linear(24, 5)
    with torch.no_grad():
        net.body[0].weight.copy_(torch.eye(24) + 0.01 * torch.randn(24, 24))
    ratios = adaptive_ratios(net, [{"given": rows(step)[0]} for step in range(3)], low=0.1, high=0.4)
    assert ratios.keys() == chosen_weights(net).keys() == {"body.0.weight", "body.1.weight"}
    assert ratios["body.0.weight"] < 0.6 < ratios["body.1.weight"]
    held = Osft(chosen_weights(net), ratios)
    kept = {name: space.num_kept for name, space in held.subspaces.items()}
    assert kept == {name: num_kept(torch.Size((24, 24)), ratio) for name, ratio in ratios.items()}


def _divided(rank, num_workers, store, queue):
    """A DeepSpeed worker that trains the same net at every stage and in both types."""
    from app.training.extensions import prepare_environment

    prepare_environment()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(num_workers), "LOCAL_SIZE": str(num_workers)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=num_workers)
    for stage, dtype in [
        (1, torch.float32),
        (2, torch.float32),
        (3, torch.float32),
        (1, torch.bfloat16),
        (3, torch.bfloat16),
    ]:
        found = _train_divided(stage, dtype, rank, num_workers)
        if rank == 0:
            queue.put((stage, dtype, *found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _train_divided(stage, dtype, rank, num_workers):
    from app.training.extensions import without_autotuning

    with without_autotuning():
        import deepspeed

    from app.training.zero import full_weight

    net = make_net()
    held = Osft(chosen_weights(net), 0.4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    config = {
        "train_micro_batch_size_per_gpu": 8 // num_workers,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config, dist_init_required=False)
    for step in range(STEPS):
        given, wanted = rows(step, rank=rank, num_workers=num_workers)
        engine.backward(nn.functional.cross_entropy(engine(given.to(dtype)).float(), wanted))
        engine.step()
        held.after_step()
    leaks = held.check()
    return leaks, {name: full_weight(value).detach().float().numpy() for name, value in net.named_parameters()}


def test_zero_1_2_and_3_on_two_workers_give_what_one_process_gives(tmp_path):
    alone = make_net()
    wanted = learn(alone, Osft(chosen_weights(alone), 0.4))
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=_divided, args=(rank, 2, (tmp_path / "store").as_uri(), queue)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        results = [queue.get(timeout=120) for _ in CASES]
    finally:
        for worker in workers:
            worker.join(timeout=30)
            worker.kill()
    for stage, dtype, leaks, got in results:
        assert leaks["leak_master"] < osft.TOLERANCE, (stage, dtype)
        assert leaks["leak_weight"] < osft.TOLERANCES[dtype], (stage, dtype)
        if dtype == torch.float32:
            worst = max(np.abs(got[name] - wanted[name].numpy()).max() for name in wanted)
            assert worst < 1e-6, (stage, worst)
