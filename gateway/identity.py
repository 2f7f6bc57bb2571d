"""Who somebody is, by the organisation's identity provider: an OpenID Connect ID token, its groups turned into roles.

It says who may be enrolled with which roles. What counts later is the enrolled key, and the custodian's own roster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

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
        try:
            provider = cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ProviderInvalid(type(error).__name__) from error
        texts = (provider.issuer, provider.audience, provider.jwks, provider.tenant)
        if not all(isinstance(text, str) and text for text in texts) or not isinstance(provider.groups, dict):
            raise ProviderInvalid
        unknown = set(provider.groups.values()) - set(ROLES)
        if unknown:
            raise ProviderInvalid(f"a role is one of {', '.join(ROLES)}")
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
            raise TokenRefused(type(error).__name__) from error
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
        except (OSError, ValueError) as error:
            raise ProviderInvalid("its keys cannot be read") from error
        wanted = jwt.get_unverified_header(token).get("kid")
        fitting = [key for key in keys if key.key_id == wanted]
        if len(fitting) != 1:
            raise TokenRefused("signed with a key that the provider does not have")
        return fitting[0]
