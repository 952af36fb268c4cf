"""The stage on a cluster: the same findings and the same version as in one process."""

import random

import pytest

from app.core.workspace import Workspace
from app.datasets.curate import Curation, import_rows
from app.datasets.pipeline import here, num_workers, on_cluster
from app.datasets.schema import make_row
from app.datasets.settings import DatasetSettings, QualitySettings
from app.registry.versions import open_registry
from tests.datasets.test_curate import pairs, write

TEXT = "bank fee member account open close share loan rate rule form date name sum due paid lost"
WORDS = TEXT.split()


@pytest.mark.parametrize(("num_chars", "num"), [(100, 0), (1500, 1), (2000, 2), (9000, 3)])
def test_few_rows_are_worth_no_worker_and_many_no_more_than_there_are(num_chars, num):
    rows = [make_row("qa", question="q" * (num_chars - 50), answer="a" * 49)]
    assert num_workers(rows, DatasetSettings(num_workers=3, worker_chars=1000)) == num


@pytest.mark.cluster
def test_a_cluster_makes_the_version_that_one_process_makes(cluster, registry, tmp_path):
    rng = random.Random(0)
    long = [{"question": f"{n} " + " ".join(rng.choices(WORDS, k=30)), "answer": "Yes."} for n in range(150)]
    near = [{**record, "answer": "Yes. No."} for record in long[:30]]
    source = write(tmp_path / "rows.jsonl", [*pairs(20), *long, *near])
    settings = DatasetSettings(
        batch_size=40, worker_chars=1, quality=QualitySettings(personal="skip", near_duplicates="drop")
    )
    made = import_rows(source, "fees", by=Curation(registry, settings, on_cluster))
    other = open_registry(Workspace.find(tmp_path / "other"))
    same = import_rows(source, "fees", by=Curation(other, settings.model_copy(update={"batch_size": 7}), here))
    assert made.facts["quality"]["rejected_by_stage"]["near_duplicate"] >= 28
    assert made.digest == same.digest
