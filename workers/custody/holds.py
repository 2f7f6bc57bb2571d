"""What orders are about, and which holds forbid them: faces lie in items, items in releases and with subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from schemas.orders import OrderTerms
from schemas.states import OrderScope
from schemas.tables import CustodyOrder


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


@dataclass
class Holds:
    """The holds that stand, each with the moment at which the latest order for it was signed."""

    _standing: dict[Target, datetime] = field(default_factory=dict)
    _faces: dict[UUID, set[Target]] = field(default_factory=lambda: defaultdict(set))

    def put(self, target: Target, ordered_at: datetime) -> None:
        """Holds the target."""
        self._standing[target] = max(ordered_at, self._standing.get(target, ordered_at))
        if target.scope is OrderScope.FACE:
            self._faces[target.id].add(target)

    def lift(self, target: Target, ordered_at: datetime) -> bool:
        """Lifts what was held before that moment, on just this target; False where nothing was.

        An old order to lift that somebody brings back cannot lift a hold that was ordered after it.
        """
        standing = self._standing.get(target)
        if standing is None or standing > ordered_at:
            return False
        del self._standing[target]
        self._faces[target.id].discard(target)
        return True

    def covering(self, portions: Iterable[Portion]) -> set[Target]:
        """The holds that forbid shredding these keys: on them, on what holds them, or on a part of what would go."""
        return {target for portion in portions for target in self._covering(portion)}

    def standing(self) -> dict[Target, datetime]:
        """Every hold."""
        return dict(self._standing)

    def _covering(self, portion: Portion) -> Iterable[Target]:
        if not self._standing:
            return
        around = [Target(OrderScope.ITEM, portion.item), Target(OrderScope.RELEASE, portion.release)]
        if portion.subject is not None:
            around.append(Target(OrderScope.SUBJECT, portion.subject))
        yield from (target for target in around if target in self._standing)
        for target in self._faces.get(portion.item, ()):
            if portion.faces is None or target.face in portion.faces:
                yield target
