import pytest

from app.governance.promotion import rollback
from app.inference.encoder import ENCODER_DIGEST
from app.routing.router import Router, Row
from app.routing.settings import RoutingSettings
from app.serving.errors import NoRelease, NotPromoted
from app.serving.release import resolve_production, resolve_release
from tests.retrieval.tuned import build_index, publish_dataset, publish_retriever
from tests.routing.test_router import SURE
from tests.serving.promoted import build, let_through, put_into_production

PRICES = {"small_usd_per_1k_tokens": 0.1}


@pytest.fixture
def publish(registry, tmp_path):
    """Publishes a release over the models named, and promotes it unless told otherwise."""

    def router():
        folder = tmp_path / "router"
        folder.mkdir()
        Router.fit({"small": [Row(SURE, True)] * 50}, settings=RoutingSettings()).save(folder)
        return registry.publish("router", "router", folder=folder, inputs={}).digest

    def release(*rungs, with_router=True, promoted=True, **more):
        models = {rung: registry.publish("model", f"{rung}-lm", inputs={"rung": rung}).digest for rung in rungs}
        facts = {"small": None, "large": None, **models, "index": "sha256:" + "0" * 64, "prices": PRICES}
        facts |= {"router": router() if with_router else None, **more}
        made, verdict = build(registry, "assistant", facts)
        return put_into_production(registry, made, verdict) if promoted else made

    return release


def test_a_release_is_resolved_by_reference_and_by_digest(registry, publish):
    version = publish("small", "large")
    release = resolve_release(registry, "assistant@latest")
    assert release.digest == version.digest
    assert list(release.models) == ["small", "large"]
    assert release.models["small"].ref == "small-lm@1"
    assert release.router.decide("small", SURE).accepted
    assert release.price("large") == 0.0
    assert resolve_release(registry, version.digest) == release


@pytest.mark.parametrize(
    ("name", "rungs"),
    [
        ("signalbox", ["small", "large"]),
        ("small", ["small"]),
        ("large-lm@1", ["large"]),
        ("extractive", []),
        ("small-lm@2", None),
        ("", None),
    ],
)
def test_names_that_a_request_may_ask_for(registry, publish, name, rungs):
    publish("small", "large")
    release = resolve_release(registry, "assistant")
    assert release.rungs_for(name) == rungs
    assert (name in release.model_names) is (rungs is not None)


def test_the_encoder_is_that_of_the_index(registry, publish, tmp_path):
    dataset = publish_dataset(registry, tmp_path / "dataset")
    publish(with_router=False)
    assert resolve_release(registry, "assistant").encoder_names[2:] == ["all-minilm-l6-v2", ENCODER_DIGEST]
    retriever = publish_retriever(registry, tmp_path / "tuned")
    index = build_index(registry, dataset, retriever=retriever)
    publish(with_router=False, index=index.digest, index_verdict=let_through(registry, index).digest)
    named = ["encoder", "signalbox", "tuned@1", retriever.facts["encoder"]]
    assert resolve_release(registry, "assistant").encoder_names == named


def test_a_release_without_models_or_router(registry, publish):
    publish(with_router=False)
    release = resolve_release(registry, "assistant")
    assert (dict(release.models), release.router) == ({}, None)
    assert release.rungs_for("signalbox") == []
    assert release.rungs_for("small") is None


@pytest.mark.parametrize("ref", ["assistant@production", "assistant@9", "sha256:" + "1" * 64])
def test_no_such_release_says_what_to_do(registry, ref):
    with pytest.raises(NoRelease, match="promote one"):
        resolve_release(registry, ref)


def test_a_release_that_was_never_promoted_is_not_resolved(registry, publish):
    publish(with_router=False)
    candidate = publish(with_router=False, promoted=False, prompt="Be rude.")
    for ref in (candidate.digest, candidate.ref, "assistant@latest"):
        with pytest.raises(NotPromoted, match=r"never promoted.*signalbox promote assistant@2"):
            resolve_release(registry, ref)
    assert resolve_release(registry, "assistant@production").ref == "assistant@1"


def test_an_earlier_release_is_deployed_after_a_rollback_only(registry, publish):
    first, second = publish(with_router=False), publish(with_router=False, prompt="Be kind.")
    assert resolve_production(registry, "assistant@production").digest == second.digest
    assert resolve_release(registry, first.digest).digest == first.digest, "a gateway that serves it still may go on"
    with pytest.raises(NotPromoted, match="assistant@2 is now: `signalbox rollback assistant@1"):
        resolve_production(registry, first.digest)
    rollback(first, registry=registry, reason="a test")
    assert resolve_production(registry, first.digest).digest == first.digest
