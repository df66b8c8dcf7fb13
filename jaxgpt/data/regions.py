"""Which regions a bucket's location has: Cloud Storage's dual-regions and multi-regions."""

from collections.abc import Iterable

# The predefined ones; of others the bucket itself names the two. Source: cloud.google.com/storage/docs/locations.
_DUAL_REGIONS = {
    "asia1": ("asia-northeast1", "asia-northeast2"),
    "eur4": ("europe-north1", "europe-west4"),
    "nam4": ("us-central1", "us-east1"),
}
_MULTI_REGIONS = {"us": "us-", "eu": "europe-", "asia": "asia-"}  # how the names of their regions begin
_NOT_IN_EU = ("europe-west2", "europe-west6")  # London and Zurich


def is_in(region: str, location: str, named: Iterable[str] = ()) -> bool:
    """Whether the location is the region, or a dual-region with it. named: the regions that the bucket names itself."""
    return region.lower() in (location.lower(), *_pair(location, named))


def is_around(region: str, location: str, named: Iterable[str] = ()) -> bool:
    """Whether the location is a multi-region that contains the region, from which reading costs all the same."""
    begin = _MULTI_REGIONS.get(location.lower())
    # The location of a dual-region may be a multi-region's name, but it is only in its own two regions.
    if begin is None or _pair(location, named):
        return False
    return region.lower().startswith(begin) and not (begin == "europe-" and region.lower() in _NOT_IN_EU)


def _pair(location: str, named: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.lower() for name in named) or _DUAL_REGIONS.get(location.lower(), ())
