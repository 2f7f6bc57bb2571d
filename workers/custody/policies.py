"""The policies as the custodian knows them: a file outside Postgres, so that nobody who can write to the database can lower
a bar.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.policies import DEFAULT_POLICY, Policy
from workers.custody import pinned
from workers.custody.errors import PoliciesInvalid, PoliciesLoose, PoliciesMissing

FORMAT = "refacex-policies"
VERSION = 1


@dataclass(frozen=True)
class PolicyBook:
    """Every policy by tenant and name. The name `default` stands for the defaults where nobody set it. `sha256`: of the file
    that they were read from, in hex.
    """

    policies: dict[tuple[str, str], Policy]
    sha256: str = field(default="", compare=False)

    def find(self, tenant: str, name: str) -> Policy | None:
        """The policy of that name, if there is one."""
        return self.policies.get((tenant, name)) or (Policy(tenant) if name == DEFAULT_POLICY else None)


def load_policies(path: Path) -> PolicyBook:
    """Reads the policies. Raises PoliciesMissing where there is no file; PoliciesInvalid where it is damaged, or holds one that is
    not allowed; PoliciesLoose where others may write it.
    """
    try:
        book, sha256 = pinned.read(path, FORMAT, VERSION)
        bodies = book["policies"]
        found = [_policy(body, number) for number, body in enumerate(bodies, start=1)]
    except pinned.Loose as error:
        raise PoliciesLoose(str(error)) from error
    except json.JSONDecodeError as error:
        raise PoliciesInvalid(f"{path}: it is no JSON at line {error.lineno}, column {error.colno}") from error
    except FileNotFoundError as error:
        raise PoliciesMissing(str(path)) from error
    except OSError as error:
        raise PoliciesInvalid(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise PoliciesInvalid(f"{path}: policies is a list of objects, one a policy") from error
    except ValueError as error:
        raise PoliciesInvalid(f"{path}: {error}") from error
    return PolicyBook({(policy.tenant, policy.name): policy for policy in found}, sha256)


def _policy(body: dict[str, Any], number: int) -> Policy:
    try:
        return Policy.of(body)
    except ValueError as error:
        raise ValueError(f"policy {number}: {error}") from error


def write_policies(path: Path, policies: Iterable[Policy]) -> None:
    """Writes the policies in one step, mode 0600."""
    ordered = sorted(policies, key=lambda policy: (policy.tenant, policy.name))
    pinned.write(path, FORMAT, VERSION, {"policies": [policy.body() for policy in ordered]})


def set_policy(path: Path, policy: Policy) -> None:
    """Puts one policy in the place of the one of its name. Raises as `load_policies` does: none is begun by the way."""
    known = load_policies(path).policies
    write_policies(path, (known | {(policy.tenant, policy.name): policy}).values())
