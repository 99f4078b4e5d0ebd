"""Fixtures for whole runs: a session for commands that run in this process, and copies of a finished lake."""

from tests.builders.contexts import spark  # noqa: F401 - a fixture
from tests.builders.journey import finished  # noqa: F401 - a fixture
