"""The files of cluster/ against each other and against the project. They are not run on Kubernetes here."""

import importlib
import importlib.metadata
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = sorted((ROOT / "cluster").glob("ray*.yaml"))
JOBS = {"ingest", "index", "synthesize", "train", "evaluate", "promote", "retrain", "ensure_monitor"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "cluster" / name).read_text(encoding="utf-8")))


RAY_JOBS = documents("rayjob.yaml")
CLUSTERS = {
    "RayCluster": documents("raycluster.yaml")[0]["spec"],
    "RayService": documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"],
}


def entrypoint(manifest: dict[str, Any]) -> list[str]:
    return shlex.split(manifest["spec"]["entrypoint"])


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_of_the_v1_interface_and_named(path):
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert manifest["apiVersion"] == "ray.io/v1"
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])


@pytest.mark.parametrize("kind", CLUSTERS)
def test_all_pods_run_the_image_of_this_version(kind):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert {container["image"] for container in containers(CLUSTERS[kind])} == {f"signalbox:{version}"}
    assert f"--tag signalbox:{version} ." in (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", CLUSTERS)
def test_ray_is_of_the_tested_version_and_asks_for_a_token(kind):
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={CLUSTERS[kind]['rayVersion']}" in constraints
    assert CLUSTERS[kind]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("kind", CLUSTERS)
def test_every_pod_finds_workspace_store_and_database(kind):
    for container in containers(CLUSTERS[kind]):
        names = {variable["name"] for variable in container["env"]}
        assert names >= {"SIGNALBOX_WORKSPACE", "SIGNALBOX_STORE_URI", "SIGNALBOX_DATABASE_URL"}
        assert container["volumeMounts"] == [{"name": "workspace", "mountPath": "/workspace"}]
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_both_clusters_are_the_same():
    assert CLUSTERS["RayCluster"] == CLUSTERS["RayService"]


def test_there_is_a_manifest_for_every_job():
    assert {entrypoint(manifest)[2].removeprefix("jobs.") for manifest in RAY_JOBS} == JOBS


@pytest.mark.parametrize("manifest", RAY_JOBS, ids=lambda manifest: manifest["metadata"]["name"])
def test_a_job_exists_and_knows_the_options_it_is_given(manifest):
    python, flag, module, *arguments = entrypoint(manifest)
    assert (python, flag) == ("python", "-m")
    command = typer.main.get_command(importlib.import_module(module).app)
    with command.make_context(module, arguments, resilient_parsing=False) as context:
        assert context.params
    assert manifest["spec"]["clusterSelector"] == {
        "ray.io/cluster": documents("raycluster.yaml")[0]["metadata"]["name"]
    }


@pytest.mark.parametrize("fault", [["--no-such-option"], ["unexpected"]])
def test_an_option_that_a_job_does_not_know_is_noticed(fault):
    command = typer.main.get_command(importlib.import_module("jobs.ingest").app)
    with pytest.raises(Exception, match=r"No such option|unexpected extra argument"):
        command.make_context("jobs.ingest", ["--source", "folder", *fault])


def test_the_serve_application_is_the_one_of_the_local_profile():
    local = yaml.safe_load((ROOT / "serve_configs" / "local.yaml").read_text(encoding="utf-8"))
    remote = yaml.safe_load(documents("rayservice.yaml")[0]["spec"]["serveConfigV2"])
    assert remote["applications"] == local["applications"]
    (ports,) = [container["ports"] for container in containers(CLUSTERS["RayService"]) if "ports" in container]
    assert {"name": "serve", "containerPort": remote["http_options"]["port"]} in ports


def test_the_serve_application_can_be_imported():
    remote = yaml.safe_load(documents("rayservice.yaml")[0]["spec"]["serveConfigV2"])
    for application in remote["applications"]:
        module, name = application["import_path"].split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_image_holds_what_the_project_needs():
    lines = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[2:-1]}
    kept = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied == {line.removeprefix("!") for line in kept if line.startswith("!")}
    assert copied >= {"app", "jobs", "serve_configs", "pyproject.toml", "constraints.txt"}
    assert any("--constraint constraints.txt" in line for line in lines)
