"""A model version's folders: a whole model's own, an adapter's with that of the model below it."""

import pytest

from app.inference.models import ModelSource, find_model
from app.registry.versions import VersionNotFound


@pytest.fixture
def adapter(registry, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")

    def publish(base):
        return registry.publish("model", "lora", folder=tmp_path / "adapter", inputs={}, facts={"base": base})

    return publish


def test_a_whole_model_stands_alone(registry):
    base = registry.publish("model", "base", inputs={})
    assert find_model(base, registry=registry) == ModelSource(registry.folder(base))


def test_an_adapter_is_put_on_its_base(registry, adapter):
    base = registry.publish("model", "base", inputs={})
    lora = adapter(base.digest)
    assert find_model(lora, registry=registry) == ModelSource(registry.folder(base), adapter=registry.folder(lora))


def test_an_adapter_without_its_base_is_refused(registry, adapter):
    with pytest.raises(VersionNotFound):
        find_model(adapter("sha256:" + "0" * 64), registry=registry)
