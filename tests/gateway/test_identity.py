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


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"exp": int(time.time()) - 60}, "it has expired"),
        ({"iat": int(time.time()) + 3600}, "not valid yet"),
        ({"key": OTHER}, "not by the provider's key"),
        ({"aud": "another service"}, "for another service than the file's audience"),
        ({"iss": "https://id.evil.net"}, "by another provider than the file's issuer"),
        ({"key": "a shared secret of thirty-two bytes", "algorithm": "HS256"}, "it is not signed with one of RS256"),
        ({"kid": "k9"}, "a key that the provider does not have"),
        ({"sub": None}, "it lacks sub"),
    ],
)
def test_why_a_token_is_refused_is_said(provider: Provider, made: dict[str, Any], why: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        provider.identify(token(**made))
    assert why in refused.value.detail and "Error" not in str(refused.value)


def test_what_is_no_token_or_gives_no_role(provider: Provider) -> None:
    for rubbish in ("", "a.b.c", "x" * 4000):
        with pytest.raises(TokenRefused, match="no ID token that can be checked"):
            provider.identify(rubbish)
    for groups in ([], None, "dpo", ["everybody"]):
        with pytest.raises(NoRole):
            provider.identify(token(groups=groups))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"groups": {"dpo": "administrator of everything"}}, "its groups are no object of a group's name and a role"),
        ({"groups": {"dpo": ["approver"]}}, "its groups are no object"),
        ({"groups": []}, "its groups are no object"),
        ({"issuer": ""}, "its issuer is no text, or empty"),
        ({"audience": ["refacex"]}, "its audience is no text, or empty"),
        ({"groups_claim": ["groups"]}, "its groups_claim is no text, or empty"),
        ({"jwks": "http://id.acme.org/keys"}, "over https alone"),
        ({"secret": "x", "a": 1}, "says a, secret, and nothing goes by that"),
    ],
)
def test_a_provider_that_cannot_be_used(provider: Provider, tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    file = tmp_path / "provider.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    with pytest.raises(ProviderInvalid) as refused:
        Provider.load(file)
    assert why in refused.value.detail


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "it cannot be read (No such file or directory)"),
        (b"\xff\xfe", "it is no text in UTF-8"),
        (b"{", "it is no JSON at line 1, column 2"),
        (b"[]", "it is no JSON object"),
        (b"null", "it is no JSON object"),
        (b'{"issuer": "x", "groups": {}}', "it lacks audience, jwks, tenant"),
    ],
)
def test_a_provider_file_of_another_shape_is_told_apart(tmp_path: Path, text: bytes | None, why: str) -> None:
    file = tmp_path / "provider.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ProviderInvalid) as refused:
        Provider.load(file)
    assert refused.value.detail == f"{file}: {why}"


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"keys": 7}', '{"keys": [{}]}', '{"keys": [7]}'])
def test_keys_that_cannot_be_read_are_the_files_fault(provider: Provider, tmp_path: Path, text: str | None) -> None:
    """And not the token's."""
    file = tmp_path / "wrong.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ProviderInvalid, match="JSON Web Key Set"):
        replace(provider, jwks=str(file)).identify(token())
