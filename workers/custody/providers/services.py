"""Key services: providers whose custody keys lie elsewhere, each a file in this package, found by its name.

Such a file has a class `Service` as `kms.py` has. Its `suite` is what rows are marked with and what `refacex keys rotate --to` takes;
whatever settings it needs it may read itself. Nothing else of the product knows of it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from workers.custody import providers
from workers.custody.providers import Sealer, Unwrapper
from workers.settings import CustodianSettings, ReleaseSettings

_OURS = {"sealers", "unwrappers", "services"}


class Service(Protocol):
    """What a provider's file has under this name. Each method gives None or nothing where the settings name no key of it."""

    suite: str

    def sealer(self, settings: ReleaseSettings) -> Sealer | None:
        """What a release worker seals with."""
        ...

    def unwrapper(self, settings: CustodianSettings) -> Unwrapper | None:
        """What the custodian unwraps with."""
        ...

    def custody_keys(self, settings: CustodianSettings) -> list[str]:
        """The ids, as rows have them, of the keys that are unwrapped; a rotation goes to the first."""
        ...

    def target(self, settings: CustodianSettings) -> Sealer | None:
        """What a rotation seals with, to the first of them."""
        ...


@dataclass(frozen=True)
class Held:
    """The custody keys of one service that this custodian holds; `sealer` seals to the first."""

    suite: str
    keys: list[str]
    sealer: Sealer


def services() -> list[Service]:
    """Every service that there is a file for, by name."""
    names = sorted(each.name for each in pkgutil.iter_modules(providers.__path__) if each.name not in _OURS)
    found: list[Service] = [import_module(f"{providers.__name__}.{name}").Service() for name in names]
    return found


def held(settings: CustodianSettings, among: Iterable[Service] | None = None) -> list[Held]:
    """What the settings of a custodian name of them."""
    known = services() if among is None else among
    targets = ((each, each.target(settings)) for each in known)
    return [Held(each.suite, each.custody_keys(settings), target) for each, target in targets if target is not None]
