"""Secrets reach a training through the environment alone: everybody on a machine can read its command lines."""

import re
from collections.abc import Iterable

from cloud.errors import CloudError

PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "HF_TOKEN")  # from the environment here to the environment there
# wandb_key, API-KEY, apikey, hf_token, aws.secret_access_key; not tokenizer, sample_tokens or monkey.
_NAME = r"[\w.-]*(?:(?<![a-z0-9])key|api_?key|token|passw(?:or)?d|secrets?)"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_ASSIGNED = re.compile(rf"\s*({_NAME})=", re.IGNORECASE)
_IN_A_MAPPING = re.compile(rf"[{{,]\s*[\"']?({_NAME})[\"']?\s*:", re.IGNORECASE)


def refuse_secrets(options: Iterable[str]) -> None:
    """CloudError where a word of a command line is an option, NAME=VALUE or {NAME: VALUE} named like a secret.

    A name alone is none: `--env NAME`.
    """
    for option in options:
        name = _secret_in(option)
        if name:
            raise CloudError(
                f"{name} looks like a secret, which a command line shows to everybody; put it into the environment: "
                f"{', '.join(PASSED_ON)} are passed on"
            )


def _secret_in(word: str) -> str | None:
    """The name that gives it away."""
    option, _, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if _SECRET_NAME.fullmatch(option.lstrip("-")):
        return option
    found = _ASSIGNED.match(value) or (_IN_A_MAPPING.search(value) if value.lstrip().startswith("{") else None)
    return found[1] if found else None
