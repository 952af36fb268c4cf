"""`signalbox up | down | status | env | demo`: the workspace's cluster, and the whole loop on it."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import JsonOption, NewWorkspaceOption, WorkspaceOption, group
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.core.cluster_state import ClusterState, ClusterStatus

LOCAL_SETTINGS = Path(__file__).resolve().parents[2] / "cluster" / "local.yaml"

app = group("", "The workspace's cluster.")


@app.command()
def up(
    workspace: NewWorkspaceOption = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings of the head (YAML); default: cluster/local.yaml of the checkout.")
    ] = None,
) -> None:
    """Start the workspace's Ray head, with dashboard, job server and Serve on loopback.

    A cluster that is up is left alone; what a crashed one left is cleaned up first. Ray's control service listens on
    every interface; the token in WORKSPACE/token opens it.
    """
    from app.core import cluster

    place = Workspace.find(workspace)
    settings = cluster.ClusterSettings.load(config or (LOCAL_SETTINGS if LOCAL_SETTINGS.is_file() else None))
    before = cluster.status(place)
    if before.state == "crashed":
        typer.echo(f"cleaning up after a cluster that crashed ({before.num_processes} processes left)", err=True)
    state = cluster.up(place, settings=settings)
    typer.echo("the cluster is up already" if before.state == "up" else "the cluster is up")
    _print_addresses(place, state)


@app.command()
def down(workspace: WorkspaceOption = None) -> None:
    """End the workspace's cluster: exactly the processes that belong to it, and its temp folder."""
    from app.core import cluster

    place = Workspace.existing(workspace, begun=False)
    crashed = cluster.status(place).state == "crashed"
    num_ended = cluster.down(place)
    none = "what a crashed cluster left is removed" if crashed else "no cluster was up"
    typer.echo(f"the cluster is down: {num_ended} processes ended" if num_ended else none)


@app.command()
def status(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Tell how the workspace's cluster stands, what is in production, and how a canary beside it compares.

    Exit status 0 when the cluster is up, 1 when it is not.
    """
    from app.core import cluster

    place = Workspace.existing(workspace, begun=False)
    now, releases = cluster.status(place), _standing(place)
    if as_json:
        typer.echo(json.dumps({**_status_facts(place, now), "releases": releases}, indent=2))
    else:
        _print_status(place, now)
        _print_standing(releases)
    raise typer.Exit(0 if now.state == "up" else 1)


@app.command()
def env(workspace: WorkspaceOption = None) -> None:
    """Print the environment with which `ray`, `serve` and the jobs find the cluster: eval "$(signalbox env)"."""
    from app.core import cluster

    for name, value in cluster.environment(Workspace.existing(workspace, begun=False)).items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    if "RAY_AUTH_TOKEN" in os.environ:
        typer.echo("unset RAY_AUTH_TOKEN")


@app.command()
def demo(
    workspace: NewWorkspaceOption = None,
    source: Annotated[
        Path | None, typer.Option(help="Folder of your documents; default: the sample corpus, a fictional handbook.")
    ] = None,
) -> None:
    """Play the whole loop, from documents to a model that adapted itself, and write WORKSPACE/demo/report.html.

    Starts the cluster when it is not up. What is published already under the same digest is not done a second time.
    """
    from app.demo.story import play

    play(Workspace.find(workspace), source=source)


def _print_addresses(workspace: Workspace, state: "ClusterState") -> None:
    rows = {
        "dashboard": state.dashboard_url,
        "serve": f"{state.serve_url} (/v1 answers once a release is in production)",
        "ray": state.address,
        "workspace": workspace.root,
        "token": workspace.token_path,
    }
    for name, value in rows.items():
        typer.echo(f"  {name:<10} {value}")


def _print_status(workspace: Workspace, now: "ClusterStatus") -> None:
    said = {
        "up": "the cluster is up" + ("" if now.answers else ", but its dashboard does not answer at this moment"),
        "down": f"no cluster is up for {workspace.root}: start one with `signalbox up`",
        "crashed": f"the cluster crashed, its {', '.join(now.missing) or 'record'} ended: run `signalbox up` again",
    }
    typer.echo(said[now.state])
    if now.cluster:
        _print_addresses(workspace, now.cluster)
        typer.echo(
            f"  processes  {now.num_processes}, {now.cluster.num_cpus} logical CPUs, since {now.cluster.started_at}"
        )


def _standing(workspace: Workspace) -> list[dict[str, Any]]:
    """What is in production; nothing where nothing was published yet."""
    if not workspace.is_begun:
        return []
    from app.registry.versions import open_registry
    from app.serving.standing import standing

    return standing(open_registry(workspace))


def _print_standing(releases: list[dict[str, Any]]) -> None:
    if not releases:
        return
    from app.serving.standing import standing_lines

    for each in releases:
        typer.echo("\n".join(standing_lines(each)))


def _status_facts(workspace: Workspace, now: "ClusterStatus") -> dict[str, Any]:
    facts = {**now.model_dump(mode="json"), "workspace": str(workspace.root)}
    if now.cluster:
        facts |= {"dashboard_url": now.cluster.dashboard_url, "serve_url": now.cluster.serve_url}
    return facts
