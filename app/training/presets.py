"""The recipes that `jobs.train --run` knows by name, below `training:` in the settings."""

from app.training.heads.settings import TaskSettings
from app.training.settings import ExpandSettings, NewTokenSettings, TrainSettings

SMALL_CPT = TrainSettings(recipe="cpt", num_steps=80, batch_size=32, num_checkpoints=1)
"""The small model's start: the corpus' text, about 15 s on two cores."""

SMALL_SFT = TrainSettings()
"""The small model's fine-tuning, about 70 s on two cores."""

SMALL_CONTINUAL = TrainSettings(num_steps=280, learning_rate=8e-4, num_checkpoints=2)
"""The small model's new subject with replay, about 45 s on two cores."""

SMALL_OSFT = TrainSettings(recipe="osft", num_steps=280, learning_rate=8e-4, num_checkpoints=2)
"""The small model's new subject in the directions that its base uses least, with replay."""

PRETRAIN = TrainSettings(recipe="cpt", num_steps=400, batch_size=32, block_tokens=128, num_checkpoints=4)
"""A new architecture on the corpus' text, from nothing."""

EXPAND = TrainSettings(recipe="cpt", num_steps=200, batch_size=32, expand=ExpandSettings())
"""A base with two more blocks, which learn the corpus' text while its own stay as they are."""

NEW_TOKENS = TrainSettings(recipe="cpt", num_steps=200, batch_size=32, new_tokens=NewTokenSettings())
"""A base whose tokenizer learns the corpus' words, and which then reads the corpus."""

SMALL_LORA = TrainSettings(recipe="lora", num_steps=250, learning_rate=5e-3, num_checkpoints=2)
"""Adapters on the small model's start, about 35 s on two cores."""

SMALL_DPO = TrainSettings(recipe="dpo", num_steps=120, batch_size=16, learning_rate=1e-4, num_checkpoints=2)
"""The small model's preferences."""

LARGE_SFT = TrainSettings(num_steps=260, learning_rate=8e-4, num_checkpoints=2)
"""The large model from its random start, about 95 s on two cores."""

HEAD = TrainSettings(
    recipe="head", num_epochs=3, batch_size=32, learning_rate=2e-4, num_warmup_steps=20, hold_share=0.1,
    dtype="float32", num_checkpoints=2, head=TaskSettings(learning_rate=2e-3),
)  # fmt: skip
"""A head on an encoder or a causal model, which learn together."""
