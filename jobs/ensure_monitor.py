"""See to it that the workspace's monitor runs, in its newest version; safe to run at any time."""

import json
from typing import Annotated

import ray
import typer

from app.monitoring.actor import ensure_monitor
from jobs.common import Config, Json, WorkspaceOption, job

app = typer.Typer(add_completion=False)
ANSWER_TIMEOUT_S = 30.0


@app.command()
def main(
    status: Annotated[bool, typer.Option("--status", help="Print the windows and triggers too.")] = False,
    config: Config = None,
    workspace: WorkspaceOption = None,
    as_json: Json = False,
) -> None:
    """Start the monitor, replace an outdated one, or leave a current one alone; print which it is."""
    with job(workspace, config, begins=True) as here:
        actor = ensure_monitor(here.workspace, here.settings.monitoring)
        question = actor.status if status else actor.describe
        answer = ray.get(question.remote(), timeout=ANSWER_TIMEOUT_S)
        monitor = answer.get("monitor", answer)
        if as_json:
            print(json.dumps(answer))
            return
        print(f"monitor of {monitor['workspace']}: code version {monitor['code_version']}, process {monitor['pid']}")
        print(f"  looks: {monitor['num_looks']}, last error: {monitor['error'] or 'none'}")
        for window in answer.get("windows", ()):
            state = f"ALARM: {', '.join(window['signals'])}" if window["alarm"] else "quiet"
            print(f"  window to {window['end']}: {state}")


if __name__ == "__main__":
    app()
