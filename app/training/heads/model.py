"""The model of the recipe `head`, and its loss. Only workers import this (torch).

Guarantees: what is exported is a folder that plain transformers loads by ``AutoModelForSequenceClassification``,
``AutoModelForTokenClassification`` or ``AutoModelForQuestionAnswering``; a frozen base keeps its bits in float32; what
a row costs depends on no row beside it, nor on padding. Not guaranteed: dropout is what the base's configuration says,
so runs with other numbers of workers differ by what drops out.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from app.training.data import IGNORED
from app.training.heads.settings import Task
from app.training.model import AnswerLoss, attention, lora_config
from app.training.osft import chosen_weights
from app.training.plan import Plan

FRESH = "signalbox_fresh"
"""Attribute of a model: names of the parameters that its base does not have."""


def headed(plan: Plan) -> Any:
    """The base with a head that begins at random, by the run's seed; what does not learn is frozen."""
    import transformers
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()  # a head that the base does not have is no news
    settings, folder = plan.settings, plan.base_folder
    how = settings.head
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **_outputs(plan))
    config.pad_token_id = plan.pad_token
    torch.manual_seed(settings.seed)
    kind = getattr(transformers, CLASSES[how.task])
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention(), "local_files_only": True}
    model, loading = kind.from_pretrained(
        folder, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    mismatched = {name for name, *_ in loading["mismatched_keys"]}
    outside = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    fresh = frozenset({*loading["missing_keys"], *mismatched, *outside} & dict(model.named_parameters()).keys())
    setattr(model, FRESH, fresh)
    if how.base == "adapted":
        return _adapted(model, plan, fresh)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = how.base != "frozen" or name in fresh
    return model


CLASSES: dict[Task, str] = {
    "classification": "AutoModelForSequenceClassification",
    "multilabel": "AutoModelForSequenceClassification",
    "score": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}


def _outputs(plan: Plan) -> dict[str, Any]:
    """What a configuration says of the head."""
    task = plan.settings.head.task
    if plan.labels is None:
        return {"num_labels": 1, "problem_type": "regression"} if task == "score" else {"num_labels": 2}
    named = {"id2label": dict(enumerate(plan.labels)), "label2id": {label: n for n, label in enumerate(plan.labels)}}
    problem = {"classification": "single_label_classification", "multilabel": "multi_label_classification"}.get(task)
    return named | ({"problem_type": problem} if problem else {})


def _adapted(model: Any, plan: Plan, fresh: Iterable[str]) -> Any:
    """Adapters on the linear layers of the blocks, beside a head that learns whole."""
    from peft import get_peft_model

    how = plan.settings.lora
    layers = how.target_modules or tuple(name.removesuffix(".weight") for name in chosen_weights(model))
    heads = sorted({name.rpartition(".")[0] for name in fresh})
    settings = how.model_copy(update={"target_modules": layers})
    return get_peft_model(model, lora_config(settings, modules_to_save=heads))


class HeadLoss(AnswerLoss):
    """Cross-entropy of labels, of tags, of the first and the last token of an answer, or squared errors of scores; of
    any number of labels the mean over all of each one's binary cross-entropy."""

    def __init__(self, model: Any, task: Task) -> None:
        super().__init__(model)
        self._task = task
        self._reads_segments = (getattr(model.config, "type_vocab_size", 0) or 0) > 1

    def head_parameters(self) -> list[nn.Parameter]:
        """What begins at random and learns in any case."""
        model = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        fresh = getattr(model, FRESH)
        named = ((name.replace(".modules_to_save.default", ""), each) for name, each in model.named_parameters())
        return [each for name, each in named if name in fresh]

    def forward(  # type: ignore[override]  # a row says something else than tokens
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        segments: Tensor,
        labels: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """Arguments are those of :class:`app.training.heads.batches.HeadBatch`.

        Returns:
            The summed cost times ``scale``; without labels, the outputs.
        """
        outputs = self._outputs(input_ids, attention_mask, segments)
        return outputs if labels is None else self.cost(outputs, labels) * scale

    def cost(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum over rows, or over tagged words."""
        if self._task == "score":
            return ((outputs[:, 0] - labels) ** 2).sum()
        if self._task == "multilabel":
            summed = nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="sum")
            return summed / labels.shape[1]
        share = 0.5 if self._task == "span" else 1.0
        flat = outputs.reshape(-1, outputs.shape[-1])
        return nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum") * share

    def _outputs(self, input_ids: Tensor, attention_mask: Tensor, segments: Tensor) -> Tensor:
        """float32: (rows, labels); (rows, tokens, tags); (rows, 2, tokens) in `span`, where padding is nowhere."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        made = self.model(**given, **({"token_type_ids": segments} if self._reads_segments else {}))
        if self._task != "span":
            logits: Tensor = made.logits.float()
            return logits
        ends = torch.stack([made.start_logits, made.end_logits], 1).float()
        return ends.masked_fill(attention_mask[:, None] == 0, torch.finfo(torch.float32).min)
