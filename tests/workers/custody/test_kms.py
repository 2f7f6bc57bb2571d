"""AWS KMS as a provider, on moto: what it opens, what it refuses, and what becomes of it when KMS is away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from moto import mock_aws

from schemas.contexts import KeyContext
from tests.workers.custody.test_files import CONTEXT, VECTORS
from workers.app import away
from workers.custody import keys
from workers.custody.errors import KeyUnknown, KmsAway, KmsRefused, Unwrappable
from workers.custody.providers import WrappedKey
from workers.custody.providers.kms import KmsClients, KmsSealer, KmsUnwrapper, encryption_context
from workers.custody.providers.sealers import ToPublicFile, ToPublicKey, sealer_of
from workers.custody.providers.unwrappers import BySuite, KeyRing, unwrapper_of
from workers.custody.sealing import DEFAULT_SUITE, PublicKey, SealSuite
from workers.errors import SettingsInvalid
from workers.settings import CustodianSettings, KmsSettings, ReleaseSettings

KEY = bytes(range(32))
SETTINGS = KmsSettings(kms_access_key="AKIATEST", kms_secret_key="secret-of-the-test")


@pytest.fixture
def kms() -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("kms", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")


@pytest.fixture
def arn(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def refusing(error: Exception) -> KmsClients:
    """Clients whose every call ends so."""

    class Refusing(KmsClients):
        def of(self, arn: str) -> Any:
            return self

        def _refuse(self, **_: Any) -> Any:
            raise error

        encrypt = decrypt = _refuse

    return Refusing(SETTINGS)


def said(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Decrypt")  # type: ignore[typeddict-item]


def test_a_key_opens_in_its_own_context_only(arn: str) -> None:
    clients = KmsClients(SETTINGS)
    unwrapper = KmsUnwrapper([arn], clients)
    sealed = KmsSealer(arn, clients).seal(KEY, CONTEXT)
    assert (sealed.suite, sealed.custody_key_id) == (SealSuite.AWS_KMS.value, arn)
    assert KEY not in sealed.wrapped and "wrapped" not in repr(sealed)
    assert unwrapper.unwrap(sealed, CONTEXT) == KEY
    for change in ({"tenant": "x"}, {"item": str(UUID(int=9))}, {"face": 1}, {"policy": "q"}, {"model_version": "m2"}):
        with pytest.raises(Unwrappable):
            unwrapper.unwrap(sealed, replace(CONTEXT, **change))
    for wrapped in (b"", b"rubbish", sealed.wrapped[:-1] + bytes([sealed.wrapped[-1] ^ 1])):
        with pytest.raises(Unwrappable):
            unwrapper.unwrap(replace(sealed, wrapped=wrapped), CONTEXT)
    with pytest.raises(ValueError, match="32 bytes"):
        KmsSealer(arn, clients).seal(b"short", CONTEXT)


def test_the_encryption_context_keeps_its_words() -> None:
    assert encryption_context(CONTEXT) == VECTORS["kms_context_2"]
    assert encryption_context(replace(CONTEXT, v=1)) == VECTORS["kms_context"], "of before a key was bound to a subject"
    assert len(set(encryption_context(CONTEXT))) == len(CONTEXT.__dataclass_fields__)


def test_keys_that_are_not_ours_or_are_not_there(kms: Any, arn: str) -> None:
    clients = KmsClients(SETTINGS)
    sealed = KmsSealer(arn, clients).seal(KEY, CONTEXT)
    other = str(kms.create_key()["KeyMetadata"]["Arn"])
    with pytest.raises(KeyUnknown):  # a row that names a key of somebody else's is not even asked about
        KmsUnwrapper([other], clients).unwrap(sealed, CONTEXT)
    with pytest.raises((Unwrappable, KmsRefused)):  # AWS says IncorrectKey, moto AccessDenied
        KmsUnwrapper([arn, other], clients).unwrap(replace(sealed, custody_key_id=other), CONTEXT)
    absent = arn[:-4] + "0000"
    with pytest.raises(KeyUnknown):
        KmsSealer(absent, clients).seal(KEY, CONTEXT)
    with pytest.raises(KeyUnknown):
        KmsUnwrapper([absent], clients).unwrap(replace(sealed, custody_key_id=absent), CONTEXT)


ERRORS = [
    (said("AccessDeniedException"), KmsRefused),
    (said("DisabledException"), KmsRefused),
    (said("KMSInvalidStateException"), KmsRefused),
    (said("UnrecognizedClientException"), KmsRefused),
    (NoCredentialsError(), KmsRefused),
    (said("NotFoundException"), KeyUnknown),
    (said("InvalidCiphertextException"), Unwrappable),
    (said("IncorrectKeyException"), Unwrappable),
    (said("ThrottlingException"), KmsAway),
    (said("KMSInternalException", 500), KmsAway),
    (said("SomethingNew", 503), KmsAway),
    (EndpointConnectionError(endpoint_url="https://kms"), KmsAway),
    (ReadTimeoutError(endpoint_url="https://kms"), KmsAway),
]


@pytest.mark.parametrize(("error", "becomes"), ERRORS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_what_kms_says_becomes_an_error_of_ours(error: Exception, becomes: type[Exception]) -> None:
    arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
    with pytest.raises(becomes) as sealing:
        KmsSealer(arn, refusing(error)).seal(KEY, CONTEXT)
    with pytest.raises(becomes):
        KmsUnwrapper([arn], refusing(error)).unwrap(WrappedKey("aws-kms", arn, b"x"), CONTEXT)
    assert away(sealing.value) == (becomes is KmsAway), "a message comes back when KMS is away, and only then"


def test_nobody_listens_where_kms_should_be() -> None:
    settings = KmsSettings(kms_access_key="x", kms_secret_key="x", kms_endpoint="http://127.0.0.1:9")
    with pytest.raises(KmsAway):
        KmsSealer("arn:aws:kms:eu-central-1:123456789012:key/1", KmsClients(settings)).seal(KEY, CONTEXT)


# --- chosen by settings, side by side


def release_settings(**more: Any) -> ReleaseSettings:
    plain = {"database_url": "x", "broker_url": "x", "s3_access_key": "x", "s3_secret_key": "x"}
    return ReleaseSettings(**plain, **SETTINGS.model_dump(include={"kms_access_key", "kms_secret_key"}), **more)


def custodian_settings(folder: Path, **more: Any) -> CustodianSettings:
    files = ("ticket_signing_key", "roster", "policies", "tombstones", "recovery_public_key")
    plain: dict[str, Any] = {"database_url": "x", "broker_url": "x", **{name: folder / name for name in files}}
    return CustodianSettings(**plain, **SETTINGS.model_dump(include={"kms_access_key", "kms_secret_key"}), **more)


def test_the_custodian_opens_rows_of_both_at_once(arn: str, tmp_path: Path) -> None:
    public = keys.create_custody_keyring(tmp_path / "ring.json")
    keys.write_public(tmp_path / "public.json", public)
    local = sealer_of(release_settings(custody_public_key=tmp_path / "public.json"))
    remote = sealer_of(release_settings(custody_public_key=tmp_path / "public.json", custody_kms_key=arn))
    assert (type(local), type(remote)) == (ToPublicFile, KmsSealer), "the KMS key is taken where one is named"
    sealed = [local.seal(KEY, CONTEXT), remote.seal(KEY, CONTEXT)]
    assert {each.suite for each in sealed} == {suite.value for suite in SealSuite}
    both = unwrapper_of(custodian_settings(tmp_path, custody_keyring=tmp_path / "ring.json", custody_kms_keys=[arn]))
    assert [both.unwrap(each, CONTEXT) for each in sealed] == [KEY, KEY]
    alone = [
        unwrapper_of(custodian_settings(tmp_path, custody_keyring=tmp_path / "ring.json")),
        unwrapper_of(custodian_settings(tmp_path, custody_kms_keys=[arn])),
    ]
    for unwrapper, opens, does_not in zip(alone, sealed, reversed(sealed), strict=True):
        assert unwrapper.unwrap(opens, CONTEXT) == KEY
        with pytest.raises(Unwrappable):
            unwrapper.unwrap(does_not, CONTEXT)


def test_one_providers_row_under_the_others_name_does_not_open(arn: str, tmp_path: Path) -> None:
    private = X25519PrivateKey.generate()
    public = PublicKey("k1", private.public_key().public_bytes_raw())
    sealed = ToPublicKey(public).seal(KEY, CONTEXT)
    keys.create_custody_keyring(tmp_path / "ring.json")
    ring, kms = KeyRing(tmp_path / "ring.json"), KmsUnwrapper([arn], KmsClients(SETTINGS))
    both = BySuite({DEFAULT_SUITE.value: ring, SealSuite.AWS_KMS.value: kms})
    ring_id = keys.load(tmp_path / "ring.json", keys.FileKind.CUSTODY).active
    for suite, key in ((SealSuite.AWS_KMS.value, arn), (DEFAULT_SUITE.value, ring_id), ("rot13", ring_id)):
        with pytest.raises(Unwrappable):
            both.unwrap(replace(sealed, suite=suite, custody_key_id=key), CONTEXT)
    with pytest.raises(Unwrappable):
        ring.unwrap(replace(sealed, suite=SealSuite.AWS_KMS.value, custody_key_id=ring_id), CONTEXT)


def test_settings_that_choose_nothing_or_no_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="REFACEX_CUSTODY_PUBLIC_KEY"):
        sealer_of(release_settings())
    with pytest.raises(SettingsInvalid, match="REFACEX_CUSTODY_KEYRING"):
        unwrapper_of(custodian_settings(tmp_path))
    for bad in ("alias/custody", "arn:aws:kms:eu-central-1:123456789012:alias/custody", "1234"):
        with pytest.raises(ValueError, match="pattern"):  # an alias can be pointed at another key
            release_settings(custody_kms_key=bad)
        with pytest.raises(ValueError, match="pattern"):
            custodian_settings(tmp_path, custody_kms_keys=[bad])


# --- what imports what


def loaded_by(code: str) -> set[str]:
    listing = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_sealing_half_brings_nothing_that_opens() -> None:
    for code in ("import workers.custody.providers.sealers", "import workers.releases.keys, workers.releases.runner"):
        loaded = loaded_by(code)
        assert not loaded & {"workers.custody.opening", "workers.custody.providers.unwrappers"}
        assert "workers.custody.providers.kms" not in loaded


def test_without_kms_the_custodian_knows_no_boto3_and_never_torch() -> None:
    loaded = loaded_by("import workers.custody.providers.unwrappers, workers.custody.rotation, workers.custody.service")
    assert not loaded & {"boto3", "botocore", "torch", "PIL", "cv2", "numpy"}
    with_kms = loaded_by("import workers.custody.providers.kms, workers.custody.providers.unwrappers")
    assert not with_kms & {"torch", "PIL", "cv2", "numpy"}


# --- a public file that is replaced


def test_a_sealer_follows_the_public_file(tmp_path: Path) -> None:
    path, contexts = tmp_path / "public.json", KeyContext.of(**_context())
    first, second = (keys.create_custody_keyring(tmp_path / name) for name in ("1.json", "2.json"))
    keys.write_public(path, first)
    sealer = ToPublicFile(path)
    assert sealer.seal(KEY, contexts).custody_key_id == first["active"]
    keys.write_public(path, second)
    sealed = sealer.seal(KEY, contexts)
    assert sealed.custody_key_id == second["active"]
    assert KeyRing(tmp_path / "2.json").unwrap(sealed, contexts) == KEY
    path.write_text("{}")
    assert sealer.seal(KEY, contexts).custody_key_id == second["active"], "a damaged file loses no release"
    path.unlink()
    assert sealer.seal(KEY, contexts).custody_key_id == second["active"]
    keys.write_public(path, first)
    assert sealer.seal(KEY, contexts).custody_key_id == first["active"]


def _context() -> dict[str, Any]:
    ids = {name: UUID(int=number) for number, name in enumerate(("release", "item", "attempt"))}
    return {"tenant": "acme", "model_version": "m1", "policy": "p", "face": None, **ids}
