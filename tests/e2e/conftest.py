"""Whole runs have a session for the commands that are no process of their own, and copies of a finished lake."""

from tests.builders.contexts import spark  # noqa: F401 - a fixture
from tests.builders.journey import finished  # noqa: F401 - a fixture
