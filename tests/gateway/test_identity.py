"""Sign-in by an identity provider: its own tokens name people and roles, and nobody else's do."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.identity import NoRole, Provider, ProviderInvalid, TokenRefused
from workers.custody.roster import ROLES

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
GROUPS = {"dpo": "approver", "keys": "key-officer"}


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    keys = tmp_path / "jwks.json"
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k1", "alg": "ES256"}
    other = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())) | {"kid": "k2", "alg": "RS256"}
    keys.write_text(json.dumps({"keys": [public, other]}))
    file = tmp_path / "provider.json"
    about = {"issuer": "https://id.acme.org", "audience": "refacex", "tenant": "acme", "groups": GROUPS}
    file.write_text(json.dumps(about | {"jwks": str(keys)}))
    return Provider.load(file)


def token(key: Any = KEY, algorithm: str = "ES256", kid: str | None = "k1", **changes: Any) -> str:
    claims = {
        "iss": "https://id.acme.org",
        "aud": "refacex",
        "sub": "8f14e45f",
        "iat": int(time.time()),
        "exp": int(time.time()) + 60,
        "preferred_username": "Ann",
        "groups": ["dpo", "everybody"],
    }
    claims |= changes
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm, headers={"kid": kid} if kid else None)


def test_its_groups_become_roles(provider: Provider) -> None:
    who = provider.identify(token())
    assert (who.person, who.tenant, who.roles, who.subject) == ("ann", "acme", ("approver",), "8f14e45f")
    both = provider.identify(token(RSA, "RS256", "k2", groups=["keys", "dpo"]))
    assert both.roles == ("approver", "key-officer")


def test_a_group_may_name_every_role(provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "provider.json"
    groups = {f"{role}s": role for role in ROLES}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"groups": groups}))
    assert Provider.load(file).identify(token(groups=list(groups))).roles == tuple(sorted(ROLES))
    assert Provider.load(file).identify(token(groups=["submitters"])).roles == ("submitter",)
    assert {"submitter", "approver", "auditor", "key-officer", "administrator"} < set(ROLES)


@pytest.mark.parametrize(
    "made",
    [
        {"key": OTHER},
        {"kid": "k9"},
        {"kid": None},
        {"key": "a shared secret of thirty-two bytes", "algorithm": "HS256"},
        {"key": None, "algorithm": "none"},
        {"kid": "k2"},  # signed with one key and named after another
        {"iss": "https://id.evil.net"},
        {"aud": "another service"},
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"sub": None},
        {"iat": int(time.time()) + 3600},
    ],
)
def test_anything_else_is_refused(provider: Provider, made: dict[str, Any]) -> None:
    with pytest.raises(TokenRefused):
        provider.identify(token(**made))


def test_what_is_no_token_or_gives_no_role(provider: Provider) -> None:
    for rubbish in ("", "a.b.c", "x" * 4000):
        with pytest.raises(TokenRefused):
            provider.identify(rubbish)
    for groups in ([], None, "dpo", ["everybody"]):
        with pytest.raises(NoRole):
            provider.identify(token(groups=groups))


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": {"dpo": "administrator of everything"}},
        {"groups": []},
        {"issuer": ""},
        {"jwks": "http://id.acme.org/keys"},
        {"secret": "x"},
    ],
)
def test_a_provider_that_cannot_be_used(provider: Provider, tmp_path: Path, wrong: dict[str, Any]) -> None:
    file = tmp_path / "provider.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(ProviderInvalid):
        Provider.load(file)
    with pytest.raises(ProviderInvalid):
        Provider.load(tmp_path / "none.json")
    with pytest.raises(ProviderInvalid):
        replace(provider, jwks=str(tmp_path / "none")).identify(token())
