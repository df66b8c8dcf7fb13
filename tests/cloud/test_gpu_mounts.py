"""What cloud/gpu run shows to the container, and refuses because it would be lost there."""

from pathlib import Path

import pytest

from cloud.gpu_command import main

CONFIG = str(Path(__file__).parents[2] / "configs" / "gpt2_small.yaml")


@pytest.fixture(autouse=True)
def _account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, and without Docker, so that what comes before it is what is said."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "home"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


def test_a_key_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "none.json")
    assert main(["run", "--config", CONFIG]) == 2
    assert "GOOGLE_APPLICATION_CREDENTIALS is none.json, and there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (["--output", "/tmp/mine"], "output is /tmp/mine"),
        (["--output=/tmp/mine"], "output is /tmp/mine"),
        (["--output", "mine"], "output is mine"),
        (["--output", "runs/../mine"], "output is runs/../mine"),
        (["--output", "/jaxgpt/runs2/x"], "output is /jaxgpt/runs2/x"),
        (["--data.path", "../pages"], "data.path is ../pages"),
        (["--init_from", "~/model"], "init_from is ~/model"),
        (["--output", "/big/mine"], "output is /big/mine"),
        (["--output", "/big/mine", "--volume", "BIG:/big"], ""),
        (["--output", "/big/mine", "--volume", "BIG:/bigger"], "output is /big/mine"),
        (["--output", "runs/x", "--data.path", "gs://mine/pages", "--init_from", "gpt2"], ""),
        (["--output", "/jaxgpt/runs/x", "--data.path", "data/x"], ""),
    ],
)
def test_a_path_that_the_container_would_not_see(
    options: list[str], refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [option.replace("BIG", str(tmp_path)) for option in options]
    assert main(["run", "--config", CONFIG, *arguments, "--dry-run"]) == (2 if refused else 0)
    error = capsys.readouterr().err
    assert (f"error: {refused}, which is nothing of this machine in the container" in error) == bool(refused)
    assert ("--volume HERE:THERE" in error) == bool(refused)


def test_paths_of_the_configuration_count_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("output: runs/x\ndata:\n  path: '/pages'  # here\n")
    assert main(["run", "--config", str(config), "--dry-run"]) == 2
    assert "error: path is /pages, which" in capsys.readouterr().err
    assert main(["run", "--config", str(config), "--data.path", "data/x", "--dry-run"]) == 0
    config.write_text("output: mine\n")
    assert main(["run", "--config", str(config), "--dry-run"]) == 2
    assert "error: output is mine, which" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ("none:/none", "--volume is none:/none, and there is no none here"),
        ("/tmp", "--volume is /tmp; give HERE:THERE"),
        ("/tmp:there", "--volume is /tmp:there; give HERE:THERE"),
    ],
)
def test_wrong_volumes(volume: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", CONFIG, "--volume", volume]) == 2
    assert message in capsys.readouterr().err
