"""Real engines without Docker or root: Valkey, PostgreSQL and SeaweedFS from wheels, each replaceable by a URL."""

from gateway.engines.errors import EngineError
from gateway.engines.external import External
from gateway.engines.seaweed import REGION, S3Identity
from gateway.engines.supervisor import NAMES, Engines, EngineUrls

__all__ = ["NAMES", "REGION", "EngineError", "EngineUrls", "Engines", "External", "S3Identity"]
