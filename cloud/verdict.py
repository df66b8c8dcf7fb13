"""What the answers of all hosts come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cloud.hosts import Answer

_MISTAKE = 2  # jaxgpt's exit code for what starting again does not mend
_LIVES = ("running", "starting")


class Health(Enum):
    IDLE = "nothing is started"
    RUNNING = "running"
    SILENT = "a host does not answer"
    BROKEN = "a host's training is lost"
    STOPPED = "somebody stopped it"
    MISTAKEN = "the training refused to run"
    OTHER = "another run is trained"
    DONE = "done"


@dataclass(frozen=True)
class Verdict:
    """step: the furthest that a host tells, of so many `steps`, None where none does; why: of what is not well.

    answered: by a host, at least one; lives: whether a host trains; late: whether some hosts are done and others are
    not.
    """

    health: Health
    step: int | None
    steps: int | None = None
    why: str = ""
    answered: bool = True
    lives: bool = False
    late: bool = False


def judge(answers: Sequence[Answer], run: str) -> Verdict:
    """run: the one that is meant; of what another one left behind nothing counts."""
    heard = [answer for answer in answers if not answer.trouble]
    own = [answer for answer in heard if answer.values.get("run") in (None, run)]
    others = [answer for answer in heard if answer not in own and answer.values["state"] in _LIVES]
    if others:
        why = "; ".join(f"host {answer.worker} trains the run {answer.values['run']}" for answer in others)
        return Verdict(Health.OTHER, None, why=f"{why}, and not {run}")
    told = [(answer.values["step"], answer.values["steps"]) for answer in own if answer.values.get("step") is not None]
    step, steps = max(told, default=(None, None))
    states = {answer.worker: answer.values.get("state") if answer in own else "ready" for answer in heard}
    found = set(states.values())
    lives = any(state in _LIVES for state in found)

    def verdict(health: Health, why: str = "", *, late: bool = False) -> Verdict:
        return Verdict(health, step, steps, why, answered=bool(heard), lives=lives, late=late)

    if "stopped" in found:
        return verdict(Health.STOPPED)
    if len(heard) < len(answers):
        silent = [f"host {answer.worker}: {answer.trouble}" for answer in answers if answer.trouble]
        return verdict(Health.SILENT, "; ".join(silent))
    ended = [answer for answer in own if answer.values["state"] in ("failed", "killed")]
    if ended:
        why = "; ".join(
            f"host {one.worker} {one.values['state']} with exit code {one.values['exit']}: {one.values['said']}"
            for one in ended
        )
        mistake = all(answer.values.get("exit") == _MISTAKE for answer in answers)
        return verdict(Health.MISTAKEN if mistake else Health.BROKEN, why)
    if found == {"done"}:
        return verdict(Health.DONE)
    if found <= {*_LIVES, "done"}:  # hosts do not end in the same second
        return verdict(Health.RUNNING, late="done" in found)
    if lives:
        lacking = [str(worker) for worker, state in states.items() if state in ("ready", "not set up")]
        return verdict(Health.BROKEN, f"nothing runs on host {', '.join(lacking)}")
    return verdict(Health.IDLE)
