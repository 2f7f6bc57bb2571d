"""Who seals and who unwraps the keys of released faces, behind one interface.

A provider has two halves. The sealing half is what release workers hold: a public key, or a right to encrypt. The
unwrapping half is the custodian's alone. Both are bound to a key's context, so that nothing opens for another face.

One more provider is one more file here, shaped as `kms.py` is: a `Service` (`services.py` says what it answers), a `Sealer`
that asks the service to encrypt 32 bytes under `context` (Vault Transit: `encrypt/NAME` with the canonical context as
`associated_data`; a PKCS#11 HSM: HPKE to the public key that it exports, as in `sealers.py`), an `Unwrapper` that asks it
to decrypt, and its own errors turned into `KeyUnknown`, `Unwrappable` and an `Away`. Nothing else has to know of it: files
here are found by their names. Rows of several suites live side by side, and `refacex keys rotate --to SUITE` takes them
from one to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from schemas.contexts import KeyContext


@dataclass(frozen=True)
class WrappedKey:
    """A sealed key as its row has it: how it was sealed, to which custody key, and the bytes."""

    suite: str
    custody_key_id: str
    wrapped: bytes = field(repr=False)


class Sealer(Protocol):
    """What a release worker holds."""

    def seal(self, key: bytes, context: KeyContext) -> WrappedKey:
        """A 32-byte key sealed to the custody key that is in use now, bound to `context`.

        Raises ValueError for a key of another length; Away where the provider cannot be reached just now.
        """
        ...


class Unwrapper(Protocol):
    """What the custodian alone holds."""

    def unwrap(self, sealed: WrappedKey, context: KeyContext) -> bytes:
        """The 32-byte key.

        Raises KeyUnknown where the custody key is none of ours, Unwrappable where the row does not belong to `context`
        or was changed; Away where the provider cannot be reached just now, so that the message comes back.
        """
        ...
