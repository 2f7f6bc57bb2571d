"""Who somebody is, by the organisation's identity provider: an OpenID Connect ID token, its groups turned into roles.

It says who may be enrolled with which roles. What counts later is the enrolled key, and the custodian's own roster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import jwt

from gateway.json_files import read_object
from workers.custody.roster import ROLES
from workers.errors import WorkerError

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA")  # signatures alone: no shared secrets, no "none"
_SECONDS = 10


class ProviderInvalid(WorkerError):
    """The identity provider's file cannot be used: it holds issuer, audience, jwks, tenant and groups (group: role)."""

    code = "identity_provider_invalid"


class TokenRefused(WorkerError):
    """The ID token is not one of this provider's for this service, or it has expired: sign in again."""

    code = "token_refused"


class NoRole(WorkerError):
    """None of this person's groups gives a role here: ask whoever keeps the groups, or the identity provider's file."""

    code = "no_role"


@dataclass(frozen=True)
class Identity:
    """Somebody with the roles that their groups give; `subject` is the provider's own name for them."""

    person: str
    tenant: str
    roles: tuple[str, ...]
    issuer: str
    subject: str


@dataclass(frozen=True)
class Provider:
    """One identity provider, for one tenant. `jwks` is its keys' address (https) or a file with them."""

    issuer: str
    audience: str
    jwks: str
    tenant: str
    groups: Mapping[str, str]
    groups_claim: str = "groups"
    person_claim: str = "preferred_username"

    @classmethod
    def load(cls, path: Path) -> Provider:
        """Reads the file. Raises ProviderInvalid."""
        provider = cls(**_read(path, {each.name: each.default is MISSING for each in fields(cls)}))
        for name in ("issuer", "audience", "jwks", "tenant", "groups_claim", "person_claim"):
            text = getattr(provider, name)
            if not isinstance(text, str) or not text:
                raise ProviderInvalid(f"its {name} is no text, or empty")
        if not isinstance(provider.groups, dict) or any(role not in ROLES for role in provider.groups.values()):
            raise ProviderInvalid(f"its groups are no object of a group's name and a role: {', '.join(ROLES)}")
        if "://" in provider.jwks and not provider.jwks.startswith("https://"):
            raise ProviderInvalid("keys are fetched over https alone")
        return provider

    def identify(self, token: str) -> Identity:
        """Whom an ID token names. Raises TokenRefused, NoRole; ProviderInvalid where its keys cannot be had."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(token),
                algorithms=list(ALGORITHMS),
                audience=self.audience,
                issuer=self.issuer,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise ProviderInvalid("its keys cannot be fetched") from error
        except jwt.PyJWTError as error:
            raise TokenRefused(_why(error)) from error
        groups = claims.get(self.groups_claim)
        held = {str(group) for group in groups} if isinstance(groups, list) else set()
        roles = tuple(sorted({role for group, role in self.groups.items() if group in held}))
        if not roles:
            raise NoRole
        person = str(claims.get(self.person_claim) or "").lower()
        return Identity(person, self.tenant, roles, self.issuer, str(claims["sub"]))

    def _key(self, token: str) -> jwt.PyJWK:
        if self.jwks.startswith("https://"):
            return jwt.PyJWKClient(self.jwks, timeout=_SECONDS).get_signing_key_from_jwt(token)
        try:
            keys = jwt.PyJWKSet.from_json(Path(self.jwks).read_text("utf-8")).keys
        except (OSError, ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
            raise ProviderInvalid(
                "its keys cannot be read: jwks is an https address, or a file with a JSON Web Key Set"
            ) from error
        wanted = jwt.get_unverified_header(token).get("kid")
        fitting = [key for key in keys if key.key_id == wanted]
        if len(fitting) != 1:
            raise TokenRefused("signed with a key that the provider does not have")
        return fitting[0]


def _read(path: Path, known: Mapping[str, bool]) -> dict[str, Any]:
    """The file's fields; `known` says of each name whether it has to be there. Raises ProviderInvalid."""
    try:
        said = read_object(path)
    except ValueError as error:
        raise ProviderInvalid(f"{path}: {error}") from None
    missing = [name for name, needed in known.items() if needed and name not in said]
    if missing:
        raise ProviderInvalid(f"{path}: it lacks {', '.join(missing)}")
    if strange := sorted(said.keys() - known.keys()):
        raise ProviderInvalid(f"{path} says {', '.join(strange)}, and nothing goes by that")
    return said


_WHY = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet: see that the clocks agree",
    jwt.InvalidSignatureError: "its signature is not by the provider's key",
    jwt.InvalidAudienceError: "it is for another service than the file's audience",
    jwt.InvalidIssuerError: "it is by another provider than the file's issuer",
    jwt.InvalidAlgorithmError: f"it is not signed with one of {', '.join(ALGORITHMS)}",
    jwt.PyJWKClientError: "it is signed with a key that the provider does not have",
}


def _why(error: jwt.PyJWTError) -> str:
    """What is wrong with a token, for who has to get another."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it lacks {error.claim}"
    return _WHY.get(type(error), "it is no ID token that can be checked")
