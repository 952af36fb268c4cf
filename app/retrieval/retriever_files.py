"""A retriever's folder, as transformers and sentence-transformers read it too.

Layout: ``encoder/`` and, where it re-ranks, ``reranker/``, each with ``config.json``, ``model.safetensors`` and
``tokenizer.json``, and the small files by which sentence-transformers knows pooling and length. Guarantees: equal
weights give equal bytes. Not guaranteed: what a library of another version makes of its own small files.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.inference.encoder import MAX_TOKENS
from app.inference.reranker import MAX_PAIR_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Pooling", "sentence_transformers.models.Pooling"),
    ("2_Normalize", "sentence_transformers.models.Normalize"),
)


def write_encoder(folder: Path, weights: "Mapping[str, Tensor]", *, base: Path) -> None:
    """Write an encoder whose configuration and tokenizer are its base's."""
    dim = _write_model(folder, weights, base=base, config={"architectures": ["BertModel"]}, max_tokens=MAX_TOKENS)
    modules = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(MODULES)]
    _write_json(folder / "modules.json", modules)
    pooling = {"word_embedding_dimension": dim, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling").mkdir()
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})


def write_reranker(folder: Path, weights: "Mapping[str, Tensor]", *, base: Path) -> None:
    """Write a cross-encoder with one score whose configuration and tokenizer are its base's."""
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "score"}, "label2id": {"score": 0}}
    _write_model(folder, weights, base=base, config=config, max_tokens=MAX_PAIR_TOKENS)


def _write_model(
    folder: Path, weights: "Mapping[str, Tensor]", *, base: Path, config: Mapping[str, Any], max_tokens: int
) -> int:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    known = json.loads((base / "config.json").read_text(encoding="utf-8"))
    known.pop("_name_or_path", None)
    _write_json(folder / "config.json", known | config)
    shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    length = min(max_tokens, int(known["max_position_embeddings"]))
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **SPECIAL},
    )
    save_file(
        {name: weights[name].contiguous() for name in sorted(weights)}, folder / "model.safetensors", {"format": "pt"}
    )
    return int(known["hidden_size"])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
