"""Lives that leave more in the trail than a plain recovery: a broken glass, a shredded subject, a report, an export."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from schemas.orders import order_message
from schemas.policies import Policy
from schemas.requests import RequestTerms, review_message
from schemas.states import ExportState, OrderKind, OrderScope, OrderState, RecoveryState, Urgency
from schemas.tables import Export, Item, Subject
from tests.conftest import Buckets
from tests.governance import POLICY, World
from tests.workers.recoveries.test_recovery import recoverer
from workers.custody import ordering
from workers.custody.holds import Target
from workers.custody.orders import carry_out
from workers.custody.policies import write_policies
from workers.exports import service as exports
from workers.exports.runner import ExportRunner
from workers.recoveries import reviews
from workers.recoveries.policies import set_policy
from workers.releases import lifecycle
from workers.releases import service as releases
from workers.releases.reporting import Reporter
from workers.releases.sources import Source
from workers.settings import ReleaseSettings
from workers.storage import Storage

CONCLUSION = "in order"


def finished(world: World) -> None:
    """The world's release ends, as its worker ends it."""
    with world.as_("release").begin() as session:
        lifecycle.finish_releases(session, [world.release])


def let_break_glass(world: World) -> None:
    """One approver is enough where the glass is broken, on the custodian's side and on the service's."""
    policy = Policy("acme", POLICY, break_glass_quorum=1)
    write_policies(world.policies, [policy])
    with world.as_("gateway").begin() as session:
        set_policy(session, policy, "root")


def broken_glass(world: World, *faces: tuple[int, int], approver: str = "bob") -> tuple[RequestTerms, UUID]:
    """A request that one approver was enough for, recovered and fetched; its review is open."""
    let_break_glass(world)
    terms = world.request(*faces, urgency=Urgency.BREAK_GLASS)
    world.approve(terms, approver)
    recovery = world.custodian().open(terms.id).recovery
    assert recovery is not None
    assert recoverer(world).recover(recovery) is RecoveryState.RECOVERED
    assert world.fetch(terms, recovery)
    return terms, recovery


def review(world: World, terms: RequestTerms) -> None:
    """Olga looks at it and finds it in order."""
    signature = world.people["olga"].signing.sign(review_message(terms.sha256(), CONCLUSION))
    with world.as_("gateway").begin() as session:
        reviews.close_review(session, terms.id, "olga", CONCLUSION, signature)


def give(world: World, kind: OrderKind, target: Target) -> UUID:
    """An order of kim's."""
    with world.as_("gateway").begin() as session:
        terms = ordering.draft_order(session, kind, target, ordered_by="kim", reason="a case")
        ordering.give_order(session, terms, world.people["kim"].signing.sign(order_message(terms)))
    return terms.id


def shredded_subject(world: World) -> UUID:
    """Anna, whom one image of a cancelled release showed, and who was shredded; her pseudonym."""
    with world.as_("gateway").begin() as session:
        sources = [Source("file:///a.png", "a.png", "anna")]
        options = releases.ReleaseOptions(policy_name=POLICY)
        release = releases.submit(session, tenant="acme", actor="sam", name="s", sources=sources, options=options)
    with world.as_("gateway").begin() as session:
        releases.cancel(session, release, "sam")
    with world.as_("gateway")() as session:
        pseudonym = session.execute(select(Item.subject_id).where(Item.release_id == release)).scalar_one()
    assert pseudonym is not None
    with world.as_("relay").begin() as session:
        assert lifecycle.end_cancelled(session, actor="reconciler", limit=9) == 1
    order = give(world, OrderKind.SHRED, Target(OrderScope.SUBJECT, pseudonym))
    assert carry_out(world.custodian(), order).state is OrderState.DONE
    with world.as_("gateway")() as session:
        assert session.get_one(Subject, pseudonym).reference is None
    return pseudonym


@dataclass(frozen=True)
class Store:
    """The buckets, with the release worker's identity."""

    settings: ReleaseSettings
    storage: Storage

    @classmethod
    def of(cls, world: World, buckets: Buckets) -> Store:
        """With the released files in it."""
        names = {name.removeprefix("REFACEX_").lower(): value for name, value in buckets.environment("release").items()}
        settings = ReleaseSettings(database_url="unused", broker_url="unused", **names)
        store = cls(settings, Storage(settings))
        for key, data in world.files.items():
            store.storage.put(settings.bucket_releases, key, data, if_none_match=False)
        return store


def reported(world: World, store: Store) -> str:
    """The risk report of the finished release; its SHA-256."""
    sha256 = Reporter(store.settings, world.as_("release"), store.storage).run(world.release)
    assert sha256 is not None
    return sha256


def exported(world: World, store: Store) -> UUID:
    """The export of the finished release."""
    with world.as_("gateway").begin() as session:
        export = exports.export_release(session, world.release, "sam")
    ExportRunner(store.settings, world.as_("release"), store.storage).run(export)
    assert world.one(select(Export.state)) is ExportState.DONE
    return export


def whole_life(world: World, buckets: Buckets) -> None:
    """All of them, one after the other."""
    terms, _ = broken_glass(world, (0, 0))
    review(world, terms)
    finished(world)
    shredded_subject(world)
    store = Store.of(world, buckets)
    reported(world, store)
    exported(world, store)
