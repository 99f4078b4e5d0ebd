"""Gives the tests of the Spark side a session."""

from tests.builders.contexts import spark  # noqa: F401 - a fixture
