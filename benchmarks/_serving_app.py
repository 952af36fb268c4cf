"""The application of the serving benchmark: a workspace with a cluster of its own, models with random weights, a no-op.

A model's speed does not depend on its weights, so nothing is trained. The models, the index and the release are
published, judged (by a policy that asks for lineage and an approval), approved and promoted as any other; the router is
one that is sure of nothing, so that a routed question takes the longest way: small, large, the documents' own words.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from app.core.cluster import connect, down, up
from app.core.jobs import Dashboard
from app.core.workspace import Workspace
from app.governance.approvals import approve
from app.governance.evidence import Evidence
from app.governance.gate import judge
from app.governance.keys import new_key
from app.governance.policy import parse_policy, publish_policy
from app.governance.promotion import promote
from app.governance.release import build_release
from app.governance.stoplights import ask_about_release
from app.inference.encoder import Encoder
from app.registry.versions import Registry, Version, open_registry
from app.retrieval.index import write_index
from app.routing.router import RUNGS, Cascade, Router
from app.serving.deploy import APPLICATION, LOCAL_CONFIG, deploy, find_serve_url
from app.training.model import new_model
from app.training.settings import ModelSettings
from app.training.tokenizer import save_tokenizer, train_tokenizer
from benchmarks._questions import Set
from benchmarks.retrieval import chunk_rows, passage_vectors

SHAPES = {
    "small": ModelSettings(hidden_size=256, num_layers=6, intermediate_size=1024, max_context_tokens=1024),
    "large": ModelSettings(hidden_size=512, num_layers=6, intermediate_size=2048, num_heads=8, max_context_tokens=1024),
}
PRICES = {"small_usd_per_1k_tokens": 0.1, "large_usd_per_1k_tokens": 0.5}
POLICY = parse_policy(
    {
        "name": "benchmark",
        "gate": "candidate",
        "checks": [{"kind": "complete_lineage", "sources": []}, {"kind": "approvals"}],
    }
)


@dataclass(frozen=True)
class Application:
    """Where it answers, what it serves, and the processes that it is made of."""

    url: str
    workspace: Workspace
    models: Mapping[str, Path]
    index: Version
    registry: Registry
    board: Dashboard

    def replicas(self) -> dict[str, list[int]]:
        """Process ids of every deployment's replicas; one that only starts has none."""
        deployments = self.board.serve_status()["applications"][APPLICATION]["deployments"]
        pids = {name: [each.get("pid") for each in found["replicas"]] for name, found in deployments.items()}
        return {name: [pid for pid in mine if pid] for name, mine in pids.items()}


@contextmanager
def serving(folder: Path, given: Set, *, max_new_tokens: int) -> Iterator[Application]:
    """The application over a set's passages; ``/noop`` takes as many hops and does nothing."""
    from ray import serve

    from app.core.cluster import dashboard

    workspace = Workspace.find(folder / "workspace")
    registry = open_registry(workspace)
    models = {rung: make_model(folder / rung, given, shape) for rung, shape in SHAPES.items()}
    make_index(folder / "index", given)
    up(workspace)
    try:
        release = promoted(registry, models, folder)
        config = _config(folder, max_new_tokens)
        deploy(workspace=workspace, release_ref=release.digest, config_path=config, timeout_s=300)
        with connect(workspace, log_to_driver=False):
            serve.run(_noop(), name="noop", route_prefix="/noop")
            index = registry.get("index", release.facts["index"])
            yield Application(find_serve_url(workspace), workspace, models, index, registry, dashboard(workspace))
    finally:
        down(workspace)


def make_model(folder: Path, given: Set, shape: ModelSettings) -> Path:
    """A Llama with random weights and a tokenizer of the set's texts."""
    folder.mkdir()
    tokenizer = train_tokenizer((each.text for each in given.passages), vocabulary_size=shape.vocabulary_size)
    save_tokenizer(tokenizer, folder, max_context_tokens=shape.max_context_tokens)
    new_model(shape, vocabulary_size=tokenizer.get_vocab_size()).save_pretrained(folder)
    return folder


def plain_generate(folder: Path) -> Callable[[str, int], int]:
    """What transformers alone does with a prompt: its answer's length, for a prompt and the most tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def generate(prompt: str, max_new_tokens: int) -> int:
        said = [{"role": "user", "content": prompt}]
        given = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            answer = model.generate(**given, max_new_tokens=max_new_tokens, do_sample=False)
        return int(answer.shape[1] - given["input_ids"].shape[1])

    return generate


def make_index(folder: Path, given: Set) -> None:
    """An index of the passages by the pinned encoder."""
    folder.mkdir()
    vectors, windows, _ = passage_vectors(Encoder(), given, None)
    write_index(folder, vectors, chunk_rows(given), windows=windows)


def promoted(registry: Registry, models: Mapping[str, Path], folder: Path) -> Version:
    """A release of these models over this index, in production."""
    facts = {"num_documents": 1, "num_rejected": 0, "num_chunks": 1}
    dataset = registry.publish("dataset", "bench", inputs={"of": "the benchmark"}, facts=facts)
    served = registry.publish("index", "bench", folder=folder / "index", inputs={}, parents=[dataset.digest])
    versions = {
        rung: registry.publish(
            "model", f"bench-{rung}", folder=models[rung], inputs={}, parents=[dataset.digest], facts={"recipe": "none"}
        )
        for rung in RUNGS
    }
    verdicts = {rung: _judged(registry, model, folder) for rung, model in versions.items()}
    release = build_release(
        "assistant",
        **versions,
        index=served,
        dataset=dataset,
        router=_unsure_router(registry, folder),
        policy=publish_policy(POLICY, registry),
        verdict=verdicts["small"],
        large_verdict=verdicts["large"],
        prices=PRICES,
        registry=registry,
    )
    ask_about_release(release, verdict=verdicts["small"], registry=registry)
    said = {"printed_name": "the benchmark", "meaning": "approved for production"}
    signer = new_key(registry, "bench", role="approver", person="the benchmark")
    approve(verdicts["small"], release, signer=signer, registry=registry, **said)
    promote(release, verdict=verdicts["small"], registry=registry, policy=POLICY, reason="to be measured")
    return release


def _judged(registry: Registry, model: Version, folder: Path) -> Version:
    """The verdict on a model, with an evaluation of the form that the gate before traffic reads."""
    rows = folder / f"answers-{model.name}"
    rows.mkdir()
    pq.write_table(pa.table({"prediction": ["12 euros"] * 50, "grounded": [1.0] * 50}), rows / "rows.parquet")
    facts = {"seconds_per_question": 0.1}
    target = registry.publish(
        "evaluation", "bench", folder=rows, inputs={"m": model.digest}, parents=[model.digest], facts=facts
    )
    return judge(POLICY, Evidence.collect(model, registry=registry, candidate={"target": target}), registry=registry)


def _unsure_router(registry: Registry, folder: Path) -> Version:
    (folder / "router").mkdir()
    Router({}, Cascade({}, 0.0, None, None)).save(folder / "router")
    return registry.publish("router", "bench", folder=folder / "router", inputs={})


def _config(folder: Path, max_new_tokens: int) -> Path:
    """The local profile's file, with longer answers."""
    config: dict[str, Any] = yaml.safe_load(LOCAL_CONFIG.read_text())
    config["applications"][0]["args"]["max_new_tokens"] = max_new_tokens
    path = folder / "serve.yaml"
    path.write_text(json.dumps(config))
    return path


def _noop() -> Any:
    from fastapi import FastAPI, Request
    from ray import serve
    from ray.serve.handle import DeploymentHandle

    app = FastAPI()

    class Backend:
        async def nothing(self, body: Any) -> Any:
            return body

    class Ingress:
        def __init__(self, backend: DeploymentHandle) -> None:
            self._backend = backend

        @app.post("/v1/chat/completions")
        async def post(self, request: Request) -> Any:
            return await self._backend.nothing.remote(await request.json())

    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}}
    backend = serve.deployment(Backend, name="nothing", **options).bind()
    return serve.deployment(serve.ingress(app)(Ingress), name="noop", **options).bind(backend)
