"""A base model from elsewhere: from a Hugging Face folder to a model version.

Guarantees: the same folder, licence and source give the version that is there already; nothing is published of a folder
that is damaged, incomplete, pickled, quantised, asks for code of its own, or whose weights are not those of its
configuration; a link that leads out of the folder is not followed (the model hub's own cache apart). A model without a
chat template gets the default one, in its tokenizer_config.json; every other file is published byte for byte.
Not guaranteed: that the licence is what was said; that the weights are good.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app.core.digests import digest_file, digest_json
from app.inference.chat_format import GENERATION_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, context_tokens
from app.registry.tracking import Tracker
from app.registry.versions import Registry, Version, check_name
from app.training.errors import BaseRefused
from app.training.tokenizer import OF_TOKENIZERS
from app.training.weights import INDEX_FILE, check_finite, read_json, weight_files

KIND = "model"
CODE_VERSION = "import-1"
RECIPE = "import"
TIMEOUT_S = 600.0
CONFIG_FILE, ADAPTER_FILE = "config.json", "adapter_config.json"
ENDS = {-signal.SIGXCPU: "did not end in time", -signal.SIGKILL: "did not end in time"}
ASIDE = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "README.MD", "COPYING")
"""Beginnings of the names, in capitals, of what is published beside model and tokenizer."""


def import_base(
    folder: Path,
    name: str,
    *,
    registry: Registry,
    licence: str | None = None,
    source: str | None = None,
    tracked: bool = True,
    timeout_s: float = TIMEOUT_S,
) -> Version:
    """Publish the causal language model, or the encoder, in a Hugging Face folder.

    Args:
        licence: what it may be used under, such as an SPDX name; config.json and card are not asked.
        source: where it is from.
        tracked: enter it in MLflow as well.
        timeout_s: longest time for configuration, tokenizer and template.

    Raises:
        BaseRefused: it is none that can be trained; the message says what to do.
    """
    check_name(name)
    files, left_out = find_files(folder)
    digests = {each: digest_file(path) for each, path in files.items()}
    inputs = {"code_version": CODE_VERSION, "files": digest_json(digests), "licence": licence, "source": source}
    if found := registry.find(KIND, name, inputs):
        return found
    with tempfile.TemporaryDirectory(prefix="signalbox-base-") as staged:
        place = Path(staged)
        for each, path in files.items():
            (place / each).symlink_to(path)
        num_values = sum(check_finite(place / each) for each in weight_files(place))
        facts = _completed(place, ask(place, named=folder, timeout_s=timeout_s))
        facts |= {"base": None, "recipe": RECIPE, "num_values": num_values, "context_tokens": context_tokens(place)}
        facts |= {"licence": licence, "source": source, "left_out": left_out}
        version = registry.publish(KIND, name, folder=place, inputs=inputs, facts=facts)
    if tracked:
        _track(version, registry)
    return version


def find_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files to publish by their names, where they really lie, and the names of those that are left out.

    Raises:
        BaseRefused: the folder is no whole model, or what it asks for is not done here.
    """
    if not folder.is_dir():
        raise BaseRefused(f"{folder} is no folder: name one with config.json, weights and tokenizer")
    if (folder / ADAPTER_FILE).exists():
        raise BaseRefused(f"{folder} holds an adapter: merge it into its base with peft, and import the whole")
    weights = weight_files(folder)
    names = {CONFIG_FILE, GENERATION_FILE, INDEX_FILE, *OF_TOKENIZERS, *weights}
    there = sorted(path.name for path in folder.iterdir())
    chosen = [each for each in there if each in names or each.upper().startswith(ASIDE)]
    files = {each: _resolved(folder, folder / each) for each in chosen}
    for each in (CONFIG_FILE, TOKENIZER_CONFIG_FILE):
        if each not in files:
            raise BaseRefused(f"{folder} holds no {each}: copy the whole folder of the model")
    _check_asked(folder, files)
    return files, [each for each in there if each not in files and not each.startswith(".")]


def _resolved(folder: Path, path: Path) -> Path:
    """Where a file lies; a link may lead to another file of the folder, or to the blobs of the hub's cache."""
    target, home = path.resolve(), folder.resolve()
    allowed = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    if not any(target.is_relative_to(each) for each in allowed):
        raise BaseRefused(f"{path} links out of its folder: copy the folder with the files themselves (cp -rL)")
    if not target.is_file():
        raise BaseRefused(f"{path} is no file: copy the whole folder of the model anew")
    return target


def _check_asked(folder: Path, files: Iterable[str]) -> None:
    """BaseRefused for a folder that wants code of its own run, or whose weights are quantised."""
    for name in (each for each in files if each.endswith(".json") and each != INDEX_FILE):
        asked = read_json(folder / name) if name in (CONFIG_FILE, TOKENIZER_CONFIG_FILE, GENERATION_FILE) else {}
        if _holds(asked, "auto_map"):
            raise BaseRefused(f"{folder / name} asks for code of its own (auto_map), which is never run: name another")
        if _holds(asked, "quantization_config"):
            raise BaseRefused(f"{folder} is quantised: import the model as it was before, and quantise what you train")


def _holds(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_holds(each, key) for each in value.values())
    return isinstance(value, list) and any(_holds(each, key) for each in value)


def ask(folder: Path, *, named: Path, timeout_s: float) -> dict[str, Any]:
    """What :func:`app.training.look.look` finds in a folder, in a process of its own under limits.

    Raises:
        BaseRefused: it refuses the folder, or does not end, or dies of it.
    """
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *(entry for entry in sys.path if entry)])
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if key in os.environ}
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "app.training.look", str(folder)],
            env=kept | quiet | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        lines, why = _lines(ended.stdout), f"{ENDS.get(ended.returncode, 'ended')} (status {ended.returncode})"
    except subprocess.TimeoutExpired as error:
        lines, why = _lines(error.stdout or b""), f"did not end within {timeout_s:g} s"
    last = lines[-1] if lines else {}
    if "refused" in last:
        raise BaseRefused(f"{named}: {last['refused']}".replace(str(folder), str(named)))
    if "found" not in last:
        raise BaseRefused(f"{named}: reading {last.get('step', 'it')} {why}: name another model")
    return dict(last["found"])


def _lines(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.decode(errors="replace").splitlines() if line.startswith("{")]


def _completed(place: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write what the folder lacks: tokenizer.json, and the template in tokenizer_config.json; the facts come back."""
    facts = dict(found)
    tokenizer, template = facts.pop("tokenizer"), facts.pop("default_template", None)
    if not (place / TOKENIZER_FILE).exists():
        (place / TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")
    if template:
        config = {**read_json(place / TOKENIZER_CONFIG_FILE), "chat_template": template}
        (place / TOKENIZER_CONFIG_FILE).unlink()
        (place / TOKENIZER_CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return facts


def _track(version: Version, registry: Registry) -> None:
    tracker = Tracker(registry.workspace)
    run_id = tracker.start_run(version.name, params=version.manifest["inputs"], tags={"recipe": RECIPE})
    tracker.finish_run(run_id, curve=[], metrics={}, files=[])
    tracker.add_version(version, run_id=run_id, source=registry.folder(version))
