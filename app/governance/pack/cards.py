"""Model cards in Hugging Face's form, with results, made with ``huggingface_hub``.

Guarantees: every figure stands in an evaluation's or the model's manifest. Not guaranteed: intended uses, which nobody
has told the ledger; the card says so.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.governance.pack.contents import Contents
from app.registry.versions import Version

NOT_STATED = "Not stated in the ledger."
TASK = "question-answering"


def card(model: Version, contents: Contents) -> str:
    """The card of a model: metadata with every result on record, then text."""
    from huggingface_hub import ModelCardData

    known = {version.digest: version for version in contents.versions}
    data = [known[digest] for digest in model.parents if digest in known]
    metadata = ModelCardData(
        model_name=model.name,
        license=str(model.facts.get("license") or "other"),
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=[each.ref for each in data if each.kind == "model"] or None,
        datasets=[each.ref for each in data if each.kind != "model"] or None,
        tags=["signalbox"],
        eval_results=list(_results(model, contents, known)) or None,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{_text(model, data, contents)}"


def figures(evaluation: Version) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Metrics of an evaluation with their intervals: every fact that has value, low and high."""
    for name, fact in sorted(evaluation.facts.items()):
        if isinstance(fact, Mapping) and {"value", "low", "high"} <= fact.keys():
            yield name, fact


def evaluations_of(model: Version, contents: Contents) -> list[Version]:
    """Evaluations in the pack that name a model as their parent."""
    return [each for each in contents.of_kind("evaluation") if model.digest in each.parents]


def _results(model: Version, contents: Contents, known: Mapping[str, Version]) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for evaluation in evaluations_of(model, contents):
        suite = known.get(str(evaluation.facts.get("suite")), evaluation)
        for metric, interval in figures(evaluation):
            yield EvalResult(
                task_type=TASK,
                dataset_type=suite.name,
                dataset_name=suite.ref,
                dataset_revision=suite.digest,
                metric_type=metric,
                metric_name=f"{metric} [{interval['low']:.4f}, {interval['high']:.4f}]",
                metric_value=interval["value"],
            )


def _text(model: Version, data: list[Version], contents: Contents) -> str:
    training = model.facts.get("train")
    lines = [f"# {model.ref}", "", f"Digest `{model.digest}`.", "", "## Training", ""]
    lines += [f"- recipe: {model.facts.get('recipe', NOT_STATED)}"]
    lines += [f"- {each.kind}: {each.ref} (`{each.digest}`)" for each in data] or [f"- data: {NOT_STATED}"]
    lines += [f"- {name}: {value}" for name, value in sorted(training.items())] if isinstance(training, dict) else []
    lines += ["", "## Evaluation", ""]
    for evaluation in evaluations_of(model, contents):
        for metric, each in figures(evaluation):
            lines.append(f"- {evaluation.ref}, {metric}: {each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]")
    lines += ["", "## Intended use and limits", "", NOT_STATED, ""]
    return "\n".join(lines)
