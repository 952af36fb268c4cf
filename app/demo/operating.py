"""Second half of the story: traffic, the shift that the monitor notices, and the retraining that answers it.

Guarantees: windows are counted as before or after the shift by the time of their requests; requests of earlier runs of
the demo are not counted. Not guaranteed: that a folder of the user's own makes a drift that is seen; then the
retraining is asked for by hand, and the report says so.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from app.core.clock import timestamp
from app.core.cluster import JobFailed, submit, wait_for_job
from app.demo import building
from app.demo.building import RELEASE
from app.demo.facts import Revision
from app.demo.scene import Scene
from app.demo.traffic import SteadyTraffic, Traffic
from app.governance.gate import summary
from app.loop import evaluate_on, verdict_of
from app.monitoring.actor import REFUSED_STATUS, ROOT
from app.monitoring.monitor import monitor_status
from app.monitoring.plan import RetrainPlan, save_plan
from app.monitoring.store import WITHOUT_CANDIDATE
from app.registry.versions import PRODUCTION, Version
from app.serving.deploy import deploy
from app.serving.log import read_log

CALM_WINDOWS = 3
SHIFTED_WINDOWS = 2
ROUTES = ("small", "large", "extractive")
LEFT_OVER = "users fill the last run's window"
WAIT_S = 90.0
LOG_S = 20.0
RAYS_OWN = re.compile(r"job_manager\.py|logging\.cc|^Running entrypoint")
JOB_TIMEOUT_S = 900.0
POLL_S = 1.0
ENDED = ("candidate", *WITHOUT_CANDIDATE)


def serve(scene: Scene, release: Version) -> None:
    """Deploy a release on the cluster and wait until it answers."""
    deploy(workspace=scene.workspace, release_ref=release.digest)
    scene.say(f"{release.ref} answers at {scene.serve_url}/v1/chat/completions")


def ask_calmly(scene: Scene, release: Version) -> str:
    """Traffic of the kind that the model was trained for: a baseline, then whole windows; when it began comes back."""
    monitoring = scene.settings.monitoring
    earlier = _num_requests(scene, release)
    fill = -max(earlier - monitoring.reference_size, 0) % monitoring.window_size
    if fill:
        _ask(scene, LEFT_OVER, revision=1, num=fill, seed=earlier)
        del scene.phases[LEFT_OVER]
    start = timestamp()
    num = CALM_WINDOWS * monitoring.window_size + max(monitoring.reference_size - earlier, 0)
    _ask(scene, "before the change", revision=1, num=num, seed=earlier + fill)
    return _iso(start)


def ask_about_news(scene: Scene) -> str:
    """Traffic about something new, which no model has learnt yet; when it began comes back."""
    start = timestamp()
    _ask(scene, "after the change", revision=2, num=SHIFTED_WINDOWS * scene.settings.monitoring.window_size)
    return _iso(start)


def ask_again(scene: Scene) -> None:
    """The very same questions, to the new release."""
    _ask(scene, "after the promotion", revision=2, num=SHIFTED_WINDOWS * scene.settings.monitoring.window_size)


def show_answers(scene: Scene, phase: str) -> None:
    """One answer of each model that answered in a phase, rightly where there is one, for the reader and the report."""
    replies = sorted(scene.traffic[phase].replies, key=lambda reply: not reply.answered)
    by_model = {reply.model: reply for reply in reversed(replies) if not reply.error}
    for model, reply in sorted(by_model.items()):
        citations = [_citation(cited) for cited in reply.citations]
        scene.say(f"Q: {reply.question}\n   {model}: {reply.text}" + "".join(f"\n   [{cited}]" for cited in citations))
        answer = {"question": reply.question, "answer": reply.text, "model": model, "phase": phase}
        scene.figures.setdefault("answers", []).append(answer | {"citations": citations})


def plan_retraining(scene: Scene, suites: Mapping[str, Version]) -> None:
    """Record what the monitor's job is to do: the sources, the names, the suites."""
    target = suites.get("new") or suites["old"]
    regression = [suites["old"].ref] if "new" in suites and "old" in suites else []
    plan = RetrainPlan(
        source=str(scene.documents),
        dataset=scene.material.dataset,
        synthetic=f"{scene.material.dataset}-qa",
        release=RELEASE,
        suite=target.ref,
        regression_suites=tuple(regression),
    )
    save_plan(plan, scene.workspace)


def watch(scene: Scene, release: Version, *, since: str, shifted_at: str | None) -> list[dict[str, Any]]:
    """Wait until the monitor has judged every whole window of a release; those of this run come back, and are shown."""
    monitoring = scene.settings.monitoring
    expected = max(0, _num_requests(scene, release) - monitoring.reference_size) // monitoring.window_size
    wait_until(lambda: len(_windows(scene, release)) >= expected, timeout_s=WAIT_S)
    found = [window for window in _windows(scene, release) if window["start"] >= since]
    for number, window in enumerate(found, 1):
        window["shifted"] = bool(shifted_at and window["end"] >= shifted_at)
        window["num_signals"] = len(window["signals"])
        state = "ALARM: " + ", ".join(window["signals"]) if window["alarm"] else "quiet"
        scene.say(f"window {number}{' (after the change)' if window['shifted'] else ''}: {state}")
    return found


def drift_figures(scene: Scene, release: Version, *, since: str, shifted_at: str) -> dict[str, Any]:
    """Alarms before and after the shift, and every window with its signals."""
    windows = watch(scene, release, since=since, shifted_at=shifted_at)
    return {
        "alarms_before": sum(window["alarm"] for window in windows if not window["shifted"]),
        "alarms_after": sum(window["alarm"] for window in windows if window["shifted"]),
        "windows": windows,
    }


def follow_retraining(scene: Scene, release: Version) -> Version | None:
    """Follow the job that the monitor started, or ask for one where no alarm came; the candidate that it made."""
    if not release.facts["small"]:
        scene.say("no model is in production that could learn on")
        return None
    wait_until(lambda: bool(_triggers(scene, release)), timeout_s=WAIT_S if _has_alarm(scene) else 0)
    if triggers := _triggers(scene, release):
        job_id = triggers[-1]["job_id"]
        scene.say(f"the monitor's {triggers[-1]['id']} started job {job_id}")
    else:
        job_id = f"by-hand-{release.short}-{_digits()}"
        submit(scene.workspace, "python -m jobs.retrain", submission_id=job_id, env={"PYTHONPATH": str(ROOT)})
        scene.say(f"no trigger: the retraining is asked for by hand, job {job_id}")
    if not triggers or triggers[-1]["status"] not in ENDED:
        _follow(scene, job_id)
    newest = scene.registry.get("release", RELEASE)
    return newest if newest.number > release.number else None


def promote_next(scene: Scene, release: Version, candidate: Version | None) -> None:
    """Approve and promote the candidate; where there is none, a release that quotes the documents as they are."""
    if candidate is None:
        name = scene.material.dataset
        candidate = building.serveable(scene, building.know(scene, str(scene.documents), name), None)
    else:
        for line in summary(verdict_of(candidate, registry=scene.registry)):
            scene.say(line)
    if candidate.digest == release.digest:
        scene.say("nothing changed that a release would show")
        return
    building.approve_release(scene, candidate)
    promote_under_load(scene, candidate)


def promote_under_load(scene: Scene, release: Version) -> None:
    """Promote by a job while users keep asking; nobody may notice."""
    questions = scene.material.traffic(1, num=50, seed=7)
    with SteadyTraffic(scene.users, questions) as steady:
        job_id = submit(
            scene.workspace,
            f"python -m jobs.promote --release {release.digest} --reason drift",
            submission_id=f"promote-{release.short}-{_digits()}",
            env={"PYTHONPATH": str(ROOT)},
        )
        wait_for_job(scene.workspace, job_id, timeout_s=300, on_log=partial(_show_log, scene))
        time.sleep(POLL_S)
    scene.traffic["during the promotion"] = steady.traffic
    scene.say(f"{steady.traffic.sent} requests during the change, {len(steady.traffic.failed)} failed")


def routing_figures(scene: Scene) -> dict[str, Any]:
    """Who answered in each phase, and at what cost against the large model alone."""
    log = read_log(scene.workspace.requests_dir).to_pylist()
    phases = {}
    for phase, (start, end) in scene.phases.items():
        phases[phase] = _routing([row for row in log if start <= row["time"].isoformat(timespec="microseconds") <= end])
    return {
        "phases": phases,
        "share_small": phases["before the change"]["share"]["small"],
        "answered": {phase: _answered_share(scene.traffic[phase]) for phase in scene.phases},
    }


def evaluation_figures(scene: Scene, release: Version, suites: Mapping[str, Version]) -> dict[str, Any]:
    """Exact match on new and old questions, before and after the retraining; none where no model serves."""
    newest = scene.registry.get("release", f"{RELEASE}@{PRODUCTION}")
    pair = (release.facts["small"], newest.facts["small"])
    if None in pair:
        return {}
    before, after = (
        evaluate_on(scene.registry.get("model", digest), suites, registry=scene.registry, settings=scene.settings)
        for digest in pair
    )
    return {
        label: {"before": before[label].facts["exact_match"], "after": after[label].facts["exact_match"]}
        for label in suites
    }


def wait_until(ready: Callable[[], bool], *, timeout_s: float) -> bool:
    """Look once a second until something holds; whether it did in time."""
    end_s = time.monotonic() + timeout_s
    while not (done := ready()) and time.monotonic() < end_s:
        time.sleep(POLL_S)
    return done


def _ask(scene: Scene, phase: str, *, revision: Revision, num: int, seed: int = 0) -> None:
    questions = scene.material.traffic(revision, num=num, seed=seed)
    start = timestamp()
    traffic = scene.users.ask_all(phase, questions)
    scene.traffic[phase], scene.phases[phase] = traffic, (_iso(start), _iso(timestamp()))
    wait_until(lambda: _is_logged(scene, traffic), timeout_s=LOG_S)
    share = traffic.answered_share()
    told = f", {share.value:.0%} with the known answer" if share else ""
    scene.say(f"{traffic.sent} requests, {len(traffic.failed)} failed{told}")


def _show_log(scene: Scene, text: str) -> None:
    """A job's output without the lines that Ray itself adds."""
    for line in text.splitlines():
        if line.strip() and not RAYS_OWN.search(line):
            scene.say(line)


def _is_logged(scene: Scene, traffic: Traffic) -> bool:
    ids = {reply.request_id for reply in traffic.replies if not reply.error}
    return ids <= set(read_log(scene.workspace.requests_dir)["request_id"].to_pylist())


def _follow(scene: Scene, job_id: str) -> None:
    """Show a job's output until it ends; a gate that is red ends it with a sentence, not with an error here."""
    try:
        wait_for_job(scene.workspace, job_id, timeout_s=JOB_TIMEOUT_S, on_log=partial(_show_log, scene))
    except JobFailed as error:
        if error.exit_code != REFUSED_STATUS:
            raise
        scene.say(str(error))


def _routing(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    count = max(len(rows), 1)
    costs = {"routed": "cost_usd", "large_only": "cost_large_only_usd"}
    usd = {name: sum(row[column] or 0.0 for row in rows) / count * 1000 for name, column in costs.items()}
    return {
        "num_requests": len(rows),
        "share": {route: sum(row["route"] == route for row in rows) / count for route in ROUTES},
        "cost_per_1000_usd": usd,
        "cost_ratio": usd["routed"] / usd["large_only"] if usd["large_only"] else None,
    }


def _windows(scene: Scene, release: Version) -> list[dict[str, Any]]:
    windows: list[dict[str, Any]] = monitor_status(scene.registry, release=release.digest)["windows"]
    return windows


def _triggers(scene: Scene, release: Version) -> list[dict[str, Any]]:
    """Triggers of a release whose job was submitted, oldest first."""
    found = monitor_status(scene.registry)["triggers"]
    return [each for each in found if each["job_id"] and each["reason"]["release"] == release.digest]


def _has_alarm(scene: Scene) -> bool:
    return any(window["alarm"] for window in scene.figures["drift"]["windows"])


def _num_requests(scene: Scene, release: Version) -> int:
    return sum(row == release.digest for row in read_log(scene.workspace.requests_dir)["release"].to_pylist())


def _answered_share(traffic: Traffic) -> float | None:
    share = traffic.answered_share()
    return share.value if share else None


def _iso(moment: str) -> str:
    """A ledger timestamp in the form that Python prints, so that both sort alike."""
    return moment.replace("Z", "+00:00")


def _citation(cited: Any) -> str:
    """A citation as `document > heading`."""
    fields = cited if isinstance(cited, Mapping) else cited.model_dump()
    return " > ".join([fields["source"], *fields["heading_path"]])


def _digits() -> str:
    return str(time.time_ns() // 1_000_000)
