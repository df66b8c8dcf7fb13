"""What an hour costs: list prices of on-demand machines, which change; --price gives another."""

from typing import NamedTuple


class Price(NamedTuple):
    """usd: per hour of a TPU chip (two devices in v2 and v3) or of a GPU. as_of: month of the price list it is from."""

    usd: float
    as_of: str | None
    source: str


_GOOGLE = "cloud.google.com/tpu/pricing, on demand"
_LAMBDA = "lambda.ai/pricing, on demand"

PRICES = {
    "v2": Price(1.125, "2025-06", _GOOGLE),
    "v3": Price(2.00, "2025-06", _GOOGLE),
    "v4": Price(3.22, "2025-06", _GOOGLE),
    "v5e": Price(1.20, "2025-06", _GOOGLE),
    "v5p": Price(4.20, "2025-06", _GOOGLE),
    "v6e": Price(2.70, "2025-06", _GOOGLE),
    "a100": Price(1.79, "2025-06", _LAMBDA),
    "h100": Price(2.99, "2025-06", _LAMBDA),
}


def price_of(key: str, given: float | None) -> Price | None:
    """given: --price. None where there is no price: a laptop, or a machine that the table lacks."""
    return PRICES.get(key) if given is None else Price(given, None, "--price")
