"""Names inside an evidence pack: the contract between who writes one and who reads one.

``store/`` is laid out as the artifact store is, so that one reader serves both. Every other folder holds one format.
"""

FORMAT = "signalbox-evidence-1"

INDEX = "pack.json"
"""Release, tree size, versions with their numbers, and what was left out."""

SEAL = "pack.dsse.json"
"""Signed list of every other member with its digest."""

PAGE, README = "index.html", "README.txt"
STORE, KEYS = "store", "keys"
CHECKPOINT, LEAVES, PROOFS = "ledger/checkpoint", "ledger/leaves.jsonl", "ledger/proofs.jsonl"
DATASETS, CARDS, BOM = "datasets", "model-cards", "sbom.cdx.json"
SIGNATURES, ATTESTATIONS = "signatures", "attestations"
SIGNATURE_FILE, SIGNING_KEY_FILE = "model.sig", "signing-key.pem"

PREDICATES = {
    "provenance": "https://slsa.dev/provenance/v1",
    "test-result": "https://in-toto.io/attestation/test-result/v0.1",
    "vsa": "https://slsa.dev/verification_summary/v1",
}
"""Folder below ``ATTESTATIONS`` and type of the predicate that its statements carry."""

SEAL_TYPE = "urn:signalbox:evidence-pack:v1"


def short(digest: str) -> str:
    """The part of a digest that names a member: 16 hex digits."""
    return digest.removeprefix("sha256:")[:16]


README_TEXT = """Evidence pack of one release, made by Signalbox. Open index.html to read it.

Check it offline, with the public key that you got by another way than this file:

    signalbox verify --pack PACK.zip --key service.pub

pack.json            release, tree size, versions with their numbers, what was left out and why
pack.dsse.json       signed list (in-toto statement in a DSSE envelope) of every other file with its sha256
ledger/checkpoint    C2SP signed note: size and Merkle root of the log, signed with Ed25519
ledger/leaves.jsonl  one leaf a line: {"index", "leaf"}; the leaf is RFC 8785 JSON, hashed as RFC 9162 says
ledger/proofs.jsonl  one inclusion proof a line: {"index", "proof"}, hashes in base64, nearest to the leaf first
keys/                verifier keys on record (C2SP form); their leaves of kind "key" tell roles and revocations
store/KIND/HEX/      manifest.json, whose sha256 is HEX, and files/ with the sha256 that the manifest names
datasets/            Croissant descriptions of the datasets (mlcroissant validate --jsonld FILE)
model-cards/         model cards with results, in Hugging Face's form
sbom.cdx.json        CycloneDX 1.6 bill of materials with model cards
attestations/        in-toto statements in DSSE envelopes: SLSA provenance, test-result, verification summary
signatures/          OpenSSF model signatures over the weights, with the public key:
                     model_signing verify key store/model/HEX/files --signature signatures/NAME/model.sig
                         --public_key signatures/NAME/signing-key.pem
"""
