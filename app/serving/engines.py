"""From a version in the registry to something that runs: engines of models, indexes, and the search over them."""

from collections.abc import Callable
from typing import Any

from app.inference.models import find_model
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder
from app.routing.calibrate import calibrate
from app.routing.settings import RoutingSettings
from app.serving.schema import Passage


def load_engine(registry: Registry, digest: str, *, num_threads: int) -> Any:
    """The text engine of a model version; an adapter is put on its base model."""
    return find_model(registry.get("model", digest), registry=registry).load(num_threads=num_threads)


def load_index(registry: Registry, digest: str) -> Any:
    """The search index of an index version."""
    from app.retrieval.search import SearchIndex

    return SearchIndex.open(whole_folder(registry.get("index", digest), registry))


def to_passage(hit: Any) -> Passage:
    """A search hit as the gateway passes it on."""
    return Passage.model_validate(hit, from_attributes=True)


def make_search(registry: Registry, index: Version, *, top_k: int, num_threads: int) -> Callable[[list[str]], Any]:
    """Questions -> passages of an index, best first; index and encoder are loaded on the first call."""

    def search(questions: list[str]) -> list[list[Passage]]:
        from app.retrieval.searcher import Searcher

        found = Searcher.open(index, registry=registry, num_threads=num_threads).search(questions, top_k)
        return [[to_passage(hit) for hit in hits] for hits in found]

    return search


def calibrate_router(
    *,
    small: Version | None,
    large: Version | None,
    index: Version,
    synthetic: Version,
    registry: Registry,
    settings: RoutingSettings,
) -> Version:
    """Calibrate the router of two models, either of which may be missing, with the search that serving uses."""
    threads = settings.num_threads
    return calibrate(
        small=small,
        large=large,
        index=index,
        synthetic=synthetic,
        search=make_search(registry, index, top_k=settings.top_k, num_threads=threads),
        load=lambda version: load_engine(registry, version.digest, num_threads=threads),
        registry=registry,
        settings=settings,
    )
