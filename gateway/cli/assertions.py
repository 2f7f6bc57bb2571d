"""Passkeys on the command line: whose console they are made for, and what one of them answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.roster import roster_path
from gateway.cli.service import stop

if TYPE_CHECKING:
    from workers.custody.judge import Signed
    from workers.custody.passkeys import RelyingParty


def relying_party(roster: Path | None, home: Path | None) -> RelyingParty:
    """The console whose passkeys count, by the roster."""
    from workers.custody.roster import load_roster

    party = load_roster(roster_path(roster, home)).relying_party
    if party is None:
        raise stop("no console's passkeys count yet: say which with `refacex roster console DOMAIN --origin URL`")
    return party


def answered(file: Path) -> Signed:
    """A passkey's answer out of a credential as browsers write it (PublicKeyCredential.toJSON)."""
    from workers.custody.judge import Signed
    from workers.custody.passkeys import Assertion, unb64url
    from workers.strangers import read_json

    try:
        said = read_json(file.read_text("utf-8"))
        response = said["response"]
        parts = [unb64url(response[name]) for name in ("authenticatorData", "clientDataJSON", "signature")]
        return Signed(parts[2], Assertion(str(said["id"]), parts[0], parts[1]).as_json())
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint="--assertion") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise typer.BadParameter(
            f"{file} is no credential as a browser writes it: JSON with id, and response with clientDataJSON, "
            "authenticatorData and signature, in base64url",
            param_hint="--assertion",
        ) from None
