"""Many LoRA adapters on one model in memory: every row of a batch is answered by its own, or by the model as it is.

PEFT's mixed batches do the work (`adapter_names`): a step of 32 rows with four adapters took 28 ms beside 45 ms for
four steps, one adapter each, and beside 8 ms of one adapter merged into the weights (5M parameters, rank 8 on every
linear layer, one thread). So this saves memory, not time.

Guarantees: a row's answer is that of its adapter merged into a model of its own, up to rounding. Not guaranteed:
adapters of another form than plain LoRA, which are refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.core.errors import UsageError

MODEL = "__base__"
"""PEFT's name for no adapter."""


class NotMixable(UsageError):
    """An adapter that changes more than low-rank products can: merge it into a model of its own."""


class AdaptedNetwork:
    """A causal model with any number of adapters, as the scheduler calls it."""

    def __init__(self, model: Any) -> None:
        self._model, self.device, self.config = model, model.device, model.config
        self._names, self._numbers = set[str](), itertools.count(1)
        self._gone: list[str] = []

    def __call__(
        self, *, input_ids: Any, attention_mask: Any, position_ids: Any, cache: Any, owners: Sequence[str]
    ) -> Any:
        mixed = {"adapter_names": [owner or MODEL for owner in owners]} if self._names else {}
        output = self._model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache,
            use_cache=True, logits_to_keep=1, **mixed,
        )  # fmt: skip
        return output.logits[:, -1]

    def add(self, folder: Path) -> str:
        """Load an adapter; its name comes back. No step may be under way; one that cannot be loaded leaves no trace.

        Raises:
            NotMixable: it is no plain LoRA.
            Exception: what PEFT says of files that do not fit the model.
        """
        from peft import PeftConfig, get_peft_model

        _check(folder)
        name = f"adapter-{next(self._numbers)}"
        config = PeftConfig.from_pretrained(folder)
        model = self._model if self._names else get_peft_model(self._model, config, adapter_name=name)
        try:
            model.load_adapter(folder, adapter_name=name)
        except BaseException:
            if not self._names:
                model.unload()
            elif name in model.peft_config:
                model.delete_adapter(name)
            raise
        self._model = model
        self._names.add(name)
        self._model.set_adapter(name)
        self._forget()
        self._model.eval().requires_grad_(False)
        return name

    def drop(self, name: str) -> None:
        """Forget an adapter when the next one is loaded; may be called at any time."""
        self._gone.append(name)

    def _forget(self) -> None:
        while self._gone:
            name = self._gone.pop()
            self._model.delete_adapter(name)
            self._names.remove(name)


def _check(folder: Path) -> None:
    """NotMixable when PEFT cannot use an adapter in a mixed batch."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(folder)
    more = ("use_dora", "modules_to_save", "trainable_token_indices", "alora_invocation_tokens", "layer_replication")
    found = [name for name in more if getattr(config, name, None)]
    if config.peft_type != "LORA":
        found = [f"type {config.peft_type}"]
    if getattr(config, "bias", "none") != "none":
        found.append("bias")
    if found:
        raise NotMixable(f"the adapter in {folder.name} is no plain LoRA ({', '.join(found)}): merge it")
