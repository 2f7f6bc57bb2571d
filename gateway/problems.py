"""The errors that a person at the command line is told in one line; anything else is a fault of ours and shows its trace."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError
from psycopg import OperationalError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway.engines import EngineError
from workers.errors import WorkerError

PROBLEMS = (EngineError, WorkerError, OperationalError, SQLAlchemyError, RedisError, BotoCoreError, ClientError)
