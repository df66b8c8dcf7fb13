"""Loops of a program's text, multiplied out by hand."""

from jaxgpt.plan.hlo import loop_factor

# As the TPU compiler writes it, shortened: 10 cycles, and a loop of 5 turns of 3 cycles with one of 7 turns of 2 in it.
PROGRAM = """
%inner_body (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c.1 = s32[]{:T(256)} constant(1)
  %f.1 = f32[8]{0:T(256)} fusion(%g), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"2"}}
}

%inner_condition (a: (s32[], f32[8])) -> pred[] {
  %c.2 = s32[]{:T(256)} constant(7), metadata={op_name="x"}
  ROOT %lt.2 = pred[]{:T(1024)} compare(%get-tuple-element.2, %c.2), direction=LT
}

%outer_body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %while.1 = (s32[]{:T(256)}, f32[8]{0:T(256)}) while(%t.1), condition=%inner_condition, body=%inner_body
  %f.3 = f32[8]{0:T(256)} fusion(%g), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"3"}}
}

%outer_condition (b: (s32[], f32[8])) -> pred[] {
  %c.3 = s32[]{:T(256)} constant(5)
  ROOT %lt.3 = pred[]{:T(1024)} compare(%get-tuple-element.3, %c.3), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %f.4 = f32[8]{0:T(256)} fusion(%p), kind=kLoop, backend_config={"window_config":{"estimated_cycles":"10"}}
  %while.2 = (s32[]{:T(256)}, f32[8]{0:T(256)}) while(%t.2), condition=%outer_condition, body=%outer_body
}
"""


def test_a_loop_within_a_loop_counts_as_often_as_it_runs() -> None:
    assert loop_factor(PROGRAM) == (10 + 5 * (3 + 7 * 2)) / (10 + 3 + 2)


def test_a_program_without_loops_stays_as_it_is() -> None:
    assert loop_factor("\n".join(line for line in PROGRAM.splitlines() if "while" not in line)) == 1


def test_a_loop_that_is_not_understood_makes_the_time_unknown() -> None:
    assert loop_factor(PROGRAM.replace("direction=LT", "direction=NE")) is None


def test_a_program_without_cycles_has_no_time() -> None:
    assert loop_factor(PROGRAM.replace("estimated_cycles", "other")) is None
