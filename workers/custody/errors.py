"""Errors of custody. The docstring is the message shown to people."""

from __future__ import annotations

from workers.errors import Away, WorkerError


class CustodyError(WorkerError):
    """The custodian refused."""

    code = "custody_error"


class KeyFileMissing(CustodyError):
    """There is no key file there: see that the path is right, or restore your copy. Where there never was one, `refacex setup` makes
    the system's, and `refacex person new-key` a person's.
    """

    code = "key_file_missing"


class PublicKeyMissing(KeyFileMissing):
    """There is no public key file there: see that the path is right, or have whoever holds the key send it to you again. A service has
    the notary's (`audit.public.json`) and the custodian's (`ticket.public.json`) below keys in its home folder; a person has theirs
    beside their own key file.
    """


class KeyFileExists(CustodyError):
    """There is a key file already, and keys are never overwritten: move it away first."""

    code = "key_file_exists"


class KeyFileLoose(CustodyError):
    """Others can read or write this key file: run the command named here, and think about replacing the key."""

    code = "key_file_loose"


class KeyFileCorrupt(CustodyError):
    """The key file is damaged or of another kind: restore it from your copy."""

    code = "key_file_corrupt"


class PassphraseNeeded(CustodyError):
    """This key file has a passphrase: type it on a terminal, or name a file that holds it (`refacex --passphrase-file FILE ...`,
    for the custodian REFACEX_CUSTODY_PASSPHRASE_FILE).
    """

    code = "passphrase_needed"


class PassphraseUnasked(PassphraseNeeded):
    """A new passphrase is typed on a terminal, and there is none here: run this on one, or write the passphrase to a file that only you
    can read (`chmod 600`), and name that: `refacex --passphrase-file FILE person new-key ... --passphrase`.
    """


class PassphraseWrong(CustodyError):
    """This is not the key file's passphrase: try again; without it nothing opens what the file holds."""

    code = "passphrase_wrong"


class PassphraseFileLoose(CustodyError):
    """Others can read the passphrase's file: run `chmod 600` on it, and choose another passphrase."""

    code = "passphrase_file_loose"


class Unwrappable(CustodyError):
    """A sealed key does not open: it was sealed to another key, for another face, or changed."""

    code = "unwrappable"


class KeyUnknown(CustodyError):
    """A key was sealed to a custody key that is not on this key ring: restore the key ring's copy."""

    code = "custody_key_unknown"


class KmsRefused(CustodyError):
    """AWS KMS refused: see that the key is enabled and that this process's identity may use it (release workers
    kms:Encrypt, the custodian kms:Decrypt and, to rotate to it, kms:Encrypt).
    """

    code = "kms_refused"


class KmsAway(Away):
    """AWS KMS cannot be reached just now: the work goes on by itself when it is back."""

    code = "kms_away"


class KeyRingBusy(CustodyError):
    """Somebody else changes the key ring just now: wait until that command has ended."""

    code = "key_ring_busy"


class KeyRingMissing(CustodyError):
    """This custodian has no key ring: its keys are in a key service, rotate to it with --to (AWS KMS: --to aws-kms)."""

    code = "key_ring_missing"


class ServiceNotConfigured(CustodyError):
    """This custodian's settings name no key of that service: for aws-kms set REFACEX_CUSTODY_KMS_KEYS, the first of them is what is
    rotated to.
    """

    code = "key_service_not_configured"


class ServiceUnknown(ServiceNotConfigured):
    """There is no such key service: keys go to one of those named here, or, without --to, to a new key of the key ring."""

    code = "key_service_unknown"


class CustodyKeyRetired(CustodyError):
    """What this release worker seals to is retired: give it the custodian's new custody.public.json (`refacex setup --deal` does),
    and the work goes on by itself.
    """

    code = "custody_key_retired"


class CustodyKeyUnknown(CustodyError):
    """There is no such custody key: see `refacex keys list`."""

    code = "no_such_custody_key"


class KeyMissing(CustodyError):
    """There is no sealed key for an approved face."""

    code = "key_missing"


class KeyShredded(CustodyError):
    """The key of an approved face was shredded: this face can never be recovered."""

    code = "key_shredded"


class RosterInvalid(CustodyError):
    """The custodian's roster is damaged, or says what no roster may: restore it from your copy, as its owner."""

    code = "roster_invalid"


class RosterMissing(RosterInvalid):
    """There is no roster there: see that the path is right, or restore your copy. `refacex setup` makes a new system's, on the custodian's
    machine; where service and custodian are apart, `refacex roster add` goes there and `refacex person add --without-roster` here.
    """

    code = "roster_missing"


class RosterKeyShared(RosterInvalid):
    """Two people would share an id or a key, and so be one person twice: nothing was changed; give each keys of their own."""

    code = "roster_key_shared"


class RosterKeyUnusable(RosterInvalid):
    """A public key is none, or one that anybody can sign with or open for: nothing was changed; have its person make keys of their own
    with `refacex person new-key`, or another passkey.
    """

    code = "roster_key_unusable"


class RosterLoose(RosterInvalid):
    """Others can write the custodian's roster: see that it names whom it should, then run the command named here."""

    code = "roster_loose"


class PoliciesInvalid(CustodyError):
    """The custodian's policies are damaged, or one is not allowed: restore them from your copy, as their owner."""

    code = "policies_invalid"


class PoliciesMissing(PoliciesInvalid):
    """There are no policies there: see that the path is right, or restore your copy. `refacex setup` makes a new system's, on the
    custodian's machine.
    """

    code = "policies_missing"


class PoliciesLoose(PoliciesInvalid):
    """Others can write the custodian's policies: see that they say what they should, then run the command named here."""

    code = "policies_loose"


class LedgerInvalid(CustodyError):
    """The custodian's ledger of spent tickets and shredded keys is damaged: restore it from your copy before going
    on.
    """

    code = "ledger_invalid"


class LedgerMissing(LedgerInvalid):
    """There is no ledger where the custodian should have it, and without it shredded keys, holds and spent tickets are forgotten:
    restore it from your copy, or put the path right. Where it is lost for good, see `refacex keys ledger begin --help`.
    """

    code = "ledger_missing"


class LedgerBehind(LedgerInvalid):
    """The custodian's ledger is older than what the custodian itself signed in the trail: restore its newest copy. Where that is lost
    for good, move this one away and see `refacex keys ledger begin --help`.
    """

    code = "ledger_behind"


class LedgerLoose(LedgerInvalid):
    """Others can write the custodian's ledger: hold it against the trail with `refacex audit verify --ledger`, after the command
    named here.
    """

    code = "ledger_loose"


class LedgerExists(CustodyError):
    """There is a ledger already, and none is ever begun over another. Where it is not the custodian's, put its path right: the
    custodian's settings name it, in env/custodian.env in the home folder.
    """

    code = "ledger_exists"


class LossNotAccepted(CustodyError):
    """The trail tells of work of the custodian, so there was a ledger: restore it from your copy. Only where it is lost for good,
    say so with --accept-loss; that stands in the trail.
    """

    code = "loss_not_accepted"


class RequestUnknown(CustodyError):
    """There is no such request."""

    code = "request_unknown"


class TicketInvalid(CustodyError):
    """A recovery came with a ticket that the custodian did not sign for it: find out who sent it."""

    code = "ticket_invalid"


class TicketRefused(CustodyError):
    """The custodian made no ticket; `detail` says why."""

    code = "ticket_refused"


class Held(CustodyError):
    """A legal hold forbids shredding this: see `refacex hold list`, and have it lifted first."""

    code = "held"


class NotHeld(CustodyError):
    """There is no hold on just this: see `refacex hold list`."""

    code = "not_held"


class TargetUnknown(CustodyError):
    """There is no such face, item, release or subject: see `refacex release list` and `refacex release report`."""

    code = "target_unknown"


class StillReleasing(CustodyError):
    """Its release is not finished, and keys are still being made: wait for its end, or cancel it, and order again."""

    code = "release_unfinished"


class ClocksApart(Away):
    """The database's clock and the custodian's are more than a minute apart: nothing is opened before they agree."""

    code = "clocks_apart"
