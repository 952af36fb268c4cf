"""The stage on a cluster: the same findings and the same version as in one process."""

import random

import pytest

from app.core.workspace import Workspace
from app.datasets.curate import Curation, import_rows
from app.datasets.pipeline import here, on_cluster
from app.datasets.settings import DatasetSettings, QualitySettings
from app.registry.versions import open_registry
from tests.datasets.test_curate import pairs, write

TEXT = "bank fee member account open close share loan rate rule form date name sum due paid lost"
WORDS = TEXT.split()


@pytest.mark.cluster
def test_a_cluster_makes_the_version_that_one_process_makes(cluster, registry, tmp_path):
    rng = random.Random(0)
    long = [{"question": f"{n} " + " ".join(rng.choices(WORDS, k=30)), "answer": "Yes."} for n in range(150)]
    near = [{**record, "answer": "Yes. No."} for record in long[:30]]
    source = write(tmp_path / "rows.jsonl", [*pairs(20), *long, *near])
    settings = DatasetSettings(batch_size=40, quality=QualitySettings(personal="skip", near_duplicates="drop"))
    made = import_rows(source, "fees", by=Curation(registry, settings, on_cluster))
    other = open_registry(Workspace.find(tmp_path / "other"))
    same = import_rows(source, "fees", by=Curation(other, settings.model_copy(update={"batch_size": 7}), here))
    assert made.facts["quality"]["rejected_by_stage"]["near_duplicate"] >= 28
    assert made.digest == same.digest
