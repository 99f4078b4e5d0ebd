"""The HTML pages' templates, and the formats of their numbers."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str) -> Template:
    """A template of this package, which may include others of it."""
    loader = PackageLoader("learn_spark.evaluation", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "plain": plain, "signed": signed}
    return environment.get_template(name)


def number(value: float | None, digits: int = 3) -> str:
    """1,234 for integers, 0.123 for floats, – for None."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if isinstance(value, float) else f"{value:,}"


def plain(value: float | None) -> str:
    """As `number`, but without decimals if the value is whole."""
    return number(int(value) if value is not None and float(value).is_integer() else value)


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")
