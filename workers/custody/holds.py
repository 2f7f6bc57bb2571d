"""What orders are about, and which holds forbid them: faces lie in items, items in releases and with subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from schemas.orders import OrderTerms
from schemas.states import OrderScope
from schemas.tables import CustodyOrder


class Outcome(StrEnum):
    """What the custodian did with an order; the kinds of the ledger's lines about orders."""

    SHRED = "shred"
    HOLD = "hold"
    LIFTED = "lifted"
    REFUSED = "refused"


@dataclass(frozen=True)
class Target:
    """A face of an item, an item, a release or a subject, by its id; `face` goes with the scope `face` alone."""

    scope: OrderScope
    id: UUID
    face: int | None = None

    @classmethod
    def of(cls, terms: OrderTerms | CustodyOrder) -> Target:
        """What an order is about, by its terms or its row."""
        return cls(terms.scope, terms.target, terms.face)

    @property
    def field(self) -> dict[str, str]:
        """The field of an event that names it; a face by its item."""
        names = {OrderScope.RELEASE: "release", OrderScope.SUBJECT: "subject"}
        return {names.get(self.scope, "item"): str(self.id)}

    def __str__(self) -> str:
        return f"{self.scope.value} {self.id}" + (f":{self.face}" if self.face is not None else "")


@dataclass(frozen=True)
class Portion:
    """Keys of one item, with what the item belongs to: those of `faces`, or every key there is, the layout key too."""

    item: UUID
    release: UUID
    subject: UUID | None
    faces: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Hold:
    """One order to hold: whose it is (None: of before the ledger said so), when it was signed, its SHA-256, and what lay in its target
    when it was given.
    """

    tenant: str | None
    ordered_at: datetime
    sha256: str
    items: frozenset[UUID] = frozenset()


@dataclass
class Holds:
    """The holds that stand. One on a release or a subject also stays with the items that it was given for, wherever rows put them."""

    _standing: dict[Target, list[Hold]] = field(default_factory=dict)
    _around: dict[UUID, set[Target]] = field(default_factory=lambda: defaultdict(set))

    def follow(self, line: Mapping[str, Any]) -> None:
        """What a ledger's line about an order means for what is held. Raises ValueError, KeyError or TypeError for none of ours."""
        target = Target(OrderScope(line["scope"]), UUID(line["target"]), line["face"])
        ordered_at, tenant = datetime.fromisoformat(line["ordered_at"]), line.get("tenant")
        if line["kind"] == Outcome.HOLD:
            self.put(target, Hold(tenant, ordered_at, line["sha256"], frozenset(map(UUID, line.get("items", ())))))
        elif line["kind"] == Outcome.LIFTED:
            self.lift(target, ordered_at, tenant)

    def put(self, target: Target, hold: Hold) -> None:
        """Holds the target."""
        self._standing.setdefault(target, []).append(hold)
        for item in _items(target, hold):
            self._around[item].add(target)

    def lift(self, target: Target, ordered_at: datetime, tenant: str | None) -> bool:
        """Lifts what this tenant held before that moment, on just this target; False where nothing was. `tenant` None is an order of
        before the ledger said whose it was, and lifts anybody's.

        An old order to lift that somebody brings back cannot lift a hold that was ordered after it.
        """
        mine = self.liftable(target, ordered_at, tenant)
        left = [hold for hold in self._standing.pop(target, ()) if hold not in mine]
        for hold in mine:
            for item in _items(target, hold):
                self._around[item].discard(target)
        for hold in left:
            self.put(target, hold)
        return bool(mine)

    def liftable(self, target: Target, ordered_at: datetime, tenant: str | None) -> list[Hold]:
        """What such an order would lift: all of this tenant's holds on the target, or none where one was ordered later."""
        mine = [hold for hold in self.on(target) if tenant is None or hold.tenant in (None, tenant)]
        return mine if all(hold.ordered_at <= ordered_at for hold in mine) else []

    def on(self, target: Target) -> list[Hold]:
        """The holds on just this target."""
        return list(self._standing.get(target, ()))

    def covering(self, portions: Iterable[Portion]) -> set[Target]:
        """The holds that forbid shredding these keys: on them, on what holds them, or on a part of what would go."""
        return {target for portion in portions for target in self._covering(portion)}

    def standing(self) -> dict[Target, datetime]:
        """What is held, each with the moment at which the latest order for it was signed."""
        return {target: max(hold.ordered_at for hold in holds) for target, holds in self._standing.items()}

    def _covering(self, portion: Portion) -> Iterable[Target]:
        if not self._standing:
            return
        around = [Target(OrderScope.ITEM, portion.item), Target(OrderScope.RELEASE, portion.release)]
        if portion.subject is not None:
            around.append(Target(OrderScope.SUBJECT, portion.subject))
        yield from (target for target in around if target in self._standing)
        for target in self._around.get(portion.item, ()):
            if target.face is None or portion.faces is None or target.face in portion.faces:
                yield target


def _items(target: Target, hold: Hold) -> Iterable[UUID]:
    return (target.id,) if target.scope is OrderScope.FACE else hold.items
