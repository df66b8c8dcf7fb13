"""What gcloud says, in the words of somebody who wants to go on."""

import pytest

from cloud.errors import CloudError, NoCapacityError
from cloud.gcloud import explained
from cloud.settings import Settings

SETTINGS = Settings(zone="us-central1-a", name="mine", type="v3-8")


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        (
            'ERROR: (gcloud.x) RESOURCE_EXHAUSTED: There is no more capacity in the zone "us-central1-a"',
            NoCapacityError,
            "us-central1-a has no v3-8 left just now; try another ZONE",
        ),
        (
            "ERROR: (gcloud.x) RESOURCE_EXHAUSTED: Quota limit 'TPUV3PerProjectPerZone' has been exceeded.",
            CloudError,
            "your project has no quota for v3-8 in us-central1-a; ask for it at",
        ),
        ("ALREADY_EXISTS: Resource 'x'", CloudError, "something in us-central1-a has the name mine already"),
        ("a text that nobody knows", CloudError, "a text that nobody knows"),
        ("", CloudError, "it did not say why"),
    ],
)
def test_a_failure_of_a_slice(said: str, kind: type[CloudError], told: str) -> None:
    error = explained(said, SETTINGS)
    assert type(error) is kind
    assert str(error).startswith(told)
    assert said.removeprefix("ERROR: ") in str(error)
