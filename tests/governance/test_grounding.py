"""A release gives its models just the passages that they were judged with."""

import pytest

from app.governance.approvals import approve
from app.governance.gate import judge
from app.governance.promotion import PassagesRefused, promote
from app.governance.release import ReleaseIncomplete, build_release, passages_of
from app.inference.passages import PASSAGES, identity_of
from app.ledger.log import PRODUCTION
from tests.governance.conftest import PRICES, ask_for_traffic, person_of


@pytest.fixture
def make(world, policy):
    """A release whose parts were judged with some passages (number, and of the same index or another) or without."""

    def _make(number, *, judged, calibrated, same_index=True):
        registry, model, dataset = world.registry, world.model(), world.dataset()
        index, other = (
            registry.publish("index", name, inputs={"d": dataset.digest}, parents=[dataset.digest]) for name in "ab"
        )
        of = (index if same_index else other).digest
        with_passages = {PASSAGES: identity_of(of, judged)} if judged else {}
        evaluation = world.evaluation([1] * 96 + [0] * 4, model=model, **with_passages)
        verdict = judge(policy, world.evidence(model, candidate={"target": evaluation}), registry=registry)
        about = {"m": model.digest, "synthetic": "", "n": calibrated}
        about |= {PASSAGES: identity_of(index.digest, calibrated)} if calibrated else {}
        router = registry.publish("router", "handbook", inputs=about, parents=[model.digest])
        parts = {"small": model, "index": index, "dataset": dataset, "router": router, "prices": PRICES}
        release = build_release("handbook", verdict=verdict, registry=registry, context_passages=number, **parts)
        return ask_for_traffic(release, verdict, registry), verdict

    return _make


def into_production(world, policy, release, verdict):
    signer, registry = world.signer(), world.registry
    said = {"printed_name": person_of(signer.name), "meaning": "approved for production"}
    approve(verdict, release, signer=signer, registry=registry, **said)
    promote(release, verdict=verdict, registry=registry, policy=policy, reason="a test")


@pytest.mark.parametrize("number", [0, 3])
def test_what_was_judged_serves(world, policy, make, number):
    release, verdict = make(number, judged=number, calibrated=number)
    into_production(world, policy, release, verdict)
    assert world.registry.alias("release", "handbook", PRODUCTION) == release.digest
    assert passages_of(release) == number
    assert ("context_passages" in release.facts) == ("context_passages" in release.manifest["inputs"]) == bool(number)


@pytest.mark.parametrize(
    ("number", "about", "says"),
    [
        (3, {"judged": 0, "calibrated": 3}, "small' was without passages, and the release answers with 3"),
        (0, {"judged": 3, "calibrated": 0}, "was with 3 passages of index .*, and the release answers without"),
        (3, {"judged": 4, "calibrated": 3}, "was with 4 passages"),
        (3, {"judged": 3, "calibrated": 3, "same_index": False}, "was with 3 passages of index"),
        (3, {"judged": 3, "calibrated": 0}, "router handbook@1 was calibrated without passages"),
    ],
)
def test_what_was_judged_otherwise_does_not(world, policy, make, number, about, says):
    release, verdict = make(number, **about)
    with pytest.raises(PassagesRefused, match=says):
        into_production(world, policy, release, verdict)
    assert world.registry.alias("release", "handbook", PRODUCTION) is None


@pytest.mark.parametrize("number", [-1, 21])
def test_a_number_out_of_range_makes_no_release(make, number):
    with pytest.raises(ReleaseIncomplete, match="give 0 to 20"):
        make(number, judged=0, calibrated=0)
