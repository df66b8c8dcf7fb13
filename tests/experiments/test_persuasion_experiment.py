"""PersuasionForGood from raw data to the table."""

import math
from pathlib import Path

import pytest
from small_experiments import Run, say, write_persuasion

from jaxgpt.data.dialogue import FORMATS, Conversation, EncodedConversation, cut
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.evaluate.dialogue_nll import measure_dialogue
from jaxgpt.evaluate.scoring import JaxScorer
from jaxgpt.evaluate.subject import open_subject
from jaxgpt.experiments import persuasion
from jaxgpt.experiments.config import PersuasionExperiment
from jaxgpt.model_config import ModelConfig


def test_persuasion(tmp_path: Path, experiment: Run) -> None:
    report = experiment("persuasion", write_persuasion(tmp_path / "raw"))
    assert (report["train_dialogues"], report["valid_dialogues"], report["steps"]) == (10, 3, 1)
    # Twenty turns of some ten tokens do not fit into 64 positions.
    assert report["cut_dialogues"] == 1
    subject = open_subject(str(tmp_path / "out" / "run"), None, None, None)
    sums = []
    for number, turns in ((10, 4), (11, 2), (12, 20)):
        talk = Conversation.alternating([text[2:] for text in say(number, turns)])
        found = measure_dialogue(subject.scorer, subject.tokenizer, FORMATS["tags"], [talk], with_roles=False)
        sums.append((found.by_role[0].nll_sum + found.by_role[1].nll_sum, sum(role.tokens for role in found.by_role)))
    assert report["dialogue_mean_perplexity"] == pytest.approx(sum(math.exp(nll / n) for nll, n in sums) / 3, rel=1e-5)
    nll, n = map(sum, zip(*sums, strict=True))
    assert report["corpus_perplexity"] == pytest.approx(math.exp(nll / n), rel=1e-5)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "1 of 3 dialogues are longer than the 65 tokens that the model takes at once and were cut" in table
    assert "| 9.92 |" in table


def test_only_what_is_measured_in_pieces_is_counted_as_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxgpt.train import models

    tokenizer, tags = load_tokenizer("gpt2"), FORMATS["tags"]
    found = models.FoundModel("x", ModelConfig(n_positions=64), tokenizer, "tags", 1, lambda like: like)
    monkeypatch.setattr(models, "find_model", lambda name: found)

    def encoded(talk: Conversation) -> EncodedConversation:
        return tags.join(talk, tokenizer.encode_batch([tags.turn_text(turn) for turn in talk.turns]), tokenizer)

    rest = 64 - len(encoded(Conversation.alternating(["a"])).ids)
    talks = [Conversation.alternating(["a" + " a" * (rest + more)]) for more in range(3)]
    assert [len(encoded(talk).ids) for talk in talks] == [64, 65, 66]
    assert [len(cut(encoded(talk), JaxScorer(found.cfg, {}).context)) for talk in talks] == [1, 1, 2]
    cfg = PersuasionExperiment("persuasion", "out", "raw")
    assert persuasion._longer_than_context(cfg, talks, Path("run")) == (65, 1)


def write_csv(path: Path, dialogues: int) -> None:
    rows = [f"{turn},text {turn} of {number},{number},{turn % 2}" for number in range(dialogues) for turn in range(4)]
    path.write_text("\n".join([",Unit,B2,B4", *rows]) + "\n")


def test_a_split_by_chance_is_the_same_every_time(tmp_path: Path) -> None:
    write_csv(tmp_path / "full_dialog.csv", 20)

    def split(seed: int) -> tuple[list[str], list[str]]:
        cfg = PersuasionExperiment("persuasion", "out", str(tmp_path), dialogues_file="full_dialog.csv", seed=seed)
        prepared = persuasion.prepare(cfg)
        train, valid = ([talk.turns[0].text for talk in part] for part in (prepared.train, prepared.valid))
        return train, valid

    train, valid = split(0)
    assert (len(train), len(valid), len({*train, *valid})) == (18, 2, 20)
    assert (train, valid) == split(0) != split(1)
    assert train == sorted(train, key=lambda text: int(text.split()[-1]))
