"""Secrets reach a training through the environment alone: everybody on a machine can read its command lines."""

import re
from collections.abc import Iterable

from cloud.errors import CloudError

PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "HF_TOKEN")  # from the environment here to the environment there
_LOOKS_SECRET = re.compile(r"(api_?key|token|passwords?|secrets?)(=|$)", re.IGNORECASE)


def refuse_secrets(options: Iterable[str]) -> None:
    """CloudError where one of the options of `jaxgpt train` is named like a secret."""
    for option in options:
        if option.startswith("--") and _LOOKS_SECRET.search(option):
            raise CloudError(
                f"{option.partition('=')[0]} looks like a secret, which a command line shows to everybody; put it into "
                f"the environment: {', '.join(PASSED_ON)} are passed on"
            )
