"""What a run starts from: a model of random weights, or a base. Only workers import this (torch).

What is learned is another matter: the recipe's. Guarantees: every worker makes the same model.
"""

from typing import Any

from app.training.expand import attending, expand
from app.training.heads.model import headed
from app.training.model import load_model, new_model, with_adapters
from app.training.new_tokens import add_rows
from app.training.plan import Plan


def make_model(plan: Plan) -> Any:
    """The model that the first step begins with, in float32; with adapters on it where the recipe trains these."""
    if plan.base_folder is None:
        assert plan.model is not None
        return new_model(plan.model, vocabulary_size=plan.vocabulary_size)
    settings = plan.settings
    if settings.recipe == "head":
        return headed(plan)
    if settings.by_adapters:
        model = load_model(plan.base_folder, quantize=settings.lora.quantize)
        return with_adapters(model, settings.lora, seed=settings.seed)
    config = attending(plan.base_folder, settings.attention) if settings.attention else None
    model = load_model(plan.base_folder, config=config)
    if plan.new_tokens:
        add_rows(model, plan.new_tokens)
    return expand(model, settings.expand) if settings.expand else model
