"""The conversations that come with the installation, as documents."""

import json
from pathlib import Path

from jaxgpt.chitchat import conversations, write_documents


def test_every_twentieth_document_is_for_testing_and_none_is_lost(tmp_path: Path) -> None:
    write_documents(tmp_path / "new" / "text")
    train, test = (
        [json.loads(line)["text"] for line in (tmp_path / "new" / "text" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    )
    talks = [turns for turns in conversations() if len(turns) > 1]
    assert len(talks) == 4018
    assert test == ["\n".join(turns) for turns in talks[19::20]]
    assert sorted(train + test) == sorted("\n".join(turns) for turns in talks)
