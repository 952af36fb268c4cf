"""The Serve configs against Serve's schema and the project; and the policy that one of them names. Nothing is run."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from app.routing.router import RUNGS
from app.serving.scaling import ByTokens
from app.serving.settings import ReleaseConfig, ServingSettings

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "serve_configs").glob("*.yaml"))
NAMES = {"gateway", "retriever", "reader", *RUNGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_is_one_of_serves_and_ours(path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    (ours,) = [each for each in ServeDeploySchema.model_validate(config).applications if each.name == "signalbox"]
    module, name = ours.import_path.split(":")
    assert callable(getattr(importlib.import_module(module), name))
    ServingSettings.model_validate(ours.args)
    assert {each.name for each in ours.deployments} == NAMES
    for deployment in ours.deployments:
        if deployment.name != "reader":
            assert ReleaseConfig.model_validate(deployment.user_config).release == "assistant@production"


def test_the_configs_say_which_of_them_were_not_run():
    said = {path.name: "not run on a GPU" in path.read_text(encoding="utf-8") for path in CONFIGS}
    assert said == {"gpu.yaml": True, "local.yaml": False, "vllm.yaml": True}


def test_the_model_that_vllm_yaml_serves_is_the_one_it_tells_to_register():
    from app.inference.remote import Remote

    text = next(path for path in CONFIGS if path.name == "vllm.yaml").read_text(encoding="utf-8")
    lines = text.split("# with qwen3-8b.yaml:\n#\n")[1].split("#\n")[0].replace("#   ", "")
    server = Remote.model_validate(yaml.safe_load(lines)).servers[0]
    config = yaml.safe_load(text)
    (llm,) = [each for each in config["applications"] if each["name"] == "llm"]
    models = [each["model_loading_config"]["model_id"] for each in llm["args"]["llm_configs"]]
    options = config["http_options"]
    assert server.base_url == f"http://{options['host']}:{options['port']}{llm['route_prefix']}/v1"
    assert models == [server.model]


@pytest.mark.parametrize(
    ("tokens", "num_requests", "wanted"),
    [
        ({}, 0, 0),
        ({}, 1, 1),  # one waits while there is no replica: nobody reports tokens yet
        ({"a": 90.0, "b": 120.0}, 3, 3),
        ({"a": 10.0}, 33, 4),
        ({"a": 900.0}, 1, 9),
    ],
)
def test_replicas_follow_tokens_and_requests_in_flight(tokens, num_requests, wanted):
    metrics = {"tokens": tokens} if tokens else {}
    context = SimpleNamespace(aggregated_metrics=metrics, total_num_requests=num_requests)
    assert ByTokens(tokens_per_replica=100, requests_per_replica=10)(context) == (wanted, {})
