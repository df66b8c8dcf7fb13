"""transformers without its progress bars for files that load at once."""


def quiet_loading() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
