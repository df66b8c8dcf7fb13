"""Settings of the cloud: file, environment, and what is wrong in them."""

from dataclasses import fields
from pathlib import Path

import pytest

from cloud import settings
from cloud.errors import CloudError
from cloud.settings import FILE, Settings, load_settings
from cloud.slice_types import slice_type
from jaxgpt.plan.machines import find_machine
from jaxgpt.plan.prices import PRICES

EXAMPLE = FILE.with_name("settings.env.example")


def load(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "settings.env"
    file.write_text(text)
    return load_settings({"JAXGPT_SETTINGS": str(file), **environment})


def test_the_example_has_every_setting_and_is_valid(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    names = [line.partition("=")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert sorted(names) == sorted(field.name.upper() for field in fields(Settings))
    found = load(tmp_path, text.replace("gs://MY-BUCKET", "gs://mine"))
    assert (found.zone, found.type, found.max_hours) == ("us-central1-a", "v3-8", "24")


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    found = load(tmp_path, "ZONE=us-central1-a  # a comment\nNAME='mine'\n", JAXGPT_ZONE="europe-west4-b")
    assert (found.zone, found.region, found.name) == ("europe-west4-b", "europe-west4", "mine")


@pytest.mark.parametrize("purchase", ["on-demand", "spot", "queued", "queued-spot"])
def test_the_ways_to_buy(tmp_path: Path, purchase: str) -> None:
    found = load(tmp_path, f"ZONE=us-central1-a\nPURCHASE={purchase}\n")
    assert (found.spot, found.queued) == ("spot" in purchase, "queued" in purchase)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NAME=x\n", "settings.env has no ZONE; cp cloud/settings.env.example"),
        ("ZONE=here\n", "ZONE is 'here'; give a zone as us-central1-a"),
        ("ZONE=us-central1-a\nNAME=My_Slice\n", "NAME is 'My_Slice'; give small letters"),
        ("ZONE=us-central1-a\nTYPE=v3-9\n", r"TYPE is v3-9, which is no slice; there are v2-8\|32.*v3-8\|32"),
        ("ZONE=us-central1-a\nPURCHASE=rent\n", "PURCHASE is 'rent'; give one of on-demand, spot"),
        ("ZONE=us-central1-a\nMAX_HOURS=0\n", "MAX_HOURS is '0'; give hours above 0"),
        ("ZONE=us-central1-a\nMAX_HOURS=nan\n", "MAX_HOURS is 'nan'"),
        ("ZONE=us-central1-a\nMAX_HOURS=inf\n", "MAX_HOURS is 'inf'"),
        ("ZONE=us-central1-a\nBUCKET=mine\n", "BUCKET is 'mine'; give gs://NAME"),
        ("ZONE=us-central1-a\nINTERNAL_IPS=maybe\n", "INTERNAL_IPS is 'maybe'"),
        ("ZONE=us-central1-a\nZONES=x\n", r"settings.env:2: ZONES is no setting; is ZONE meant\?"),
        ("ZONE=us-central1-a\nZONE=b\n", r"settings.env:2: ZONE stands there twice"),
        ("ZONE=us-central1-a\nTYPE\n", r"settings.env:2: 'TYPE' is no NAME=VALUE"),
        ("ZONE=us-central1-a\nNAME=a b\n", "settings.env:2: NAME has 2 words"),
        ("ZONE=us-central1-a\nNAME='a\n", "settings.env:2: .* is no value"),
        ("ZONE=us-central1-a\nWANDB_API_KEY=1\n", "settings.env:2: WANDB_API_KEY looks like a secret"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(CloudError, match=expected):
        load(tmp_path, text)


def test_a_file_of_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "settings.env"
    file.write_bytes("ZONE=us-central1-a\n# für uns\n".encode("latin-1"))
    with pytest.raises(CloudError, match=r"settings.env:2: 0xfc is not UTF-8; save the file as that"):
        load_settings({"JAXGPT_SETTINGS": str(file)})


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CloudError, match=r"JAXGPT_SETTINGS is .*/none.env, and there is no such file; cp cloud/sett"):
        load_settings({"JAXGPT_SETTINGS": str(tmp_path / "none.env"), "JAXGPT_ZONE": "us-central1-a"})
    monkeypatch.setattr(settings, "FILE", tmp_path / "settings.env")
    with pytest.raises(CloudError, match=r"settings.env is missing; cp cloud/settings.env.example cloud/settings.env"):
        load_settings({})
    assert load_settings({"JAXGPT_ZONE": "us-central1-a"}).zone == "us-central1-a"


@pytest.mark.parametrize(
    ("name", "topology", "devices", "chips", "hosts"),
    [
        ("v2-8", "v2:2x2", 8, 4, 1),
        ("v3-8", "v3:2x2", 8, 4, 1),
        ("v3-128", "v3:8x8", 128, 64, 16),
        ("v4-32", "v4:2x2x4", 16, 16, 4),
        ("v5p-8", "v5p:2x2x1", 4, 4, 1),
        ("v5litepod-1", "v5e:1x1", 1, 1, 1),
        ("v5litepod-8", "v5e:2x4", 8, 8, 1),
        ("v5litepod-16", "v5e:4x4", 16, 16, 4),
        ("v6e-64", "v6e:8x8", 64, 64, 16),
    ],
)
def test_slices_are_those_of_the_plan(name: str, topology: str, devices: int, chips: int, hosts: int) -> None:
    found = slice_type(name)
    assert (found.topology, found.n_devices, found.n_chips, found.n_hosts) == (topology, devices, chips, hosts)
    machine = find_machine(topology)
    assert (machine.n_devices, machine.n_units, machine.price_key) == (devices, chips, found.price_key)
    assert found.price_key in PRICES
