"""Secrets on a command line are refused, in whatever form, and ordinary options are not."""

from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

import pytest

from cloud.errors import CloudError
from cloud.passed_on import refuse_secrets
from jaxgpt.config import Config

SECRETS = (
    (["-e", "WANDB_API_KEY=hush"], "WANDB_API_KEY"),
    (["-eHF_TOKEN=hush"], "-eHF_TOKEN"),
    (["--env", "WANDB_API_KEY=hush"], "WANDB_API_KEY"),
    (["--env=WANDB_API_KEY=hush"], "WANDB_API_KEY"),
    (["--seed", "3", "WANDB_API_KEY=hush"], "WANDB_API_KEY"),
    (["--log.wandb.api-key", "hush"], "--log.wandb.api-key"),
    (["--log.wandb.apikey=hush"], "--log.wandb.apikey"),
    (["--wandb_key", "hush"], "--wandb_key"),
    (["--log.wandb", "{api_key:hush}"], "api_key"),
    (["--log.wandb", '{mode: online, "API-KEY": hush}'], "API-KEY"),
    (['--log.wandb={"token": "hush"}'], "token"),
    (["--hf_token", "hush"], "--hf_token"),
    (["-token", "hush"], "-token"),
    (["--db.password=hush"], "--db.password"),
    (["AWS_SECRET=hush"], "AWS_SECRET"),
    (["aws_secret_access_key=hush"], "aws_secret_access_key"),
)
ORDINARY = (
    ["--env", "WANDB_API_KEY"],
    ["--env=WANDB_API_KEY"],
    ["--model.tokenizer", "gpt2"],
    ["--data.path", "/data/token=5/keys", "--data.path=gs://mine/tokens"],
    ["--checkpoint.keep_last=3", "--checkpoint.keep_best", "true"],
    ["--eval.sample_tokens", "64", "--model.use_token_types=true"],
    ["--eval.sample_prompt", "The key: love", "--eval.sample_prompt=A secret: none"],
    ["--log.wandb", "{mode: online, project: monkey}", "--log.wandb.entity=keynote"],
)


@pytest.mark.parametrize(("options", "name"), SECRETS, ids=[" ".join(options) for options, _ in SECRETS])
def test_a_secret_is_refused_and_not_repeated(options: list[str], name: str) -> None:
    with pytest.raises(CloudError) as caught:
        refuse_secrets(options)
    assert str(caught.value).startswith(f"{name} looks like a secret, which a command line shows to everybody; put it")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("options", ORDINARY, ids=" ".join)
def test_ordinary_options_pass(options: list[str]) -> None:
    refuse_secrets(options)


def test_no_option_of_the_training_looks_like_a_secret() -> None:
    def names(kind: type, prefix: str) -> list[str]:
        hints = get_type_hints(kind)
        found = []
        for field in fields(kind):
            nested = next((one for one in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(one)), None)
            found += names(nested, f"{prefix}{field.name}.") if nested else [f"{prefix}{field.name}"]
        return found

    options = names(Config, "--")
    assert "--eval.sample_tokens" in options
    assert len(options) > 50
    refuse_secrets(options)
    refuse_secrets(f"{option}=1" for option in options)
