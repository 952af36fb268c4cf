"""Who answers for a training: a person with a key, not the service alone."""

from typing import Literal

from app.governance.checks.base import Check
from app.governance.evidence import Evidence
from app.governance.findings import Finding, passes
from app.governance.keys import key_book
from app.ledger.trainings import MODEL, find_training_fault, trained_by


class TrainedByKey(Check):
    """A trainer's key on record signed the training of every model behind the artifact. Unit: models without.

    The signature binds data, base, recipe and weights (``app.ledger.trainings``); its person then approves nothing that
    came of it. Source: separation of duties, SR 26-2 / OCC 2026-13; 21 CFR Part 11, 11.10(g) and 11.50.
    """

    kind: Literal["trained_by_key"] = "trained_by_key"

    bases: bool = True
    """Whether models that another one behind the artifact goes on from must be signed too."""

    def judge(self, evidence: Evidence) -> Finding:
        models = evidence.behind(MODEL)
        if not self.bases:
            stood_on = {model.manifest["inputs"].get("base") for model in models}
            models = [model for model in models if model.digest not in stood_on]
        keys, log_key = key_book(evidence.registry), evidence.registry.ledger.log_key
        faults = []
        for model in models:
            leaf = evidence.ancestors[0][model.digest]
            fault = find_training_fault(leaf, model.manifest, keys, log_key=log_key)
            if fault or trained_by(model.manifest) is None:
                faults.append(f"{model.ref} ({fault or 'nobody signed its training'})")
        reason = f"a trainer's key signed the training of {', '.join(model.ref for model in models)}"
        if faults:
            reason = f"no trainer's key answers for {'; '.join(faults)}: train with --key"
        return Finding(passes(not faults), reason, len(faults), 0, tuple(model.digest for model in models))
