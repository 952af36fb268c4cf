import httpx
import pytest
from pydantic import ValidationError

from app.core.jobs import Dashboard
from app.serving import deploy as module
from app.serving.deploy import LOCAL_CONFIG, ConfigUnreadable, find_serve_url, read_config, render_config
from app.serving.errors import NoRelease, NotDeployed, NotPromoted
from app.serving.settings import ReleaseConfig, ServingSettings

RELEASE = "sha256:" + "a" * 64


def test_the_local_config_is_one_that_serve_and_the_application_take():
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(read_config(LOCAL_CONFIG))
    application = schema.applications[0]
    assert application.import_path == "app.serving.deployment:build"
    assert {each.name for each in application.deployments} == {"gateway", "retriever", "small", "large", "reader"}
    assert sum(each.ray_actor_options.num_cpus for each in application.deployments) <= 0.5
    assert ServingSettings(**application.args).searches_in_gateway


def test_a_gateway_searches_unless_the_index_is_dealt_out_or_the_settings_say_no():
    assert not ServingSettings(shard_replicas=2).searches_in_gateway
    assert not ServingSettings(search_in_gateway=False).searches_in_gateway
    with pytest.raises(ValidationError, match="leave one of them out"):
        ServingSettings(search_in_gateway=True, shard_replicas=2)


def test_nothing_but_the_release_is_written_into_the_application():
    rendered = render_config(
        read_config(LOCAL_CONFIG), ReleaseConfig(release=RELEASE), serve_url="http://127.0.0.1:20123"
    )
    application = rendered["applications"][0]
    configs = {each["name"]: each.get("user_config") for each in application["deployments"]}
    assert configs.pop("reader") is None
    assert set(map(str, configs.values())) == {str({"release": RELEASE})}
    assert application["args"] == read_config(LOCAL_CONFIG)["applications"][0]["args"]
    assert (rendered["http_options"]["host"], rendered["http_options"]["port"]) == ("127.0.0.1", 20123)
    assert read_config(LOCAL_CONFIG)["http_options"]["port"] == 8000


def test_a_stop_is_written_beside_the_release():
    rendered = render_config(read_config(LOCAL_CONFIG), ReleaseConfig(release=RELEASE, stopped=True))
    configs = [each.get("user_config") for each in rendered["applications"][0]["deployments"]]
    assert {"release": RELEASE, "stopped": True} in configs


@pytest.mark.parametrize("text", [None, "", "a: b: c", "[1]", "http_options: {}"])
def test_a_file_that_is_no_serve_config_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigUnreadable, match=r"local\.yaml|--serve-config"):
        read_config(path)


def test_a_release_that_is_not_there_is_not_deployed(workspace):
    with pytest.raises(NoRelease):
        module.deploy(workspace=workspace, release_ref="assistant@production")


def test_a_release_that_nobody_promoted_is_not_deployed(registry):
    facts = {"small": None, "large": None, "index": "sha256:" + "0" * 64, "router": None}
    release = registry.publish("release", "assistant", inputs=facts, facts=facts)
    with pytest.raises(NotPromoted, match="have it approved, then run `signalbox promote assistant@1"):
        module.deploy(workspace=registry.workspace, release_ref=release.digest)


def test_the_serve_url_comes_from_the_environment_where_no_local_cluster_is(workspace, monkeypatch):
    monkeypatch.setenv("SIGNALBOX_URL", "http://serve:8000")
    assert find_serve_url(workspace) == "http://serve:8000"


HEALTHY = {"status": "RUNNING", "deployments": {"gateway": {"status": "HEALTHY", "message": ""}}}
UPDATING = {"status": "DEPLOYING", "deployments": {}}
SICK = {"status": "RUNNING", "deployments": {"small": {"status": "UPDATING", "message": "loading"}}}
REFUSED = {"release": "old", "refused": RELEASE, "reason": "no file"}
FAILED = {"status": "DEPLOY_FAILED", "message": "no such module"}


def wait(monkeypatch, application, health, timeout_s=0.2, stopped=False):
    board = Dashboard("http://board", "")
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(Dashboard, "serve_status", lambda _: {"applications": {"signalbox": application}})
    monkeypatch.setattr(httpx, "get", lambda *_, **__: health)
    asked = ReleaseConfig(release=RELEASE, stopped=stopped, attempt="this")
    module.wait_until_serving(asked, board=board, serve_url="http://serve", timeout_s=timeout_s)


def test_it_waits_until_the_gateway_serves_the_release(monkeypatch):
    wait(monkeypatch, HEALTHY, httpx.Response(200, json={"release": RELEASE}))


def test_a_stop_waits_for_the_gateway_alone(monkeypatch):
    """What is sick may be the very model that is stopped."""
    stopped, serving = ({"release": RELEASE, "stopped": each} for each in (True, False))
    wait(monkeypatch, SICK, httpx.Response(200, json=stopped), stopped=True)
    with pytest.raises(NotDeployed, match="with its models still"):
        wait(monkeypatch, HEALTHY, httpx.Response(200, json=serving), stopped=True)
    with pytest.raises(NotDeployed, match="without its models still"):
        wait(monkeypatch, HEALTHY, httpx.Response(200, json=stopped))


@pytest.mark.parametrize(
    ("application", "health", "says"),
    [
        (UPDATING, httpx.Response(200, json={"release": RELEASE}), "DEPLOYING"),
        (SICK, httpx.Response(200, json={"release": RELEASE}), "small UPDATING: loading"),
        (HEALTHY, httpx.Response(200, json={"release": "sha256:old", "reason": ""}), "sha256:old"),
        (HEALTHY, httpx.Response(503, json={"reason": "no release"}), "no release"),
        (HEALTHY, httpx.Response(500, text="Internal"), "500"),
        (HEALTHY, httpx.Response(200, json=REFUSED | {"attempt": "this"}), "as the new release failed: no file"),
        (HEALTHY, httpx.Response(200, json=REFUSED | {"attempt": "before"}), "the gateway serves old"),
        (FAILED, None, "no such module"),
        ({}, None, "NOT_STARTED"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, application, health, says):
    with pytest.raises(NotDeployed, match=says):
        wait(monkeypatch, application, health)
