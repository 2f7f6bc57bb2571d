"""What tests end with that left a life half lived: the notary signs, and a whole verification finds nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.governance import World
from tests.workers.audit.conftest import anchors, signer
from tests.workers.audit.harness import new_notary, verified
from workers.audit.ledgered import check_ledger
from workers.custody.roster import load_roster

__all__ = ["anchors", "nothing_found", "signer"]


@pytest.fixture
def nothing_found(request: pytest.FixtureRequest, world: World) -> Callable[[], None]:
    """Whatever `refacex audit verify` holds against the trail agrees with it: tables, signatures, roster and ledger."""

    def check() -> None:
        # Made here: the identity that they take from the environment is none for the processes that a test starts before.
        anchored, key = request.getfixturevalue("anchors"), request.getfixturevalue("signer")
        assert new_notary(world.database, anchored, key).anchor() is not None
        pinned = load_roster(world.roster)
        result = verified(world.database, anchored, key, pinned, world.custodian_keys())
        with world.as_("gateway")() as session:
            check_ledger(session, world.ledger, result)
        assert result.anchored_to > 0
        assert result.findings == []

    return check
