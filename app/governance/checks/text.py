"""What the rows' texts hold that they should not: near-copies of each other, and personal data."""

from collections import Counter
from typing import Literal

from pydantic import PositiveInt

from app.core.personal import find_personal
from app.core.resemblance import near_duplicates
from app.governance.checks.base import Share, ShareOfRows
from app.governance.evidence import Evidence
from app.governance.findings import Finding

PersonalKind = Literal["email", "phone", "iban", "card", "national_id"]


class NearDuplicateShare(ShareOfRows):
    """Rows that nearly repeat an earlier one. Unit: share of the rows.

    Texts are compared by the Jaccard similarity of their runs of words, pairs are found by MinHash.
    Source: Broder (1997); Lee et al. (ACL 2022), who use 0.8.
    """

    kind: Literal["near_duplicate_share"] = "near_duplicate_share"

    columns: tuple[str, ...] = ("question", "answer")
    """Columns whose texts are compared, one after the other."""

    similarity: Share = 0.8
    """From this Jaccard similarity on, two rows are near-duplicates."""

    shingle_words: PositiveInt = 3
    """Length of the runs of words."""

    def judge(self, evidence: Evidence) -> Finding:
        rows, inputs = self.rows(evidence)
        texts = [" ".join(map(str, values)) for values in self.values(rows, self.columns)]
        found = near_duplicates(texts, threshold=self.similarity, size=self.shingle_words)
        return self.counted(len(found), len(rows), "nearly repeat an earlier one", inputs)


class PersonalData(ShareOfRows):
    """Rows with an e-mail address, phone, bank account, card or national identity number. Unit: share of the rows.

    Found by patterns; accounts, cards and some identity numbers only where their check digits hold. The finding counts
    them and repeats none. Source: ISO 13616 (IBAN), ISO/IEC 7812-1 (Luhn), the issuers' own forms.
    """

    kind: Literal["personal_data"] = "personal_data"

    columns: tuple[str, ...] = ("question", "answer")
    """Columns that are searched."""

    kinds: tuple[PersonalKind, ...] = ("email", "phone", "iban", "card", "national_id")
    """What counts."""

    def judge(self, evidence: Evidence) -> Finding:
        rows, inputs = self.rows(evidence)
        counts: Counter[str] = Counter()
        for values in self.values(rows, self.columns):
            hits = {hit.kind for value in values for hit in find_personal(str(value)) if hit.kind in self.kinds}
            counts.update(hits | ({"any"} if hits else set()))
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in self.kinds if counts[kind]) or "none"
        return self.counted(counts["any"], len(rows), f"hold personal data ({kinds})", inputs)
