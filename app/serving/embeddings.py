"""``POST /v1/embeddings`` in OpenAI's form: what is asked, what comes back.

The encoder is the one that the release's index was made with, so that a text gets the very vector that the index holds
of it, whatever stands beside it in the request. What would change a vector and is not there is refused by name: other
sizes (``dimensions``), token arrays, and a text longer than the encoder reads, which would be cut in silence.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from app.serving.errors import invalid
from app.serving.release import Release
from app.serving.schema import MAX_QUERY, whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_INPUTS = 2048
"""Texts of one request, as OpenAI has it."""
MAX_CHARACTERS = 4_000_000
"""Of all texts of a request together."""
AT_ONCE = 64
"""Texts that a replica encodes in one call; searches come in between."""
SIGNS = 2
"""Tokens of a text that are the encoder's own."""
TEXTS_ONLY = (
    "send a text or a list of texts; token arrays are not understood, as the encoder's tokens are its own "
    "(with LangChain set check_embedding_ctx_length=False)"
)


@dataclass(frozen=True)
class Embedded:
    """Texts as an encoder sees them; without vectors where one is longer than the encoder reads."""

    num_tokens: Sequence[int]
    """Of each text, the encoder's own signs at both ends included."""

    max_tokens: int
    vectors: "NDArray[np.float32]"
    """float32 (n, dim), unit length."""


class EmbeddingRequest(BaseModel):
    """Texts to be embedded. ``user`` is accepted and not used."""

    model_config = ConfigDict(extra="forbid")

    input: Any
    model: str = "encoder"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: PositiveInt | None = None
    user: str | None = None

    def texts(self) -> list[str]:
        """The texts, at least one.

        Raises:
            ApiError: the input is something else, empty, or too much.
        """
        given = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise invalid(TEXTS_ONLY, param="input")
        if not 0 < len(given) <= MAX_INPUTS:
            raise invalid(f"{len(given)} texts are given: send 1 to {MAX_INPUTS}", param="input")
        texts = [whole(text) for text in given]
        if empty := [place for place, text in enumerate(texts) if not text.strip()]:
            raise invalid(f"input[{empty[0]}] holds no text: leave it out", param="input")
        if max(map(len, texts)) > MAX_QUERY or sum(map(len, texts)) > MAX_CHARACTERS:
            said = f"a text may have {MAX_QUERY:,} characters, all together {MAX_CHARACTERS:,}"
            raise invalid(f"{said}: send less at a time", param="input")
        return texts

    def check(self, part: Embedded, *, start: int) -> None:
        """Refuse what the encoder cannot do, for texts from the number ``start`` on; ApiError says what."""
        long = next((place for place, num in enumerate(part.num_tokens) if num > part.max_tokens), None)
        if long is not None:
            said = f"input[{start + long}] has {part.num_tokens[long]} tokens, the encoder reads {part.max_tokens}"
            raise invalid(f"{said}: cut it into parts", param="input")
        dim = part.vectors.shape[1]
        if self.dimensions not in (None, dim):
            raise invalid(f"vectors have {dim} dimensions, and cannot be cut: leave it out", param="dimensions")


def respond(request: EmbeddingRequest, parts: Sequence[Embedded], release: Release) -> dict[str, Any]:
    """The response's body."""
    spell = _base64 if request.encoding_format == "base64" else _floats
    vectors = [vector for part in parts for vector in part.vectors]
    num = sum(num for part in parts for num in part.num_tokens)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": spell(vector)} for place, vector in enumerate(vectors)
        ],
        "model": release.encoder.ref,
        "usage": {"prompt_tokens": num, "total_tokens": num},
        "release": release.digest,
    }


def _base64(vector: "NDArray[np.float32]") -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _floats(vector: "NDArray[np.float32]") -> list[float]:
    return [float(number) for number in vector]
