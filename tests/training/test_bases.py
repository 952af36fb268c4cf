"""A base model from elsewhere becomes a version, or is refused with a sentence and leaves nothing behind."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import jobs.common
from app.ledger.verify import verify
from app.training import bases
from app.training.bases import import_base
from app.training.errors import BaseRefused
from app.training.look import look
from app.training.weights import check_finite, weight_files
from jobs import import_model
from tests.conftest import ROOT
from tests.training.tiny_bases import CHATML, make_base

STORIES = ROOT.parent / "shared" / "models" / "stories260K"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "base")


@pytest.fixture
def near(monkeypatch):
    """The child's work done in this process, which is quicker."""
    monkeypatch.setattr(bases, "ask", lambda folder, *, named, timeout_s: look(folder))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_becomes_a_version_once(registry, folder):
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    (folder / "LICENSE").write_text("MIT")
    first = import_base(folder, "base", registry=registry, licence="MIT", source="a test")
    assert import_base(folder, "base", registry=registry, licence="MIT", source="a test") == first
    facts = first.facts
    assert (facts["architecture"], facts["chat_template"], facts["licence"]) == ("Qwen3ForCausalLM", "own", "MIT")
    assert facts["num_parameters"] == sum(each.numel() for each in load_file(folder / WEIGHTS).values())
    assert facts["left_out"] == ["pytorch_model.bin"]
    stored = registry.folder(first)
    assert {path.name for path in stored.iterdir()} == {path.name for path in folder.iterdir()} - {"pytorch_model.bin"}
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in stored.iterdir())
    assert not any(path.is_symlink() for path in stored.rglob("*"))
    assert [leaf.statement.name for leaf in registry.ledger.leaves("model")] == ["base"]
    assert verify(registry.workspace).faults == []


def test_what_a_folder_lacks_is_added(registry, tmp_path, near):
    """GPT-2's own files: words and merges, no tokenizer.json, no template."""
    folder = make_base(tmp_path / "gpt2", "gpt2", template=None)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>")
    version = import_base(folder, "gpt2", registry=registry, tracked=False)
    assert version.facts["chat_template"] == "default"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(registry.folder(version))
    said = tokenizer.apply_chat_template([{"role": "user", "content": "fee?"}], tokenize=False, add_generation_prompt=1)
    assert said == "<|user|>\nfee?\n<|assistant|>\n"
    assert (registry.folder(version) / "tokenizer.json").is_file()


def test_shards_are_one_model(registry, folder, near):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    names = weight_files(folder)
    assert len(names) > 2
    version = import_base(folder, "base", registry=registry, tracked=False)
    assert version.facts["num_values"] == sum(each.numel() for each in model.parameters())

    (folder / names[1]).rename(folder / "elsewhere")
    with pytest.raises(BaseRefused, match=f"lacks {names[1]}"):
        weight_files(folder)
    shutil.copy(folder / names[0], folder / names[1])
    with pytest.raises(BaseRefused, match="do not agree on"):
        weight_files(folder)
    edit(folder / "model.safetensors.index.json", weight_map={"a": "../../secret.safetensors"})
    with pytest.raises(BaseRefused, match="no safetensors file beside it"):
        weight_files(folder)


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS)


def put_a_nan(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / WEIGHTS)


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def put_bytes(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 8 + b"{}")


def only_pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def link_out(folder: Path) -> None:
    (folder.parent / "secret").write_text("{}")
    (folder / "LICENSE").symlink_to(folder.parent / "secret")


def add_a_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    held = json.loads(path.read_text())
    one = held["added_tokens"][0]
    held["added_tokens"] = [*held["added_tokens"], {**one, "content": "<|more|>", "id": 9999}]
    held["model"]["vocab"]["zzzz"] = 99_999
    path.write_text(json.dumps(held))


DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "is no folder"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "holds no model.safetensors"),
    "pickled": (only_pickled, "save_pretrained, which writes safetensors"),
    "adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "merge it"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer_config.json").unlink(), "holds no tokenizer_config.json"),
    "config is text": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read as JSON"),
    "code": (lambda f: edit(f / "config.json", auto_map={"AutoModelForCausalLM": "m.M"}), "auto_map"),
    "tokenizer code": (lambda f: edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}), "never"),
    "quantised": (lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq"}), "is quantised"),
    "link": (link_out, "links out of its folder"),
    "cut": (cut_weights, "no whole safetensors file"),
    "header": (put_bytes, "no whole safetensors file"),
    "nan": (put_a_nan, "model.norm.weight in .* infinite or no numbers"),
    "tensor": (drop_a_tensor, "model.norm.weight is missing"),
    "layers": (lambda f: edit(f / "config.json", num_hidden_layers=1), "config.json"),
    "shape": (lambda f: edit(f / "config.json", intermediate_size=48), r"is \[32, 64\], not \[32, 48\]"),
    "huge vocabulary": (lambda f: edit(f / "config.json", vocab_size=10**12), r"not \[1000000000000, 32\]"),
    "unknown": (lambda f: edit(f / "config.json", model_type="nobody"), "a model that transformers knows"),
    "t5": (lambda f: edit(f / "config.json", model_type="t5"), "an encoder and a decoder"),
    "ids": (add_a_token, "has ids up to 99999"),
    "no end": (lambda f: edit(f / "tokenizer_config.json", eos_token=None), "names no end token"),
    "not a tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
    "attributes": (
        lambda f: edit(f / "tokenizer_config.json", chat_template="{{ messages.__class__.__subclasses__() }}"),
        "chat template cannot be used: .*unsafe",
    ),
    "syntax": (lambda f: edit(f / "tokenizer_config.json", chat_template="{% for %}"), "template cannot be used"),
    "dumb": (lambda f: edit(f / "tokenizer_config.json", chat_template="no turns"), "template cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_and_leaves_nothing(registry, folder, near, damage):
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(BaseRefused, match=message):
        import_base(folder, "base", registry=registry, tracked=False)
    assert registry.versions("model") == []


def test_a_template_that_never_ends_is_stopped(registry, folder):
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc") + "{% endfor %}" * 3
    edit(folder / "tokenizer_config.json", chat_template=loops + CHATML)
    with pytest.raises(BaseRefused, match="reading the chat template did not end in time"):
        import_base(folder, "base", registry=registry, tracked=False)
    assert registry.versions("model") == []


def test_a_link_within_the_hubs_cache_is_followed(registry, folder, tmp_path, near):
    cache = tmp_path / "models--someone--base"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    folder.rename(blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / path.name)
    version = import_base(snapshot, "base", registry=registry, tracked=False)
    assert (registry.folder(version) / "config.json").read_bytes() == (blobs / "config.json").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_type_of_number_is_looked_at(tmp_path, dtype):
    path = tmp_path / WEIGHTS
    values = torch.tensor([[1.0, -2.0, 0.0, torch.finfo(dtype).max]], dtype=dtype)
    save_file({"a": values, "ids": torch.tensor([1, 2])}, path)
    assert check_finite(path) == 4
    for bad in (float("inf"), float("-inf"), float("nan")):
        save_file({"a": values, "b": torch.tensor([1.0, bad], dtype=dtype)}, path)
        with pytest.raises(BaseRefused, match=r"^b in"):
            check_finite(path)


def test_the_job_publishes_once_and_refuses_with_a_sentence(folder, near, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs.common, "connect", lambda workspace, **options: nullcontext())
    monkeypatch.setattr(bases, "_track", lambda version, registry: None)
    given = ["--name", "base", "--licence", "MIT", "--workspace", str(tmp_path / "w"), "--json"]
    done = [CliRunner().invoke(import_model.app, ["--folder", str(folder), *given]) for _ in range(2)]
    assert [json.loads(each.stdout)["ref"] for each in done] == ["base@1", "base@1"], done[0].output
    only_pickled(folder)
    refused = CliRunner().invoke(import_model.app, ["--folder", str(folder), *given])
    assert refused.exit_code == 2
    assert "save_pretrained" in refused.output


def test_a_real_little_llama(registry, near):
    if not STORIES.is_dir():
        pytest.skip(f"no model at {STORIES}")
    version = import_base(STORIES, "stories", registry=registry, licence="MIT", tracked=False)
    assert (version.facts["num_parameters"], version.facts["context_tokens"]) == (260_032, 512)
    assert version.facts["chat_template"] == "default"
