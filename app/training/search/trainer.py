"""Ray Tune over a recipe's settings: trials of the training loop, the worse of them ended early (ASHA), all on record.

Guarantees: all trials learn the same rows and are judged on the same others; every trial that was begun is in the
ledger with its settings, its score and its cost, and so is the search; a search that was cut off goes on when it is
called again. Not guaranteed: that the same search ends the same trials early when several run at once: that depends on
which come first.
"""

import shutil
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from app.core.digests import digest_json, hex_of
from app.core.progress import progress, watched
from app.registry.tracking import Tracker
from app.registry.versions import Registry, Version
from app.training.architecture import with_architecture
from app.training.budget import ask_to_spend, check_budget, together
from app.training.data import load_examples, save_examples
from app.training.errors import TrainingFailed
from app.training.estimate import Estimate, estimate
from app.training.plan import EXAMPLES_FILE, HELD_OUT_FILE, Plan, append_progress, read_progress, write_plan
from app.training.prepare import prepare
from app.training.search.judging import Judge, judge_of
from app.training.search.report import Outcome, best_of, outcome, write_trials
from app.training.search.space import SearchSettings, Space, Trial, draw, hold_out, trial_settings
from app.training.settings import ModelSettings, TrainSettings
from app.training.tokenizer import tokenizer_files

KIND, TRIAL_KIND, CODE_VERSION = "search", "trial", "1"
RUNG = "rung"
POLL_S, SECONDS_PER_MINUTE, SECONDS_PER_HOUR = 1.0, 60, 3600


def search(
    *,
    name: str,
    space: Space,
    recipe: TrainSettings,
    how: SearchSettings,
    data: Sequence[Version],
    registry: Registry,
    base: Version | None = None,
    model: ModelSettings | None = None,
) -> Version:
    """Try settings of a recipe and publish the search.

    Returns:
        A version of kind ``search``: the table and the plot of its trials; ``facts["best"]`` holds the values to take.

    Raises:
        BadSpace: a draw makes no valid recipe.
        BadMetric: the recipe has no such figure.
        OverBudget: a trial is estimated to need more than the recipe's settings allow.
        StopLight: all of them together are, than the policy of ``recipe.workers.budget_policy`` allows.
        TrainingFailed: no trial was judged once; calling again goes on.
    """
    judge = judge_of(recipe, how.metric, varied=space)
    model = with_architecture(model) if model else None
    inputs = {
        "code_version": CODE_VERSION,
        "base": base.digest if base else None,
        "model": model.model_dump(mode="json") if model else None,
        "data": [version.digest for version in data],
        "settings": recipe.inputs(),
        "space": space,
        "search": how.inputs(),
    }
    if found := registry.find(KIND, name, inputs):
        return found
    folder = registry.workspace.runs_dir / f"{name}-search-{hex_of(digest_json(inputs))[:12]}"
    given: dict[str, Any] = {"base": base, "model": model, "data": data, "vocabulary": (), "registry": registry}
    plan = prepare(folder / "plan", name=name, settings=recipe, **given)
    trials = draw(space, plan.settings, how)
    needs = _lay_out(folder, plan, trials, how, registry=registry)
    whole = together(needs, at_once=how.num_concurrent or 1, max_usd=how.max_usd, max_minutes=how.max_minutes)
    starts = [*([base] if base else []), *data]
    ask_to_spend(f"search-{name}", whole, recipe, registry=registry, parents=starts)
    _run(folder, trials, how, judge)
    outcomes = [outcome(trial, lines) for trial in trials if (lines := _lines(folder, trial))]
    if not any(each.points for each in outcomes):
        raise TrainingFailed(f"no trial of {name} was judged once: give the search more time, or see the job's log")
    version = _publish(name, outcomes, folder, judge=judge, inputs=inputs, registry=registry)
    shutil.rmtree(folder)
    return version


def _lay_out(
    folder: Path, plan: Plan, trials: Sequence[Trial], how: SearchSettings, *, registry: Registry
) -> list[Estimate]:
    """A run folder for each trial: the same rows, the same rows held out, its own settings; and what each will need."""
    needs = []
    learned, judged = hold_out(
        load_examples(folder / "plan" / EXAMPLES_FILE), how.heldout_share, sides=plan.settings.sides
    )
    for trial in trials:
        place = _place(folder, trial)
        place.mkdir(exist_ok=True)
        save_examples(learned, place / EXAMPLES_FILE)
        save_examples(judged, place / HELD_OUT_FILE)
        for file in tokenizer_files(folder / "plan"):  # what a span says is judged as text
            shutil.copyfile(file, place / file.name)
        its_plan = plan.model_copy(update={"settings": trial_settings(trial, how)})
        write_plan(its_plan, place)
        needs.append(estimate(its_plan, place, registry=registry, on_gpu=False))
        check_budget(needs[-1], its_plan)
    return needs


def _place(folder: Path, trial: Trial) -> Path:
    return folder / f"trial-{trial.number}"


def _run(folder: Path, trials: Sequence[Trial], how: SearchSettings, judge: Judge) -> None:
    """Let Ray Tune run what is not done yet."""
    steps, workers = trials[0].settings.num_steps, trials[0].settings.workers
    per_trial = {"CPU": workers.num_threads, "memory": workers.worker_memory_bytes}
    trainable = tune.with_resources(tune.with_parameters(run_trial, folder=str(folder)), per_trial)
    stored = folder / "tune"
    if tune.Tuner.can_restore(str(stored)):
        tuner = tune.Tuner.restore(str(stored), trainable, resume_unfinished=True, resume_errored=True)
    else:
        scheduler = ASHAScheduler(
            time_attr="step", max_t=steps, grace_period=max(1, steps // how.num_rungs), reduction_factor=how.reduction
        )
        minutes = how.max_minutes
        tuner = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search([trial.number for trial in trials])},
            tune_config=tune.TuneConfig(
                metric=judge.metric, mode=judge.mode, scheduler=scheduler, reuse_actors=True,
                max_concurrent_trials=how.num_concurrent,
                time_budget_s=minutes * SECONDS_PER_MINUTE if minutes else None,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder), verbose=0, stop=Spent(folder, how.max_usd),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            ),
        )  # fmt: skip
    with watched(partial(_watch, folder, trials, judge)):
        tuner.fit()


class Spent(tune.Stopper):
    """Ends the search when its trials have cost what it may cost; knows nothing but their notes, so it outlives it."""

    def __init__(self, folder: Path, max_usd: float | None) -> None:
        self._folder, self._max_usd = folder, max_usd

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is ended."""
        return False

    def stop_all(self) -> bool:
        """Whether the money is spent."""
        return self._max_usd is not None and self._spent() >= self._max_usd

    def _spent(self) -> float:
        """Of each trial the last note, which sums up those before."""
        spent = 0.0
        for place in self._folder.glob("trial-*"):
            rungs = [line["cost_usd"] for line in read_progress(place) if line["event"] == RUNG]
            spent += rungs[-1] if rungs else 0.0
        return spent


def run_trial(config: dict[str, Any], *, folder: str) -> None:
    """A trial, in a process of Ray Tune's: the loop that all runs have, with one worker."""
    from app.training.extensions import prepare_environment

    place = Path(folder) / f"trial-{config['number']}"
    prepare_environment()
    from app.training.loop import run_worker
    from app.training.plan import read_plan

    _begin_group(place)
    workers = read_plan(place).settings.workers
    price = workers.num_threads * workers.usd_per_cpu_hour / SECONDS_PER_HOUR

    def report(figures: Any, checkpoint: Path) -> None:
        line = {**figures, "cost_usd": figures["duration_s"] * price}
        append_progress(place, {"event": RUNG, **line})
        tune.report(line, checkpoint=tune.Checkpoint.from_directory(checkpoint))
        shutil.rmtree(checkpoint)

    start = tune.get_checkpoint()
    restore_from = Path(tempfile.mkdtemp(prefix="signalbox-trial-")) if start else None
    if start:
        start.to_directory(str(restore_from))
    run_worker(place, rank=0, num_workers=1, restore_from=restore_from, report=report)


def _begin_group(place: Path) -> None:
    """A group of one process; a process that ran a trial before has it."""
    import os

    import torch.distributed as group

    if not group.is_initialized():
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        store = place / f"store-{os.getpid()}"
        group.init_process_group("gloo", init_method=store.as_uri(), rank=0, world_size=1)


def _lines(folder: Path, trial: Trial) -> list[dict[str, Any]]:
    return list(read_progress(_place(folder, trial)))


def _watch(folder: Path, trials: Sequence[Trial], judge: Judge, stop: threading.Event) -> None:
    with progress("search, steps of all trials", sum(trial.settings.num_steps for trial in trials)) as bar:
        while not stop.wait(POLL_S):
            found = [outcome(trial, _lines(folder, trial)) for trial in trials]
            judged = [each for each in found if each.points]
            text = _best_so_far(judged, judge) if judged else "trials begin"
            bar.advance(sum(each.step for each in found) - bar.done, text)


def _best_so_far(judged: Sequence[Outcome], judge: Judge) -> str:
    best = judge.score(best_of(judged, judge).last)
    return f"best {judge.metric} {best:.3f} of {len(judged)} trials"


def _publish(
    name: str, outcomes: Sequence[Outcome], folder: Path, *, judge: Judge, inputs: dict[str, Any], registry: Registry
) -> Version:
    """Each trial as a version of its own, then the search over them, with its table and its plot."""
    best, parents = best_of(outcomes, judge), [*inputs["data"], *([inputs["base"]] if inputs["base"] else [])]
    tracker = Tracker(registry.workspace)
    for each in outcomes:
        run_id = tracker.start_run(f"{name}-trial-{each.number}", params=each.values, tags={"search": name})
        tracker.finish_run(run_id, curve=each.points, metrics=each.figures(), files=[])
    published = [
        registry.publish(
            TRIAL_KIND,
            f"{name}-{each.number}",
            inputs={**inputs, "number": each.number, "values": each.values},
            parents=parents,
            facts=each.facts(),
        )
        for each in outcomes
    ]
    with tempfile.TemporaryDirectory(dir=folder) as staged:
        write_trials(outcomes, best, Path(staged), title=f"{name}: {inputs['settings']['recipe']}", judge=judge)
        facts = {
            "recipe": inputs["settings"]["recipe"],
            "metric": judge.metric,
            "best": {"number": best.number, "values": best.values, **best.figures()},
            "num_trials": len(outcomes),
            "num_ended_early": sum(not each.is_whole for each in outcomes),
            "cost_usd": sum(each.cost_usd for each in outcomes),
            "duration_s": sum(each.duration_s for each in outcomes),
        }
        parents += [version.digest for version in published]
        return registry.publish(KIND, name, folder=Path(staged), inputs=inputs, parents=parents, facts=facts)
