"""AWS KMS: release workers may encrypt and the custodian may decrypt, and each key's context is KMS's encryption context.

The release worker's identity needs kms:Encrypt on the key and no more; the custodian's kms:Decrypt, and kms:Encrypt to
rotate to it. KMS logs the context with every call: it holds ids, the tenant and the policy's name, no key and no face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from schemas.contexts import KeyContext
from workers.custody.errors import KeyUnknown, KmsAway, KmsRefused, Unwrappable
from workers.custody.providers import Sealer, Unwrapper, WrappedKey
from workers.custody.sealing import KEY_BYTES, SealSuite, checked
from workers.settings import CustodianSettings, KmsSettings, ReleaseSettings

UNWRAPPABLE = {"InvalidCiphertextException", "IncorrectKeyException"}
UNKNOWN = {"NotFoundException"}
AWAY = {
    "DependencyTimeoutException",
    "KMSInternalException",
    "KeyUnavailableException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
}


def encryption_context(context: KeyContext) -> dict[str, str]:
    """A key's context as KMS takes it: each field by its name, so that a key policy can ask for one."""
    return {f"refacex:{name}": str(value) for name, value in context.fields().items()}


class KmsClients:
    """One client a region, made when it is needed. Without settings of its own it finds its identity as boto3 does."""

    def __init__(self, settings: KmsSettings) -> None:
        self._settings = settings
        self._clients: dict[str, Any] = {}

    def of(self, arn: str) -> Any:
        """The client for the region that a key's ARN names."""
        region = arn.split(":")[3]
        if region not in self._clients:
            import boto3
            from botocore.config import Config

            self._clients[region] = boto3.client(
                "kms",
                region_name=region,
                endpoint_url=self._settings.kms_endpoint,
                aws_access_key_id=self._settings.kms_access_key,
                aws_secret_access_key=self._settings.kms_secret_key,
                config=Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 3}),
            )
        return self._clients[region]


class KmsSealer:
    """Seals by asking KMS to encrypt under one key."""

    def __init__(self, arn: str, clients: KmsClients) -> None:
        self.arn = arn
        self._client = clients.of(arn)

    def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
        """See Sealer. Raises KmsRefused where this identity may not encrypt, KeyUnknown where there is no such key."""
        wanted = {"KeyId": self.arn, "Plaintext": checked(key), "EncryptionContext": encryption_context(context)}
        answer = _asked(lambda: self._client.encrypt(**wanted))
        return WrappedKey(SealSuite.AWS_KMS.value, self.arn, answer["CiphertextBlob"])


class KmsUnwrapper:
    """Unwraps by asking KMS to decrypt, under the keys that the settings name and no other."""

    def __init__(self, arns: Iterable[str], clients: KmsClients) -> None:
        self._arns = frozenset(arns)
        self._clients = clients

    def unwrap(self, sealed: WrappedKey, context: KeyContext) -> bytes:
        """See Unwrapper. Raises KmsRefused where this identity may not decrypt, or the key is disabled."""
        arn = sealed.custody_key_id
        if arn not in self._arns:
            raise KeyUnknown(arn[:200])
        wanted = {"KeyId": arn, "CiphertextBlob": sealed.wrapped, "EncryptionContext": encryption_context(context)}
        key: bytes = _asked(lambda: self._clients.of(arn).decrypt(**wanted))["Plaintext"]
        if len(key) != KEY_BYTES:
            raise Unwrappable("wrong length")
        return key


class Service:
    """AWS KMS as `workers.custody.providers.services.Service`."""

    suite = SealSuite.AWS_KMS.value

    def sealer(self, settings: ReleaseSettings) -> Sealer | None:
        """To the key that release workers may encrypt with."""
        return _sealer(settings.custody_kms_key, settings)

    def unwrapper(self, settings: CustodianSettings) -> Unwrapper | None:
        """For the keys that the custodian may decrypt with."""
        arns = settings.custody_kms_keys
        return KmsUnwrapper(arns, KmsClients(settings)) if arns else None

    def custody_keys(self, settings: CustodianSettings) -> list[str]:
        """Their ARNs."""
        return list(settings.custody_kms_keys)

    def target(self, settings: CustodianSettings) -> Sealer | None:
        """To the first of them."""
        return _sealer(next(iter(settings.custody_kms_keys), None), settings)


def _sealer(arn: str | None, settings: KmsSettings) -> Sealer | None:
    return None if arn is None else KmsSealer(arn, KmsClients(settings))


def _asked(call: Callable[[], Any]) -> Any:
    """The answer of KMS; what it refuses becomes an error of ours that holds its code alone."""
    from botocore import exceptions

    try:
        return call()
    except exceptions.ClientError as error:
        code = str(error.response["Error"]["Code"])
        if code in UNWRAPPABLE:
            raise Unwrappable(code) from None
        if code in UNKNOWN:
            raise KeyUnknown(code) from None
        if code in AWAY or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise KmsAway(code) from None
        raise KmsRefused(code) from None
    except exceptions.ParamValidationError:  # what the row holds is no ciphertext
        raise Unwrappable from None
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise KmsAway(type(error).__name__) from None
    except exceptions.BotoCoreError as error:  # no credentials, no region
        raise KmsRefused(type(error).__name__) from None
