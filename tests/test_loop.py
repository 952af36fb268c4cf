"""One turn of the loop: what a dataset became is found again, or the job that makes it is named."""

import pytest

from app.loop import Knowledge, NotPrepared, find_knowledge


@pytest.fixture
def dataset(registry):
    return registry.publish("dataset", "handbook", inputs={"n": 1})


def make(registry, kind, dataset, number):
    return registry.publish(kind, f"of-{dataset.name}", inputs={"n": number}, parents=[dataset.digest])


def test_the_newest_of_each_is_found(registry, dataset):
    make(registry, "index", dataset, 1)
    index, rows = make(registry, "index", dataset, 2), make(registry, "synthetic", dataset, 1)
    assert find_knowledge(dataset, registry=registry) == Knowledge(dataset, index, rows)


@pytest.mark.parametrize(("made", "job"), [([], "jobs.index"), (["index"], "jobs.synthesize")])
def test_a_missing_one_names_its_job(registry, dataset, made, job):
    for kind in made:
        make(registry, kind, dataset, 1)
    with pytest.raises(NotPrepared, match=job):
        find_knowledge(dataset, registry=registry)
