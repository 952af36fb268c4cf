"""From a version in the registry to something that runs: engines of models, indexes, and the search over them."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from app.core.workspace import Workspace
from app.evaluation.answerers import Grounding
from app.inference.models import find_model
from app.registry.versions import Registry, Version, open_registry
from app.registry.whole import whole_folder
from app.routing.calibrate import calibrate
from app.routing.settings import RoutingSettings
from app.serving.loaded import Loaded
from app.serving.schema import Passage
from app.serving.settings import ServingSettings

logger = logging.getLogger(__name__)
Scatter: TypeAlias = Callable[[str, Sequence[tuple[int, str, tuple[Any, ...]]]], list[Any]]
"""Digest of an index, and calls to its shards (number, method, arguments) -> their results."""


def load_engine(registry: Registry, digest: str, *, settings: ServingSettings, bases: Loaded[Any] | None = None) -> Any:
    """The text engine of a model version; an adapter is put on its base model.

    Args:
        bases: engines of whole models, which adapters share where the settings say so.
    """
    from app.inference.adapters import NotMixable
    from app.inference.batching import Limits

    model = registry.get("model", digest)
    source = find_model(model, registry=registry)
    if bases is not None and settings.share_base:
        if source.adapter is None:
            return bases.get(digest)
        try:
            return bases.get(model.facts["base"]).adapted(source.adapter)
        except NotMixable as error:
            logger.warning("model %s gets a copy of its base: %s", model.ref, error)
    limits = Limits(
        max_rows=settings.max_rows,
        max_waiting=settings.max_waiting,
        max_tokens=settings.max_batch_tokens,
        prefix_tokens=settings.prefix_tokens,
    )
    where = {"device": settings.device, "dtype": settings.dtype}
    return source.load(num_threads=settings.num_threads, limits=limits, **where)


def load_index(registry: Registry, digest: str, *, scatter: Scatter | None = None) -> Any:
    """The search index of an index version.

    Args:
        scatter: makes calls to the shards of an index that others hold; None: a divided index is opened here, whole.
    """
    from app.retrieval.search import SearchIndex
    from app.retrieval.shards import Layout, Scattered

    version = registry.get("index", digest)
    if scatter is None or version.facts.get("num_shards", 1) == 1:
        return SearchIndex.open(whole_folder(version, registry))
    folder = whole_folder(version, registry, only=lambda name: "/" not in name)
    parts = Scattered(Layout.of(folder), functools.partial(scatter, digest))
    return SearchIndex.of(parts, folder, dim=int(version.facts["dim"]))


def load_shard(registry: Registry, digest: str, number: int) -> Any:
    """One shard of an index version."""
    from app.retrieval.shards import Shard, files_of

    version = registry.get("index", digest)
    folder = whole_folder(version, registry, only=files_of(registry.folder(version), number))
    return Shard.open(folder, number)


def to_passage(hit: Any) -> Passage:
    """A search hit as the gateway passes it on."""
    return Passage.model_validate(hit, from_attributes=True)


class Finder:
    """Passages of an index for questions, those that everybody may see; picklable, opens the index on first use."""

    def __init__(self, workspace: Workspace, index: str, *, top_k: int, num_threads: int = 1) -> None:
        self._workspace, self._index, self._top_k, self._num_threads = workspace, index, top_k, num_threads

    def __call__(self, questions: Sequence[str]) -> list[list[Passage]]:
        return self._search(list(questions))

    @functools.cached_property
    def _search(self) -> Callable[[list[str]], list[list[Passage]]]:
        from app.retrieval.searcher import Searcher

        registry = open_registry(self._workspace)
        index = registry.get("index", self._index)
        searcher = Searcher.open(index, registry=registry, num_threads=self._num_threads)
        return lambda questions: [[to_passage(hit) for hit in hits] for hits in searcher.search(questions, self._top_k)]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_search"}


def grounding_of(index: Version | None, number: int, *, registry: Registry) -> Grounding | None:
    """The passages that a release with this index gives its models; None where it gives none."""
    if index is None or not number:
        return None
    return Grounding(index.digest, number, Finder(registry.workspace, index.digest, top_k=number))


def calibrate_router(
    *,
    small: Version | None,
    large: Version | None,
    index: Version,
    synthetic: Version,
    registry: Registry,
    settings: RoutingSettings,
    context_passages: int = 0,
) -> Version:
    """Calibrate the router of two models, either of which may be missing, with the search that serving uses.

    Args:
        context_passages: how many of the passages found the models are given.
    """
    threads, top_k = settings.num_threads, max(settings.top_k, context_passages)
    return calibrate(
        small=small,
        large=large,
        index=index,
        synthetic=synthetic,
        search=Finder(registry.workspace, index.digest, top_k=top_k, num_threads=threads),
        load=lambda version: find_model(version, registry=registry).load(num_threads=threads),
        registry=registry,
        settings=settings,
        context_passages=context_passages,
    )
