"""From an index version to the encoders and the re-ranker that it was made for: the pinned ones, or a retriever's.

A version of kind ``retriever`` holds ``encoder/``, where questions have an encoder of their own ``questions/``, and
where it re-ranks ``reranker/``, and where BM25 learnt of questions ``learnt.npz``; its facts name ``encoder`` and
``question_encoder`` (``app.inference.encoder.digest_of``; the latter null where one encodes both), ``dim``,
``reranker`` (``reranker_digest``, or null) and ``words`` (that file's digest, or null; older ones say nothing of it).
An index that was made with one repeats these facts, and names the retriever in the fact ``retriever`` and as a parent.

Guarantees: what is loaded for an index is what the index was made with, byte for byte, or nothing. Not guaranteed: that
it is a good one; the policy ``retriever`` judges that.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import SignalboxError
from app.inference.encoder import DIMENSION, ENCODER_DIGEST, Encoder
from app.inference.reranker import Reranker
from app.registry.versions import Registry, Version, VersionNotFound
from app.registry.whole import whole_folder

KIND = "retriever"
ENCODER_FOLDER, QUESTIONS_FOLDER, RERANKER_FOLDER = "encoder", "questions", "reranker"
PINNED = "pinned"
"""Names what an index was made with when no retriever was."""
REPEATED = ("encoder", "dim", "question_encoder", "reranker", "words")
"""Facts of a retriever that an index repeats."""


class RetrieverMismatch(SignalboxError):
    """An index and its retriever do not belong together: build the index again, by jobs.index --retriever."""


@dataclass(frozen=True)
class Models:
    """A retriever in memory: ``encoder`` embeds chunks, ``questions`` embeds questions (often the same one)."""

    encoder: Encoder
    questions: Encoder
    reranker: Reranker | None = None


@dataclass(frozen=True)
class Source:
    """Where a retriever lies, and what its encoder and re-ranker must be.

    ``name`` is the retriever's digest, or ``pinned``, which has no folder and no re-ranker.
    """

    name: str = PINNED
    encoder: str = ENCODER_DIGEST
    dim: int = DIMENSION
    reranker: str | None = None
    folder: Path | None = None
    question_encoder: str | None = None
    words: str | None = None

    def load(self, *, num_threads: int = 1) -> Models:
        """The encoders, and the re-ranker where there is one.

        Raises:
            DigestMismatch, EncoderUnusable, RetrieverMismatch: as ``load_encoder`` says, of any.
        """
        encoder = self.load_encoder(num_threads=num_threads)
        questions = self.load_questions(num_threads=num_threads) if self.question_encoder else encoder
        if self.folder is None or self.reranker is None:
            return Models(encoder, questions)
        folder = self.folder / RERANKER_FOLDER
        return Models(encoder, questions, Reranker(folder, digest=self.reranker, num_threads=num_threads))

    def load_encoder(self, *, num_threads: int = 1) -> Encoder:
        """The encoder of chunks.

        Raises:
            DigestMismatch, EncoderUnusable: the folder holds another one, or none.
            RetrieverMismatch: its vectors are of another size than stated.
        """
        folder = self.folder and self.folder / ENCODER_FOLDER
        return self._loaded(folder, self.encoder, num_threads=num_threads)

    def load_questions(self, *, num_threads: int = 1) -> Encoder:
        """The encoder of questions; raises as ``load_encoder`` does."""
        if self.folder is None or self.question_encoder is None:
            return self.load_encoder(num_threads=num_threads)
        return self._loaded(self.folder / QUESTIONS_FOLDER, self.question_encoder, num_threads=num_threads)

    def _loaded(self, folder: Path | None, digest: str, *, num_threads: int) -> Encoder:
        encoder = Encoder(folder=folder, digest=digest, num_threads=num_threads)
        if encoder.dim != self.dim:
            said = f"retriever {self.name} states {self.dim} numbers a vector, its encoder makes {encoder.dim}"
            raise RetrieverMismatch(f"{said}: tune it again")
        return encoder

    def facts(self) -> dict[str, Any]:
        """What an index that is made with it says of it."""
        facts: dict[str, Any] = {"encoder": self.encoder, "dim": self.dim}
        if self.folder is None:
            return facts
        more = {"question_encoder": self.question_encoder, "reranker": self.reranker, "retriever": self.name}
        return facts | more | ({"words": self.words} if self.words else {})


def find_source(retriever: Version | None, *, registry: Registry) -> Source:
    """Where a retriever lies; the pinned encoder without one.

    Raises:
        ArtifactChanged: a file of it is not the one that was published.
        RetrieverMismatch: its facts name no encoder.
    """
    if retriever is None:
        return Source()
    folder = whole_folder(retriever, registry)
    try:
        encoder, dim = str(retriever.facts["encoder"]), int(retriever.facts["dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise RetrieverMismatch(f"retriever {retriever.ref} states no encoder and dim: tune it again") from error
    facts = retriever.facts
    reranker, questions, words = (facts.get(name) for name in ("reranker", "question_encoder", "words"))
    return Source(retriever.digest, encoder, dim, reranker, folder, questions, words)


def source_named(name: str, *, registry: Registry) -> Source:
    """The source of that name.

    Raises:
        VersionNotFound, ArtifactChanged, RetrieverMismatch: there is none, or as ``find_source`` says.
    """
    return find_source(None if name == PINNED else registry.get(KIND, name), registry=registry)


def retriever_of(index: Version, *, registry: Registry) -> Version | None:
    """The retriever that an index was made with; None when it was made with the pinned encoder.

    Raises:
        RetrieverMismatch: there is no such retriever, or the index was made with another encoder than it states.
    """
    digest, stated = index.facts.get("retriever"), index.facts.get("encoder", ENCODER_DIGEST)
    if digest is None:
        if stated != ENCODER_DIGEST:
            raise RetrieverMismatch(f"index {index.ref} names encoder {stated} and no retriever: build it again")
        return None
    try:
        retriever = registry.get(KIND, str(digest))
    except VersionNotFound as error:
        said = f"index {index.ref} was made with a retriever that is not in the registry ({digest})"
        raise RetrieverMismatch(f"{said}: tune one, then build the index again") from error
    for fact in REPEATED:
        ours, theirs = index.facts.get(fact), retriever.facts.get(fact)
        if ours != theirs:
            said = f"index {index.ref} states {fact} {ours}, and its retriever {retriever.ref} {theirs}"
            raise RetrieverMismatch(f"{said}: build the index again")
    return retriever


def made_with(index: Version, *, registry: Registry) -> str:
    """The name of the source that an index was made with; RetrieverMismatch as ``retriever_of`` says."""
    retriever = retriever_of(index, registry=registry)
    return retriever.digest if retriever else PINNED


def source_of(index: Version, *, registry: Registry) -> Source:
    """Where the retriever of an index lies.

    Raises:
        ArtifactChanged, RetrieverMismatch: as ``retriever_of`` and ``find_source`` say.
    """
    return find_source(retriever_of(index, registry=registry), registry=registry)
