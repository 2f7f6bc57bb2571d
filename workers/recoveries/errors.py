"""Errors of recovery requests. The docstring is the message shown to people."""

from __future__ import annotations

from workers.errors import WorkerError


class RecoveryError(WorkerError):
    """The recovery cannot go on."""

    code = "recovery_error"


class RequestUnknown(RecoveryError):
    """There is no recovery request of that id: see `refacex request list`."""

    code = "request_unknown"


class RequestClosed(RecoveryError):
    """The request is not open any more: see `refacex request show`, and open another one if it is still needed."""

    code = "request_closed"


class RequestChanged(RecoveryError):
    """The request, or a file name in it, is not what its requester signed any more: somebody changed the database. Sign nothing, and see
    `refacex audit verify`.
    """

    code = "request_changed"


class RequestIncomplete(RecoveryError):
    """A request needs a reason, a legal basis, a case reference, a purpose and at least one face."""

    code = "request_incomplete"


class FaceNotReleased(RecoveryError):
    """A request may only name faces of released items of its release: see `refacex release report RELEASE`."""

    code = "face_not_released"


class NamesChanged(RecoveryError):
    """The file names of this release's photographs are not those that it was submitted with: somebody changed the database. Sign
    nothing, and see `refacex audit verify`.
    """

    code = "names_changed"


class FaceShredded(RecoveryError):
    """The key of one of these faces was shredded: nobody can ever recover it. Ask for the others alone."""

    code = "face_shredded"


class QuorumTooSmall(RecoveryError):
    """This release's policy asks for more approvals than that."""

    code = "quorum_too_small"


class PolicyForbids(RecoveryError):
    """The release's policy does not allow this request: see `refacex policy show`."""

    code = "policy_forbids"


class SubmitterMayNotApprove(RecoveryError):
    """Whoever submitted the release does not approve its recovery under this policy: ask another approver."""

    code = "submitter_may_not_approve"


class RequestStale(RecoveryError):
    """The request was drafted too long ago, or for too long a time: draft it again and sign it at once."""

    code = "request_stale"


class ReviewOpen(RecoveryError):
    """This requester broke the glass before, and that is still open, or its review is: have it ended first."""

    code = "review_open"


class PersonUnknown(RecoveryError):
    """There is no such person, or not with this role in this tenant: see `refacex person list`."""

    code = "person_unknown"


class PersonMissing(PersonUnknown):
    """There is no person of that id, or they were removed before: see `refacex person list`."""

    code = "person_missing"


class PersonExists(RecoveryError):
    """There is a person of that id, or with that key, already."""

    code = "person_exists"


class PersonTold(RecoveryError):
    """The trail tells of somebody of that id, or with that key, whom the service does not know: somebody wrote that who should not have, or
    took the person away. Choose another id, with keys of its own (`refacex person new-key`), and see `refacex audit verify`.
    """

    code = "person_told"


class KeyUnusable(RecoveryError):
    """A public key of theirs is none, or one that anybody can sign with or open for: have them make keys of their own with
    `refacex person new-key`, or another passkey.
    """

    code = "key_unusable"


class AdministratorNeeded(RecoveryError):
    """This tenant has administrators, and one of them signs this (see `refacex person list`): `refacex person add`, `person remove`
    or `policy set` with --by ID --key FILE.
    """

    code = "administrator_needed"


class LastAdministrator(RecoveryError):
    """This is the tenant's last administrator, and without one nobody could be added or removed: add another one first."""

    code = "last_administrator"


class OwnRequest(RecoveryError):
    """Nobody decides on their own request: ask another approver."""

    code = "own_request"


class AlreadyDecided(RecoveryError):
    """This approver has decided on this request already, and decisions are not changed."""

    code = "already_decided"


class SignatureInvalid(RecoveryError):
    """The signature does not verify with this person's public key: sign with the key file that was added for them."""

    code = "signature_invalid"


class PasskeyRefused(SignatureInvalid):
    """The passkey's answer does not count: let it answer `refacex request challenge` for this request and decision again."""

    code = "passkey_refused"


class NotTheRequester(RecoveryError):
    """Only the requester may do this."""

    code = "not_the_requester"


class NothingToFetch(RecoveryError):
    """There is nothing to fetch: the faces are not recovered yet, were fetched before, or have expired."""

    code = "nothing_to_fetch"


class RecoveryFailed(RecoveryError):
    """No face comes of this request, now or later."""

    code = "recovery_failed"


class BundleUnreadable(RecoveryError):
    """The key bundle does not open with this worker's key: see that custodian and recovery worker have one key pair."""

    code = "bundle_unreadable"


class AttemptsUsedUp(RecoveryError):
    """The recovery killed its worker, or failed in a way that nobody foresaw, each time it was tried: see the worker's
    log, and open another request once the cause is known.
    """

    code = "attempts_used_up"


class ObjectChanged(RecoveryError):
    """The released file in the store is not the one that was released: nothing was recovered from it."""

    code = "object_changed"
