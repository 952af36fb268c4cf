"""The files that weights lie in: which there are, whether they are whole, and whether every value is a number.

Guarantees: nothing is unpickled; a file is read once, in pieces, so that weights larger than memory can be looked at.
Source: the safetensors format (eight bytes of length, a JSON header, the tensors end to end).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.core.files import FileUnusable, read_text
from app.training.errors import BaseRefused

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
PIECE_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 100 * 1024 * 1024
EXPONENTS: dict[str, tuple[str, int]] = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}
"""How wide a value is, and the bits that are all set in one that is infinite or no number."""
WHOLE_NUMBERS = ("BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64")


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a folder's weights.

    Raises:
        BaseRefused: there are none, they are pickled, or a shard is missing.
    """
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        how = "load it where you trust it and save it again with save_pretrained, which writes safetensors"
        raise BaseRefused(f"{folder} holds its weights pickled ({pickled[0]}), which may run code: {how}")
    raise BaseRefused(f"{folder} holds no {WEIGHTS_FILE}: copy the whole folder of the model")


def _shards(folder: Path) -> list[str]:
    index = read_json(folder / INDEX_FILE)
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise BaseRefused(f"{folder / INDEX_FILE} names no file of weights: copy it anew")
    names = sorted(set(placed.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BaseRefused(f"{folder / INDEX_FILE} names {name!r}, which is no safetensors file beside it")
        if not (folder / name).is_file():
            raise BaseRefused(f"{folder} lacks {name}, one of its {len(names)} files of weights: copy the whole folder")
    for name in names:
        listed = {tensor for tensor, file in placed.items() if file == name}
        if other := listed ^ set(read_header(folder / name)):
            raise BaseRefused(f"{folder / name} and {INDEX_FILE} do not agree on {min(other)}: copy the folder anew")
    return names


def read_header(path: Path) -> dict[str, Any]:
    """dtype, shape and place of every tensor of a file, by name.

    Raises:
        BaseRefused: it is no whole safetensors file.
    """
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        total = path.stat().st_size
        data = file.read(num_bytes) if num_bytes <= min(total, MAX_HEADER_BYTES) else b""
    try:
        header = json.loads(data)
        header.pop("__metadata__", None)
        ends = [int(each["data_offsets"][1]) for each in header.values()]
        sound = all(isinstance(each["dtype"], str) and isinstance(each["shape"], list) for each in header.values())
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise _damaged(path) from error
    if not sound or 8 + num_bytes + max(ends, default=0) != total:
        raise _damaged(path)
    return dict(header)


def check_finite(path: Path) -> int:
    """How many values a file holds.

    Raises:
        BaseRefused: one of them is infinite or no number, or the file is damaged or quantised.
    """
    num_values, start = 0, 8 + int.from_bytes(path.open("rb").read(8), "little")
    for name, tensor in read_header(path).items():
        begin, end = tensor["data_offsets"]
        if tensor["dtype"] in WHOLE_NUMBERS:
            continue
        if tensor["dtype"] not in EXPONENTS:
            raise BaseRefused(f"{name} is of type {tensor['dtype']}, quantised: import the model as it was before")
        kind, bits = EXPONENTS[tensor["dtype"]]
        num_values += (end - begin) // np.dtype(kind).itemsize
        for place in range(begin, end, PIECE_BYTES):
            count = min(PIECE_BYTES, end - place) // np.dtype(kind).itemsize
            piece = np.fromfile(path, dtype=kind, count=count, offset=start + place)
            if np.any(piece & np.array(bits, dtype=kind) == bits):
                raise BaseRefused(f"{name} in {path} holds values that are infinite or no numbers: take other weights")
    return num_values


def read_json(path: Path) -> Mapping[str, Any]:
    """The mapping that a JSON file holds.

    Raises:
        BaseRefused: it is missing, or holds none.
    """
    try:
        found = json.loads(read_text(path))
    except (FileUnusable, ValueError, RecursionError) as error:
        raise BaseRefused(f"{path} cannot be read as JSON: copy the whole folder of the model anew") from error
    if not isinstance(found, dict):
        raise BaseRefused(f"{path} is no mapping: copy the whole folder of the model anew")
    return found


def _damaged(path: Path) -> BaseRefused:
    return BaseRefused(f"{path} is no whole safetensors file: copy it anew")
