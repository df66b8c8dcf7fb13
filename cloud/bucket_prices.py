"""What a bucket costs: list prices of Cloud Storage's standard class, which change."""

AS_OF = "2025-06"  # month of the price list: cloud.google.com/storage/pricing
ACROSS_REGIONS_USD = 0.02  # at least, of a GiB that is read from another region of the continent, or a multi-region
_GIB = 1 << 30
# USD per GiB and month, where there are TPUs.
_STANDARD_USD = {
    "asia-east1": 0.020,
    "asia-northeast1": 0.023,
    "asia-southeast1": 0.020,
    "europe-west1": 0.020,
    "europe-west4": 0.020,
    "us-central1": 0.020,
    "us-east1": 0.020,
    "us-east4": 0.023,
    "us-east5": 0.020,
    "us-south1": 0.020,
    "us-west1": 0.020,
    "us-west4": 0.023,
    "asia": 0.026,
    "eu": 0.026,
    "us": 0.026,
}


def monthly_cost(n_bytes: float, location: str) -> str:
    """In words, with the price that it is from. location: of the bucket, in any case of letters."""
    price = _STANDARD_USD.get(location.lower())
    if price is None:
        return f"an unknown sum a month: the price list of {AS_OF} here lacks {location.lower()}"
    usd = n_bytes / _GIB * price
    return f"about ${usd:,.2f} a month (standard class, ${price:.3f} per GiB and month, list price of {AS_OF})"


def as_size(n_bytes: float) -> str:
    """In the unit that fits: 12.3 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} bytes" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"
