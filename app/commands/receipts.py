"""`signalbox receipt`: prove that an answer was given, by which release and when."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.options import JsonOption, WorkspaceOption, group
from app.core.workspace import Workspace

app = group("receipt", "Receipts of answers: fetch one from the log, check one without it.")


@app.command()
def show(
    request_id: Annotated[str, typer.Argument(help="The x-request-id of an answered request.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Print the proof that a request's receipt stands in the ledger, as /v1/receipts/{id} gives it."""
    from app.ledger.log import open_ledger
    from app.serving.errors import no_receipt
    from app.serving.log import receipt_proof
    from app.serving.settings import ServingSettings

    here, defaults = Workspace.existing(workspace), ServingSettings()
    proof = receipt_proof(here.requests_dir, open_ledger(here), request_id)
    if proof is None:
        raise no_receipt(request_id, wait_s=defaults.log_flush_s + defaults.ledger_period_s)
    typer.echo(json.dumps(proof, indent=2))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The proof, as /v1/receipts/{id} gives it.")],
    key: Annotated[
        Path | None, typer.Option(help="The log's public key; default: the workspace's.", show_default=False)
    ] = None,
    header: Annotated[
        str,
        typer.Option(help="The answer's header x-signalbox-receipt; a stream may carry it itself."),
    ] = "",
    request: Annotated[Path | None, typer.Option(help="The request's body as JSON.", show_default=False)] = None,
    response: Annotated[
        Path | None, typer.Option(help="The response's body: JSON, or a whole event stream.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a receipt offline: it is in the signed log, and is about this request and this response."""
    from app.core.files import read_text
    from app.ledger.keys import load_public
    from app.ledger.log import SERVICE_KEY
    from app.ledger.receipts import check_receipt

    verifier = load_public(key or Workspace.existing(workspace).keys_dir / f"{SERVICE_KEY}.pub")
    asked = _parse(read_text(request), request) if request else None
    text = read_text(response) if response else ""
    said = _response(text, response) if response else None
    header = header or _receipt_in(text, response)
    proof = _parse(read_text(file), file)
    checked = check_receipt(proof, verifier=verifier, header=header or None, request=asked, response=said)
    good = not checked.faults
    if as_json:
        found = {"ok": good, "proven": list(checked.proven), "faults": list(checked.faults)}
        typer.echo(json.dumps(found | {"receipt": dict(checked.receipt)}, indent=2))
    else:
        typer.echo("\n".join([*checked.proven, *(f"FAULT {fault}" for fault in checked.faults)]))
    raise typer.Exit(0 if good else 1)


def _response(text: str, path: Path) -> Any:
    from app.serving.streams import response_of_stream

    return response_of_stream(_events(text, path)) if text.startswith("data:") else _parse(text, path)


def _receipt_in(text: str, path: Path | None) -> str:
    """The receipt that a stream carries in its last chunk; empty when there is none."""
    events = _events(text, path) if path and text.startswith("data:") else []
    return next((str(event["receipt"]) for event in events if isinstance(event, dict) and "receipt" in event), "")


def _events(text: str, path: Path) -> list[Any]:
    events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [_parse(event, path) for event in events if event != "[DONE]"]


def _parse(text: str, path: Path) -> Any:
    from app.core.files import FileUnusable

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileUnusable(f"{path} is not JSON ({error}): save the body as it was sent") from error
