"""Signatures over weights in the OpenSSF form, made and checked by the library ``model-signing``.

The library's key method takes elliptic curve keys only (an Ed25519 key fails in 1.1.1), so weights are signed with an
ECDSA P-256 key that lies beside the service's key. A signature is a version of kind ``model-signature``: its manifest
carries the model's digest and, signed by the service's Ed25519 key, the public half; its ledger leaf dates both.

Guarantees: only weights whose bytes are those published are signed, each model once for a key.
Not guaranteed: who may use the key; whoever reads the folder of keys can sign.
"""

import tempfile
from pathlib import Path

from app.core.digests import digest_bytes, digest_file
from app.governance.pack.layout import SIGNATURE_FILE, SIGNING_KEY_FILE
from app.ledger.keys import Verifier, facts_signer, sign_facts, write_once
from app.registry.versions import Registry, Version
from app.registry.whole import whole_folder

KIND = "model-signature"
CODE_VERSION = "model-signature-1"
KEY_FILE = "model-signing.p256"


def sign_weights(model: Version, *, registry: Registry) -> Version:
    """The signature over a model's files; the one that is there already when the key is the same.

    Raises:
        ArtifactChanged: a file is not the one that the manifest names; it is not signed.
    """
    from model_signing import hashing, signing

    private = _signing_key(registry.workspace.keys_dir / KEY_FILE)
    public = _public_pem(private)
    inputs = {"model": model.digest, "public_key": digest_bytes(public), "code": CODE_VERSION}
    if found := registry.find(KIND, model.name, inputs):
        return found
    source = whole_folder(model, registry)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / SIGNING_KEY_FILE).write_bytes(public)
        config = signing.Config().use_elliptic_key_signer(private_key=private)
        config.set_hashing_config(hashing.Config().use_file_serialization(max_workers=1))
        config.sign(source, folder / SIGNATURE_FILE)
        facts = {"model": model.ref, "method": "ECDSA P-256, OpenSSF model signing v1.0"}
        bound = sign_facts({"model": model.digest, "public_key": inputs["public_key"]}, registry.ledger.signer)
        return registry.publish(
            KIND, model.name, folder=folder, inputs=inputs, parents=[model.digest], facts={**facts, "signed": bound}
        )


def weights_fault(signature: Version, model: Version, folder: Path, files: Path, service: Verifier | None) -> str:
    """What is wrong with a signature over a model's files; empty when it holds.

    Args:
        folder: with the signature and the public key.
        files: the model's files.
        service: whose signature must stand under the public key; None leaves that out.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    bound = signature.facts.get("signed", {})
    signer = facts_signer(bound)
    public = digest_file(folder / SIGNING_KEY_FILE)
    if signer is None or bound["body"] != {"model": model.digest, "public_key": public}:
        return "the service's key did not sign this model's digest with this public key"
    if service is not None and signer != service:
        return f"its public key is vouched for by {signer.vkey}, which is not the service's key"
    config = verifying.Config().use_elliptic_key_verifier(public_key=folder / SIGNING_KEY_FILE)
    try:
        config.verify(files, folder / SIGNATURE_FILE)
    except InvalidSignature:
        return "the signature does not hold under its public key"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"the weights are not those that were signed ({' '.join(str(error).split())[:200]})"
    return ""


def _signing_key(path: Path) -> Path:
    """The file of the private P-256 key, made on first use with mode 0600."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        write_once(path, pem, mode=0o600)
    return path


def _public_pem(private: Path) -> bytes:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)
