"""`signalbox ledger`: checkpoints, proofs, exports and witnesses of the log."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

if TYPE_CHECKING:
    from app.ledger.keys import Verifier
    from app.ledger.log import Ledger
    from app.ledger.proofs import Proof

app = group("ledger", "The log: checkpoints, proofs that are checked offline, exports, witnesses.")
witness = group("witness", "Strangers who sign that the log only grew.")
app.add_typer(witness)

OutOption = Annotated[Path | None, typer.Option(help="File to write; default: the terminal.", show_default=False)]
KeyOption = Annotated[
    Path | None, typer.Option(help="The log's public key; default: the workspace's.", show_default=False)
]


@app.command()
def checkpoint(
    size: Annotated[
        int | None, typer.Option(help="Number of leaves that it signs; default: the newest.", show_default=False)
    ] = None,
    out: OutOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Print a signed checkpoint, cosignatures below. Keep it outside: `verify --checkpoint` finds a rewritten log."""
    from app.ledger.log import read_note

    ledger = _open(workspace)
    with ledger.database.read() as connection:
        note = read_note(connection, size)[1]
    _give(note or ledger.checkpoint(), out)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write; empty or not there yet.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Write the whole log as files: leaves as JSON lines, all checkpoints, the public key. See `verify --ledger`."""
    from app.ledger.export import export_ledger

    typer.echo(f"{export_ledger(_open(workspace), folder)} leaves in {folder}")


@app.command()
def prove(
    leaf: Annotated[str, typer.Argument(help="A leaf's index, or a digest that it is about: the first such leaf.")],
    size: Annotated[
        int | None, typer.Option(help="Prove it against the checkpoint of this many leaves.", show_default=False)
    ] = None,
    out: OutOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Prove that a statement stands in the log: a file under 2 kB that `check-proof` checks anywhere."""
    from app.ledger.proofs import find_leaf, prove_inclusion

    ledger = _open(workspace)
    _give(prove_inclusion(ledger, find_leaf(ledger, leaf), size=size).to_bytes().decode() + "\n", out)


@app.command("prove-growth")
def prove_growth(
    old: Annotated[int, typer.Argument(help="Number of leaves of the older checkpoint.")],
    new: Annotated[
        int | None, typer.Option(help="Number of leaves of the newer one; default: the newest.", show_default=False)
    ] = None,
    out: OutOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Prove that the log only appended to an older checkpoint; `check-proof --checkpoint OLD` checks it anywhere."""
    from app.ledger.proofs import prove_consistency

    _give(prove_consistency(_open(workspace), old, new_size=new).to_bytes().decode() + "\n", out)


@app.command("check-proof")
def check_proof(
    file: Annotated[Path, typer.Argument(help="A proof that `prove` or `prove-growth` wrote, or the gateway gave.")],
    key: KeyOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The older checkpoint, for a proof of growth.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a proof with the public key alone: no database, no network. Exit status 1 when it does not hold."""
    from app.core.files import read_text
    from app.ledger.keys import load_public
    from app.ledger.log import SERVICE_KEY
    from app.ledger.proofs import read_proof

    verifier = load_public(key or Workspace.existing(workspace).keys_dir / f"{SERVICE_KEY}.pub")
    proof = read_proof(read_text(file))
    kept = read_text(checkpoint) if checkpoint else None
    said, size = _check(proof, verifier, kept)
    typer.echo(json.dumps({"ok": True, **proof.to_json(), "size": size}, indent=2) if as_json else said)


@app.command()
def cosign(
    note: Annotated[Path, typer.Argument(help="A checkpoint of this log with the witness's signature line.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Take the cosignatures of trusted witnesses in a note; refuse one that does not hold."""
    from app.core.files import read_text
    from app.ledger.witness import add_cosignatures

    for each in add_cosignatures(_open(workspace), read_text(note)):
        typer.echo(f"cosigned by {each.name}")


@witness.command()
def add(
    vkey: Annotated[str, typer.Argument(help="The witness's verifier key, name+id+base64, of type 0x04.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Trust a witness from now on: its key becomes a leaf, so that nobody can exchange it unseen."""
    from app.ledger.witness import Witness, register_witness

    known = Witness.parse(vkey)
    added = register_witness(_open(workspace), known)
    typer.echo(f"{known.name} is trusted" + ("" if added else " already"))


@witness.command("list")
def list_(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List the trusted witnesses with their verifier keys."""
    from app.ledger.witness import witnesses

    found = witnesses(_open(workspace))
    if as_json:
        typer.echo(json.dumps([{"name": each.name, "vkey": each.vkey} for each in found], indent=2))
    else:
        typer.echo("\n".join(each.vkey for each in found) or "no witness is trusted yet")


@witness.command()
def sign(
    note: Annotated[Path, typer.Argument(help="The checkpoint to cosign, as `signalbox ledger checkpoint` writes it.")],
    private: Annotated[Path, typer.Option(help="The witness's Ed25519 private key (PEM).")],
    name: Annotated[str, typer.Option(help="The witness's name, such as witness.example.com/w1.")],
    log_key: Annotated[Path, typer.Option(help="The log's public key.")],
    seen: Annotated[Path, typer.Option(help="Where the witness keeps the checkpoint it signed last.")],
    proof: Annotated[
        Path | None, typer.Option(help="Proof of growth from the checkpoint in --seen.", show_default=False)
    ] = None,
    out: OutOption = None,
) -> None:
    """Be a witness: sign a checkpoint only when the log grew from the one signed last, then remember it."""
    import time

    from app.core.files import read_text
    from app.ledger.keys import load_public, read_pem
    from app.ledger.witness import witness_checkpoint

    line = witness_checkpoint(
        read_text(note),
        verifier=load_public(log_key),
        seen=seen,
        proof=read_text(proof) if proof else None,
        name=name,
        private=read_pem(private),
        time_s=int(time.time()),
    )
    _give(read_text(note) + line, out)


def _check(proof: "Proof", verifier: "Verifier", kept: str | None) -> tuple[str, int]:
    """What a proof shows, in a sentence, and the number of leaves it shows it for."""
    from app.core.errors import UsageError
    from app.ledger.proofs import InclusionProof

    if isinstance(proof, InclusionProof):
        if kept is not None:
            raise UsageError("a proof of inclusion carries its own checkpoint: leave --checkpoint out")
        size, said = proof.check(verifier).size, proof.statement
        return f"it holds: {said.kind} {said.name} ({said.subject[:19]}) is leaf {proof.index} of {size}", size
    if kept is None:
        raise UsageError("a proof of growth needs the older checkpoint: give the file that you kept with --checkpoint")
    size = proof.check(verifier, kept=kept).size
    return f"it holds: the log of {size} leaves begins with the {proof.old_size} of the checkpoint kept", size


def _open(workspace: Path | None) -> "Ledger":
    from app.ledger.log import open_ledger

    return open_ledger(Workspace.existing(workspace))


def _give(text: str, out: Path | None) -> None:
    from app.core.files import replace_text

    if out is None:
        typer.echo(text, nl=False)
    else:
        replace_text(out, text)
