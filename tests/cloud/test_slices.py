"""Slices come and go through a stand-in for gcloud, with its states and failures."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from gcloud_stand_in import World

from cloud import slices, tpu_command

Fails = Callable[..., str]


def between_looks(monkeypatch: pytest.MonkeyPatch, change: Callable[[float], object]) -> None:
    """Does this in each of the pauses in which the cloud is waited for, and waits no longer."""
    sleep = time.sleep

    def pause(seconds: float) -> None:
        if seconds == slices._SECONDS_BETWEEN_LOOKS:
            change(seconds)
        else:  # of whatever else waits, such as for a process
            sleep(seconds)

    monkeypatch.setattr(slices, "_SECONDS_BETWEEN_LOOKS", 20.0)
    monkeypatch.setattr(slices.time, "sleep", pause)


def create(*options: str) -> int:
    return tpu_command.main(["create", *options])


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """The one sentence with which a command ends."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert tpu_command.main(list(arguments)) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("error: ")
        return said[-1]

    return run


def test_create_and_delete_and_both_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == create("--max-hours", "2") == 0
    said = capsys.readouterr().out
    assert said.startswith("jaxgpt: v3-32, 4 hosts, about $32.00 at $32.00 an hour\n")
    assert re.search(r"deletes itself at \d{4}-.*, at most about \$768.00 at \$32.00 an hour\n", said)
    assert said.count("READY; up 0.0 h") == 2
    assert said.endswith("hours of a slice that is there can't be changed\n")
    (made,) = world.calls("tpu-vm create")
    for part in ("--zone=us-central1-a", "--accelerator-type=v3-32", "--version=tpu-ubuntu2204-base", "--quiet"):
        assert part in made.split()
    assert "--metadata=jaxgpt-name=jaxgpt,jaxgpt-hours=24" in made.split()
    assert re.search(r"--metadata-from-file=startup-script=\S+/cloud/guard.py ", made)
    assert "--spot" not in made
    assert tpu_command.main(["delete"]) == 0
    assert "jaxgpt is deleted; it costs nothing any more" in capsys.readouterr().out
    assert tpu_command.main(["delete"]) == 0
    assert "there is no jaxgpt in us-central1-a; gcloud compute tpus tpu-vm list --zone=-" in capsys.readouterr().out
    assert len(world.calls("tpu-vm delete")) == 1


def test_all_settings_reach_gcloud(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PURCHASE", "spot"),
        ("RUNTIME", "own-runtime"),
        ("NETWORK", "net"),
        ("SUBNETWORK", "subnet"),
        ("SERVICE_ACCOUNT", "me@my-project.iam.gserviceaccount.com"),
        ("INTERNAL_IPS", "yes"),
    ):
        monkeypatch.setenv(f"JAXGPT_{name}", value)
    assert create("--max-hours", "0.5") == 0
    (made,) = world.calls("tpu-vm create")
    for part in (
        "--spot",
        "--version=own-runtime",
        "--network=net",
        "--subnetwork=subnet",
        "--service-account=me@my-project.iam.gserviceaccount.com",
        "--internal-ips",
        "--project=my-project",
    ):
        assert part in made.split()
    assert tpu_command.main(["status"]) == 0
    assert all("--internal-ip" in call.split() for call in world.calls(" ssh "))


def test_a_queued_slice_is_waited_for_and_leaves_no_place_behind(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slices, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setenv("JAXGPT_PURCHASE", "queued-spot")
    assert create() == 0
    said = capsys.readouterr().out
    assert re.search(r"is WAITING_FOR_RESOURCES\n.*is PROVISIONING\n", said)
    (made,) = world.calls("queued-resources create")
    assert {"--node-id=jaxgpt", "--runtime-version=tpu-ubuntu2204-base", "--spot"} <= set(made.split())
    with world.state() as state:
        assert state["nodes"]["jaxgpt"]["state"] == "READY"
    assert tpu_command.main(["delete"]) == 0
    with world.state() as state:
        assert not state["nodes"]
        assert not state["requests"]


def test_a_queued_slice_that_was_taken_away_waits_in_line_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setenv("JAXGPT_PURCHASE", "queued-spot")
    assert create() == 0
    with world.state() as state:
        state["requests"]["jaxgpt"]["state"]["state"] = "SUSPENDED"
        del state["nodes"]["jaxgpt"]
    world.folder.joinpath("hosts", "jaxgpt").rename(world.folder / "gone")
    assert create() == 0
    assert len(world.calls("queued-resources create")) == 2


def test_a_slice_that_was_taken_away_is_made_anew(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert create() == 0
    world.preempt()
    assert tpu_command.main(["setup"]) == 2
    assert "the slice jaxgpt is PREEMPTED; cloud/tpu create makes it" in capsys.readouterr().err
    assert create() == 0
    assert "jaxgpt is PREEMPTED; it is made anew" in capsys.readouterr().out
    with world.state() as state:
        assert state["nodes"]["jaxgpt"]["state"] == "READY"


def test_a_slice_on_its_way_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create() == 0
    with world.state() as state:
        state["nodes"]["jaxgpt"]["state"] = "CREATING"

    def arrives(seconds: float) -> None:
        with world.state() as state:
            state["nodes"]["jaxgpt"]["state"] = "READY"

    between_looks(monkeypatch, arrives)
    assert create() == 0
    assert len(world.calls("tpu-vm create")) == 1


def test_a_stopped_slice_keeps_its_disks(world: World, fails: Fails) -> None:
    assert create() == 0
    with world.state() as state:
        state["nodes"]["jaxgpt"]["state"] = "STOPPED"
    said = fails("create")
    assert "jaxgpt is STOPPED, and its disks are there; gcloud compute tpus tpu-vm start jaxgpt --zone=us-cen" in said
    assert not world.calls("tpu-vm delete")


def test_a_place_in_line_that_somebody_gives_up_is_not_taken_again(
    world: World, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXGPT_PURCHASE", "queued")

    def give_up(seconds: float) -> None:
        with world.state() as state:
            state["requests"].clear()

    between_looks(monkeypatch, give_up)
    assert "the place of jaxgpt in the queue was deleted meanwhile" in fails("create")
    assert len(world.calls("queued-resources create")) == 1


def test_another_type_under_the_name_is_named(world: World, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create() == 0
    monkeypatch.setenv("JAXGPT_TYPE", "v3-8")
    assert "jaxgpt is there, but as v3-32, and TYPE is v3-8; cloud/tpu delete it" in fails("create")


CREATE = "ERROR: (gcloud.compute.tpus.tpu-vm.create) "
FAILURES = [
    (
        'There is no more capacity in the zone "us-central1-a"; you can try in another zone where Cloud TPU Nodes are '
        "offered (see https://cloud.google.com/tpu/docs/regions) [EID: 0x1]",
        "us-central1-a has no v3-32 left just now; try another ZONE, PURCHASE=queued, which waits in line",
    ),
    (
        "RESOURCE_EXHAUSTED: Quota 'TPUV3PreemptiblePodPerProjectPerZoneForTPUAPI' exhausted. Limit 0 in zone "
        "us-central1-a",
        "your project has no quota for v3-32 in us-central1-a; ask for it at",
    ),
    (
        "PERMISSION_DENIED: Permission denied on 'locations/us-central1-a' (or it may not exist).",
        "there are no TPUs in the zone us-central1-a; gcloud compute tpus locations list",
    ),
    (
        "PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before or it is disabled.",
        "your account may not do this in this project",
    ),
    ("You do not currently have an active account selected.", "nobody is logged in; gcloud auth login"),
    (
        "The required property [project] is not currently set.",
        "no project is set; put PROJECT=… into cloud/settings.env",
    ),
    (
        "INVALID_ARGUMENT: Accelerator type v3-32 not found in zone us-central1-a",
        "us-central1-a has no slices of the type v3-32; gcloud compute tpus accelerator-types list --zone us-central1",
    ),
    ("ALREADY_EXISTS: Resource 'x' already exists.", "something in us-central1-a has the name jaxgpt already"),
    ("INTERNAL: nobody has seen this before", "tpu-vm create jaxgpt .* ended with 1: .*nobody has seen this before"),
]


@pytest.mark.parametrize(("said", "expected"), FAILURES)
def test_failures_of_the_cloud_are_explained(world: World, fails: Fails, said: str, expected: str) -> None:
    world.fail("tpu-vm create", CREATE + said)
    found = fails("create")
    assert re.search(expected, found)
    assert said in found
    assert create() == 0  # nothing is left of it


def test_without_gcloud_its_home_is_named(world: World, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "gcloud is not installed; https://cloud.google.com/sdk/docs/install" in fails("create")


QUEUED = "JAXGPT_PURCHASE", "queued-spot"


def in_the_queue(world: World, state: dict[str, Any] | None, node: str | None = None) -> Callable[[float], None]:
    """A pause in which the cloud makes this of a request and of its slice."""

    def change(seconds: float) -> None:
        with world.state() as known:
            if state is None:
                known["requests"].clear()
            else:
                known["requests"]["jaxgpt"]["state"] = state
            if node:
                known["nodes"]["jaxgpt"]["state"] = node
            else:
                known["nodes"].pop("jaxgpt", None)

    return change


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            {"state": "FAILED", "failedData": {"error": {"code": 8, "message": "Quota exceeded for TPUV3"}}},
            "your project has no quota for v3-32 in us-central1-a; .*Quota exceeded for TPUV3",
        ),
        ({"state": "FAILED"}, "the request FAILED, and no reason is given"),
        ({"state": "SUSPENDED", "stateInitiator": "SERVICE"}, "the request for jaxgpt became SUSPENDED; try again"),
        ({"state": "SUSPENDED", "stateInitiator": "USER"}, "the place of jaxgpt in the queue is SUSPENDED: somebody"),
        ({"state": "DELETING"}, "the place of jaxgpt in the queue is DELETING: somebody gave it up"),
    ],
)
def test_a_request_that_comes_to_nothing_says_why(
    world: World, fails: Fails, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], expected: str
) -> None:
    monkeypatch.setenv(*QUEUED)
    between_looks(monkeypatch, in_the_queue(world, state))
    assert re.search(expected, fails("create"))


def test_a_place_in_the_queue_is_seen_and_ctrl_c_names_what_it_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv(*QUEUED)
    between_looks(monkeypatch, interrupt)
    assert create() == 130
    assert "what was asked for may still come, and cost; cloud/tpu delete ends its cost" in capsys.readouterr().out
    assert tpu_command.main(["status"]) == 1
    assert re.search(r"its place in the queue is \w+; cloud/tpu delete gives it up", capsys.readouterr().out)


def test_a_slice_that_is_being_deleted_is_waited_for_and_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert create() == 0
    with world.state() as state:
        state["nodes"]["jaxgpt"]["state"] = "DELETING"
    assert tpu_command.main(["setup"]) == 2
    assert "the slice jaxgpt is DELETING" in capsys.readouterr().err
    assert tpu_command.main(["delete"]) == 0
    assert not world.calls("tpu-vm delete")  # it goes already

    def goes(seconds: float) -> None:
        with world.state() as state:
            state["nodes"].clear()
        (world.folder / "hosts" / "jaxgpt").rename(world.folder / "gone")

    between_looks(monkeypatch, goes)
    assert create() == 0
    assert len(world.calls("tpu-vm create")) == 2


def test_a_queued_slice_that_the_cloud_takes_while_it_starts_is_no_deletion(
    world: World, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*QUEUED)
    monkeypatch.setattr(slices, "_SECONDS_BETWEEN_LOOKS", 0.0)
    assert create() == 0
    with world.state() as state:
        state["nodes"]["jaxgpt"]["state"] = "CREATING"
    between_looks(monkeypatch, in_the_queue(world, {"state": "SUSPENDED"}))
    assert "the request for jaxgpt became SUSPENDED; try again" in fails("create")


def test_a_request_that_is_active_is_no_slice_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*QUEUED)
    monkeypatch.setattr(slices, "_SECONDS_BETWEEN_LOOKS", 0.0)
    assert create() == 0
    with world.state() as state:
        node = state["nodes"].pop("jaxgpt")
        state["requests"]["jaxgpt"]["late"] = True
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            with world.state() as state:
                state["nodes"]["jaxgpt"] = node

    between_looks(monkeypatch, look)
    assert create() == 0
    assert len(looks) == 3
