"""Which log a signature was made for: every body that a person signs names its log, and counts in no other.

A body's field ``log`` holds the verifier key of the log's service key. A log's origin, with which its checkpoints
begin, is made of that key too, but of 32 bits of its digest (C2SP signed-note): somebody can search for a key whose log
has the same origin, not for one of the same 256 bits.
Guarantees: a decision, a move or a training copied into the log of another key is named. Not guaranteed: that two logs
under one key are told apart; that is one log that was forked, which consistency proofs and witnesses find.
"""

from collections.abc import Mapping
from typing import Any

from app.ledger.keys import KeyUnreadable, Verifier
from app.ledger.log import origin_of

LOG = "log"


def find_foreign(body: Mapping[str, Any], log_key: str) -> str | None:
    """Why a signed body does not count in a log; None when it was signed for that very log.

    Args:
        log_key: the log's verifier key; empty where it cannot be had, which is named elsewhere: every log will do then.
    """
    stated = body.get(LOG)
    if not log_key or stated == log_key:
        return None
    return f"it was signed for {_named(stated)}, not for this log, {_named(log_key)}"


def _named(log_key: object) -> str:
    try:
        verifier = Verifier.parse(str(log_key))
    except KeyUnreadable:
        return "no log"
    return f"{origin_of(verifier)} ({verifier.digest[:19]})"
