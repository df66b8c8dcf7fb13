"""CamRest676's figures by hand, and on real dialogues where they are."""

import json
import math
from pathlib import Path

import pytest

from jaxgpt.errors import UserError
from jaxgpt.evaluate.tasks.camrest import Ontology, load_ontology, measure_camrest
from jaxgpt.evaluate.tasks.sequicity_bleu import sequicity_bleu

REAL = Path(__file__).parents[3] / "shared" / "data" / "camrest"
ONTOLOGY = Ontology({"thai": "food", "north american": "food", "north": "area", "moderate": "pricerange"})


def test_a_turn_as_it_is_compared() -> None:
    found = ONTOLOGY.comparable("<name_SLOT> serves Thai, moderately priced. In the NORTH? A northern <food_SLOT>")
    # A value takes along what its last word goes on with; it must begin a word.
    assert found == ("name_SLOT serves food_SLOT . pricerange_SLOT priced . in the area_SLOT ? a area_SLOT food_SLOT")
    assert ONTOLOGY.comparable("north american or unnorth") == "food_SLOT or unnorth"


def test_success_f1_by_hand() -> None:
    references = [
        ["<name_SLOT> is at <address_SLOT>", "their phone is <phone_SLOT>"],
        ["<name_SLOT> serves thai food", "bye"],
        ["hello"],
    ]
    replies = [
        ["<name_SLOT> is at <address_SLOT>", "<address_SLOT> again, and <postcode_SLOT>"],
        ["it is <food_SLOT>", "<name_SLOT>"],
        ["the <area_SLOT>."],
    ]
    # Asked: address and phone; food. Told: address and postcode; food; area.
    found = measure_camrest(replies, references, ONTOLOGY)
    assert (found.precision, found.recall) == (2 / 4, 2 / 3)
    assert found.success_f1 == pytest.approx(2 * 2 / (4 + 3))
    assert (found.dialogues, found.turns) == (3, 5)


def test_nothing_told_is_zero_and_the_references_themselves_are_one() -> None:
    references = [["it is <food_SLOT> at <address_SLOT> there", "bye"]]
    assert measure_camrest([["hm", "hm"]], references, ONTOLOGY).success_f1 == 0
    found = measure_camrest(references, references, ONTOLOGY)
    assert (found.success_f1, found.bleu.by_order[3]) == (1, pytest.approx(100))
    assert found.bleu_sequicity == pytest.approx(1, abs=1e-6)


def test_bleu_by_sequicitys_formula_by_hand() -> None:
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 runs of four; 5 words for 6.
    found = sequicity_bleu(["a b c d x"], ["a b c d e f"])
    assert found == pytest.approx(math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4), rel=1e-6)
    # No run of four words is right: 1e-7 stands for 0.
    assert sequicity_bleu(["a b c d"], ["a b c x"]) == pytest.approx(
        (3 / 4 * 2 / 3 * 1 / 2 * 1e-7) ** (1 / 4), rel=1e-6
    )
    assert sequicity_bleu(["", ""], ["a", "b"]) == 0


@pytest.mark.parametrize(
    ("replies", "references", "expected"),
    [
        ([], [], "there are 0 replies to measure"),
        ([[]], [[]], "there are 0 replies to measure"),
        ([["a"]], [["a"], ["b"]], "replies of 1 dialogues and references of 2"),
        ([["a"], ["b", "c"]], [["a"], ["b"]], "dialogue 2 has 2 replies and 1 references"),
    ],
)
def test_what_does_not_fit_is_refused(replies: list[list[str]], references: list[list[str]], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        measure_camrest(replies, references, ONTOLOGY)


@pytest.mark.parametrize("content", [None, "[", "{}", '{"informable": {}}', '{"informable": ["thai"]}'])
def test_a_bad_ontology_is_refused_with_its_path(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ontology.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=str(path)):
        load_ontology(path)


@pytest.mark.skipif(not REAL.is_dir(), reason="CamRest676 is not here")
def test_the_sources_script_finds_the_same_on_real_dialogues() -> None:
    """Undelexicalised responses against delexicalised ones; figures of ARDM's cam676_eval.py on the same files."""
    ontology = load_ontology(REAL / "CamRestOTGY.json")
    for split, success_f1, bleu in (("val", 0.719258, 0.759369), ("test", 0.706444, 0.749092)):
        dialogues = json.loads((REAL / f"ardm_{split}_data.json").read_text())
        replies, references = (
            [[turn[key] for turn in dialogue] for dialogue in dialogues]
            for key in ("real_response", "replaced_response")
        )
        found = measure_camrest(replies, references, ontology)
        # The script replaces "north" before it sees "north american", in nine turns.
        assert found.success_f1 == pytest.approx(success_f1, abs=0.002)
        assert found.bleu_sequicity == pytest.approx(bleu, abs=0.003)
