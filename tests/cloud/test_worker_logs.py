"""cloud/bucket worker-logs: what is stored of TPU workers' logs, whatever somebody did to our exclusion."""

from pathlib import Path
from typing import Any

import pytest
from bucket_world import Cloud

from cloud.bucket_command import main


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return Cloud(tmp_path, monkeypatch)


def test_the_logs_of_workers(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    others = {"name": "mine", "filter": "a=b"}
    cloud.change(exclusions=[others])
    for state, said in (("show", "are on, and cost"), ("off", "are not stored"), ("off", "are off already")):
        assert main(["worker-logs", state]) == 0
        assert said in capsys.readouterr().out
    assert [one["filter"] for one in cloud["exclusions"]] == ["a=b", 'resource.type="tpu_worker"']
    for state, said in (("show", "are off"), ("on", "are stored and cost $0.50 per GiB"), ("on", "are on already")):
        assert main(["worker-logs", state]) == 0
        assert said in capsys.readouterr().out
    assert cloud["exclusions"] == [others]
    assert len(cloud.calls("logging sinks update")) == 2


OURS = {"name": "jaxgpt-tpu-workers", "filter": 'resource.type="tpu_worker"'}


@pytest.mark.parametrize("changes", [{"disabled": True}, {"filter": 'resource.type="other"'}, {"filter": ""}])
def test_an_exclusion_that_somebody_changed(
    cloud: Cloud, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    others = {"name": "mine", "filter": "a=b"}
    for state, said in (("show", "are on, and cost"), ("off", "are not stored"), ("on", "are stored and cost")):
        cloud.change(exclusions=[others, {**OURS, **changes}])
        assert main(["worker-logs", state]) == 0
        assert said in capsys.readouterr().out
        if state == "off":
            assert main(["worker-logs", "show"]) == 0
            assert "are off" in capsys.readouterr().out
            off = {name: cloud["exclusions"][1][name] for name in ("name", "filter", "disabled")}
            assert off == {**OURS, "disabled": False}
    assert cloud["exclusions"] == [others]


def test_a_failure_of_logging_is_not_a_slices(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.change(faults={"logging sinks update": "ALREADY_EXISTS: Exclusion x already exists. Quota"})
    assert main(["worker-logs", "off"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(
        "ended with 1: (gcloud.logging.sinks.update) ALREADY_EXISTS: Exclusion x already exists. Quota"
    )
