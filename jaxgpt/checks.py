"""Checks of options, each of which names the option, its value and what it may be."""

from jaxgpt.errors import UserError


def require(good: bool, message: str) -> None:
    if not good:
        raise UserError(message)


def positive(section: str, **values: float) -> None:
    for name, value in values.items():
        require(value > 0, f"{section}.{name} is {value}; it must be above 0")


def not_negative(section: str, **values: float) -> None:
    for name, value in values.items():
        require(value >= 0, f"{section}.{name} is {value}; it must be 0 or more")


def probability(section: str, **values: float) -> None:
    for name, value in values.items():
        require(0 <= value < 1, f"{section}.{name} is {value}; it must lie in [0, 1)")
