"""The tests of the Spark side have a session."""

from tests.builders.contexts import spark  # noqa: F401 - a fixture
