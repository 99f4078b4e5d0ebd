"""A naive point-in-time join: for every sample, look at every feature row."""

from datetime import date


def newest_before(key: str | None, day: date, features: list[tuple[str, date]]) -> date | None:
    """The newest feature day of the key that is not after `day`."""
    days = [feature_day for feature_key, feature_day in features if feature_key == key and feature_day <= day]
    return max(days, default=None)
