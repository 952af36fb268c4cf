"""Heads on a base that is there.

The recipe `head`, one head on any base through the workers' loop: `settings`, `rows` and `prepare` before it starts,
`batches`, `model`, `heldout` and `measures` in the workers. An encoder with a head per task in one process, which the
continual benchmark compares: `per_task` is the model, `per_task_fit` its learning.
"""
