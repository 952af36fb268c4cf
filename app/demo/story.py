"""The story that `make demo` plays: documents, models, a ladder, a release, traffic, a change, and its proof.

Guarantees: every step is the one that a user's job would run; what is published already is found and not made again.
Not guaranteed: green lights on a folder of the user's own; the story then goes on with a release that only quotes.
"""

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from app.console.report import print_summary, write_report
from app.core import cluster
from app.core.clock import timestamp
from app.core.errors import SignalboxError, UsageError
from app.core.workspace import Workspace
from app.demo import building, operating
from app.demo.material import Folder, Handbook, Material
from app.demo.proving import figures_of, figures_untaught, prove
from app.demo.scene import Scene
from app.governance.stoplights import StopLight
from app.loop import Knowledge
from app.monitoring.actor import ensure_monitor
from app.registry.versions import Version, open_registry
from app.settings import load_settings

PLAIN_WIDTH = 120


class SourceMissing(UsageError):
    """The folder for the demo is not there: name one that is with --source."""


class DemoFailed(SignalboxError):
    """The story ended, but requests failed or the evidence does not hold: the report says which."""


def play(workspace: Workspace, *, source: Path | None = None) -> None:
    """Play the whole story and write its report; starts the cluster when it is not up, and ends what it started.

    Raises:
        SourceMissing: ``source`` is no folder.
        DemoFailed: a request failed, or the evidence is broken.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    material = _material(source)
    with _cluster(workspace, console) as state, cluster.connect(workspace, log_to_driver=False):
        scene = Scene(
            workspace=workspace,
            settings=load_settings(),
            registry=open_registry(workspace),
            material=material,
            console=console,
            serve_url=state.serve_url,
        )
        first = _first_release(scene)
        _the_change(scene, first)
        with scene.step("Verify everything, and trace one answer to its document"):
            prove(scene)
        report = _report(scene)
    write_report(report, workspace.demo_dir)
    print_summary(report, console)
    console.print(f"report: {workspace.demo_dir / 'report.html'}", soft_wrap=True)
    if report["requests"]["failed"] or not report["verify"]["ok"]:
        raise DemoFailed(f"requests failed or the evidence is broken: read {workspace.demo_dir / 'report.json'}")


def _first_release(scene: Scene) -> Version:
    """From documents to a release that serves; returns the release."""
    with scene.step(f"Ingest, index and synthesise {scene.material.title}"):
        scene.material.write(scene.documents, 1)
        knowledge = building.know(scene, str(scene.documents), scene.material.dataset)
        suite = building.publish_suites(scene, 1, knowledge)["all"]
    candidate = _taught(scene, knowledge, suite)
    with scene.step("Ask a person"):
        release = building.serveable(scene, knowledge, candidate)
        building.approve_release(scene, release)
        building.promote_release(scene, release)
    return release


def _taught(scene: Scene, knowledge: Knowledge, suite: Version) -> Version | None:
    """A release with models that learnt the documents; None where a gate was red on the way."""
    try:
        with scene.step("Bootstrap and fine-tune a small and a large model"):
            models = building.train_models(scene, knowledge, suite)
    except StopLight as red:
        scene.say(str(red))
        scene.figures |= figures_untaught(knowledge, str(red))
        return None
    with scene.step("Climb the ladder: prompt, retrieval, adapters, full fine-tuning"):
        ladder = building.climb_ladder(scene, knowledge, models, suite)
    with scene.step("Judge the candidate"):
        candidate = building.judge_first(scene, knowledge, models, suite)
    scene.figures |= figures_of(scene, knowledge, models, ladder, suite)
    return candidate.release


def _the_change(scene: Scene, release: Version) -> None:
    """Traffic, news, alarm, retraining, promotion, and the same traffic again."""
    with scene.step("Deploy, and let users ask"):
        operating.serve(scene, release)
        ensure_monitor(scene.workspace, scene.settings.monitoring)
        since = operating.ask_calmly(scene, release)
        operating.show_answers(scene, "before the change")
        operating.watch(scene, release, since=since, shifted_at=None)
    with scene.step("The organisation publishes revised documents; traffic shifts"):
        scene.material.write(scene.documents, 2)
        suites = building.publish_next_suites(scene)
        operating.plan_retraining(scene, suites)
        shifted_at = operating.ask_about_news(scene)
        operating.show_answers(scene, "after the change")
        scene.figures["drift"] = operating.drift_figures(scene, release, since=since, shifted_at=shifted_at)
    with scene.step("The alarm starts a retraining: ingest, synthesise, train on, evaluate, judge"):
        candidate = operating.follow_retraining(scene, release)
    with scene.step("Approve and promote, while users keep asking"):
        operating.promote_next(scene, release, candidate)
    with scene.step("The same traffic again"):
        operating.ask_again(scene)
        operating.show_answers(scene, "after the promotion")
    scene.figures["routing"] = operating.routing_figures(scene)
    scene.figures["evaluation"] |= operating.evaluation_figures(scene, release, suites)


def _report(scene: Scene) -> dict[str, Any]:
    phases = scene.traffic.values()
    return {
        "source": scene.material.title,
        "at": timestamp(),
        "hardware": _hardware(),
        "duration_s": round(sum(step["duration_s"] for step in scene.steps), 1),
        "requests": {
            "sent": sum(traffic.sent for traffic in phases),
            "failed": sum(len(traffic.failed) for traffic in phases),
            "errors": [reply.error for traffic in phases for reply in traffic.failed],
        },
        "steps": scene.steps,
        **scene.figures,
    }


def _hardware() -> str:
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.machine()}"


@contextmanager
def _cluster(workspace: Workspace, console: Console) -> Iterator[cluster.ClusterState]:
    """The workspace's cluster; ended afterwards if it was not up before."""
    was_up = cluster.status(workspace).state == "up"
    state = cluster.up(workspace)
    console.print(f"cluster: dashboard {state.dashboard_url}, Serve {state.serve_url}")
    try:
        yield state
    finally:
        if not was_up:
            cluster.down(workspace)


def _material(source: Path | None) -> Material:
    if source is None:
        return Handbook()
    if not source.is_dir():
        raise SourceMissing(f"{source} is no folder: name one that is with --source (make demo SOURCE=folder)")
    return Folder(source)
