"""A retriever's folder, as transformers and sentence-transformers read it too.

Layout: ``encoder/`` (of chunks), ``questions/`` and, where it re-ranks, ``reranker/``, each with ``config.json``,
``model.safetensors`` and ``tokenizer.json``, and the small files by which sentence-transformers knows pooling and
length. Guarantees: equal weights give equal bytes. Not guaranteed: what a library of another version makes of its own
small files.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.inference.encoder import MAX_TOKENS, PINNED
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
    _write_model(folder, weights, base=base, config={"architectures": ["BertModel"]}, max_tokens=MAX_TOKENS)
    _write_pooling(folder)


def copy_encoder(folder: Path, *, base: Path) -> None:
    """Write the base as it is, byte for byte."""
    folder.mkdir(parents=True)
    for name in PINNED:
        shutil.copyfile(base / name, folder / name)
    _write_tokenizer_config(folder, max_tokens=MAX_TOKENS)
    _write_pooling(folder)


def _write_pooling(folder: Path) -> None:
    dim = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"])
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
) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    known = json.loads((base / "config.json").read_text(encoding="utf-8"))
    known.pop("_name_or_path", None)
    _write_json(folder / "config.json", known | config)
    shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    _write_tokenizer_config(folder, max_tokens=max_tokens)
    save_file(
        {name: weights[name].contiguous() for name in sorted(weights)}, folder / "model.safetensors", {"format": "pt"}
    )


def _write_tokenizer_config(folder: Path, *, max_tokens: int) -> None:
    known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    length = min(max_tokens, int(known["max_position_embeddings"]))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **SPECIAL}
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
