"""Where Cloud Storage's locations are, by the table of its documentation."""

import pytest

from jaxgpt.data.regions import is_around, is_in


@pytest.mark.parametrize(
    ("region", "location", "named", "where"),
    [
        ("us-central1", "US-CENTRAL1", (), "in"),
        ("us-central1", "us-east1", (), "elsewhere"),
        ("us-central1", "NAM4", (), "in"),
        ("us-east1", "nam4", (), "in"),
        ("us-west1", "NAM4", (), "elsewhere"),
        ("europe-west4", "EUR4", (), "in"),
        ("europe-west1", "EUR4", (), "elsewhere"),
        ("asia-northeast1", "ASIA1", (), "in"),
        ("us-west1", "US", ("US-EAST1", "US-WEST1"), "in"),
        ("us-central1", "US", ("US-EAST1", "US-WEST1"), "elsewhere"),
        ("us-central1", "US", (), "around"),
        ("europe-west4", "EU", (), "around"),
        ("europe-west2", "EU", (), "elsewhere"),  # London
        ("europe-west6", "eu", (), "elsewhere"),  # Zurich
        ("asia-east1", "ASIA", (), "around"),
        ("australia-southeast1", "ASIA", (), "elsewhere"),
    ],
)
def test_a_region_and_a_location(region: str, location: str, named: tuple[str, ...], where: str) -> None:
    found = (is_in(region, location, named), is_around(region, location, named))
    assert found == (where == "in", where == "around")
