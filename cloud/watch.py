"""A run kept going until it is done: slices that are taken away come back, hosts that die start again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from cloud.errors import CloudError, DeletedError, NoCapacityError
from cloud.hosts import Answer, Hosts
from cloud.launch import Launch, set_up, start, stop
from cloud.settings import Settings
from cloud.slices import Fate, Slice
from cloud.status import when

_GRACE = 20.0  # seconds for what still runs where a host is lost: without it no step ends
_MOST_RESTARTS = 3  # without a step between them
_MOST_SILENT = 5  # looks at which a host does not answer and no step is made
_MOST_LATE = 10  # looks at which some hosts are done and others are not
_QUIET_SECONDS = 1800.0  # without a step, after which it is said
_MISTAKE = 2  # jaxgpt's exit code for what starting again does not mend
_LONGEST_PAUSE = 600.0


class Health(Enum):
    IDLE = "nothing is started"
    RUNNING = "running"
    SILENT = "a host does not answer"
    BROKEN = "a host's training is lost"
    STOPPED = "somebody stopped it"
    MISTAKEN = "the training refused to run"
    DONE = "done"


@dataclass(frozen=True)
class Verdict:
    """step: the furthest that a host tells, of so many `steps`, None where none does; why: of what is not well.

    answered: by a host, at least one; late: whether some hosts are done and others are not.
    """

    health: Health
    step: int | None
    steps: int | None = None
    why: str = ""
    answered: bool = True
    late: bool = False


def judge(answers: Sequence[Answer]) -> Verdict:
    """What the hosts' answers come to."""
    told = [
        (answer.values["step"], answer.values["steps"]) for answer in answers if answer.values.get("step") is not None
    ]
    step, steps = max(told, default=(None, None))
    states = {answer.worker: answer.values.get("state") for answer in answers if not answer.trouble}
    found = set(states.values())
    if "stopped" in found:
        return Verdict(Health.STOPPED, step, steps)
    silent = [answer for answer in answers if answer.trouble]
    if silent:
        why = "; ".join(f"host {one.worker}: {one.trouble}" for one in silent)
        return Verdict(Health.SILENT, step, steps, why, answered=bool(states))
    ended = [answer for answer in answers if states[answer.worker] in ("failed", "killed")]
    if ended:
        why = "; ".join(
            f"host {one.worker} {one.values['state']} with exit code {one.values['exit']}: {one.values['said']}"
            for one in ended
        )
        mistake = all(answer.values.get("exit") == _MISTAKE for answer in answers)
        return Verdict(Health.MISTAKEN if mistake else Health.BROKEN, step, steps, why)
    if found == {"done"}:
        return Verdict(Health.DONE, step, steps)
    if found <= {"running", "starting", "done"}:  # hosts do not end in the same second
        return Verdict(Health.RUNNING, step, steps, late="done" in found)
    if found & {"running", "starting"}:
        lacking = [str(worker) for worker, state in states.items() if state in ("ready", "not set up")]
        return Verdict(Health.BROKEN, step, steps, f"nothing runs on host {', '.join(lacking)}")
    return Verdict(Health.IDLE, step, steps)


class Watch:
    """Of one launch.

    hours: of slices, all together, after which the last one is deleted; None for no end. pause: seconds between looks.
    """

    def __init__(
        self, settings: Settings, slice_: Slice, hosts: Hosts, launch: Launch, hours: float | None, pause: float
    ):
        self._settings, self._slice, self._hosts, self._launch = settings, slice_, hosts, launch
        self._left, self._pause = hours, pause
        self._born: float | None = None  # time at which the present slice was made
        self._lacking = False  # whether a slice has to be made, whatever became of the last one
        self._step, self._steps = -1, 0  # the furthest that was told, of so many
        self._step_at = time.time()
        self._restarts = self._silent = self._late = 0
        self._said = ""

    def run(self, new: bool) -> int:
        """Until the end. Exit code: 0 when the run is done, 1 when it can't go on.

        The slice stays, but for the end of its hours, or where the launch says otherwise.
        new: the launch is another one than the hosts may know. CloudError where it can't begin.
        """
        self._bring()
        health = judge(self._hosts.status()).health
        if new and health in (Health.RUNNING, Health.SILENT):
            raise CloudError(f"on the slice {health.value}; leave --config out to watch it, or cloud/tpu stop it first")
        if new or health in (Health.IDLE, Health.STOPPED):
            self._start()
        pause = self._pause
        while True:
            try:
                ended = self._look()
                pause = self._pause
            except DeletedError as error:
                _say(f"{error}; the watch ends")
                return 1
            except CloudError as error:  # the laptop may be offline: nothing here can tell for how long
                _say(str(error))
                ended, pause = None, min(2 * pause, _LONGEST_PAUSE)
            if ended is not None:
                return ended
            time.sleep(pause)

    def _look(self) -> int | None:
        """Does what has to be done; the exit code where the watch is over."""
        if self._lacking:
            self._bring()
            self._start()
            return None
        fate = self._slice.fate()
        if fate is Fate.NONE:
            done = self._launch.delete_when_done and self._step == self._steps
            _say(f"the slice was deleted at step {self._step} of {self._steps}, as it had to be or by somebody")
            return 0 if done else 1
        if self._left is not None and self._hours() > self._left:
            _say(f"MAX_HOURS are over at step {self._step}; the slice is deleted")
            self._slice.delete()
            return 1
        if fate is Fate.ON_ITS_WAY:
            self._slice.create(self._left)  # waits for it, or says why it does not come
            return None
        if fate is Fate.TAKEN:
            _say(f"the slice was taken away at step {self._step}")
            self._bring()
            self._start()
            return None
        return self._act(judge(self._hosts.status()))

    def _act(self, verdict: Verdict) -> int | None:
        if verdict.step is not None and verdict.steps is not None and verdict.step > self._step:
            self._step, self._steps, self._step_at = verdict.step, verdict.steps, time.time()
            self._restarts = self._silent = 0
        self._late = self._late + 1 if verdict.late else 0
        if verdict.health is Health.DONE:
            _say(f"the run {self._launch.run} is done, at step {verdict.step}")
            if self._launch.delete_when_done:
                self._slice.delete()
            return 0
        if verdict.health in (Health.MISTAKEN, Health.STOPPED):
            why = verdict.why or "somebody stopped it"
            _say(f"{why}\nit is not started again; the slice stays: cloud/tpu delete ends its cost")
            return 1
        if verdict.health is Health.SILENT:
            self._wait_or_replace(verdict)
        elif verdict.health is not Health.RUNNING:
            return self._restart(verdict.why or verdict.health.value)
        elif self._late > _MOST_LATE:
            return self._restart("some hosts are done, and others do not end")
        elif time.time() - self._step_at > _QUIET_SECONDS:
            self._step_at = time.time()
            _say(f"no step for {_QUIET_SECONDS / 60:.0f} min; cloud/tpu logs may tell why, and stop ends it")
        else:
            self._tell(f"step {verdict.step} of {verdict.steps}" if verdict.step is not None else "starting")
        return None

    def _wait_or_replace(self, verdict: Verdict) -> None:
        """A training that makes steps needs no ssh; where no host answers, the trouble may be on this side."""
        self._silent += 1
        self._tell(f"at step {verdict.step}: {verdict.why}")
        if self._silent > _MOST_SILENT and verdict.answered:
            _say("no answer and no step any more; the slice is made anew")
            self._silent, self._lacking = 0, True
            self._slice.delete()

    def _restart(self, why: str) -> int | None:
        if self._restarts >= _MOST_RESTARTS:
            _say(f"{why}\n{_MOST_RESTARTS} restarts made no step; the slice stays: cloud/tpu delete ends its cost")
            return 1
        _say(f"{why}\nstarting again from the last checkpoint")
        stop(self._hosts, _GRACE)
        self._start()
        self._restarts, self._late = self._restarts + 1, 0
        return None

    def _start(self) -> None:
        """As at the beginning: code and environment are there at once where they are unchanged."""
        set_up(self._hosts)
        self._launch.save(self._settings)
        start(self._hosts, self._launch)
        self._step_at = time.time()
        _say(f"{self._launch.run} is started on {self._hosts.count} hosts")

    def _bring(self) -> None:
        """The slice, as soon as the cloud has it to give, for the hours that are left."""
        if self._born is not None and self._left is not None:
            self._left -= self._hours()
        self._born, self._lacking = None, True
        patiently(lambda: self._slice.create(self._left), self._pause)
        node = self._slice.node()
        if node is None:
            raise DeletedError("the slice was made and is gone again")
        self._born, self._lacking = when(node["createTime"]).timestamp(), False

    def _hours(self) -> float:
        """Of the present slice."""
        return 0.0 if self._born is None else (time.time() - self._born) / 3600

    def _tell(self, line: str) -> None:
        """Only what is new."""
        if line != self._said:
            self._said = line
            _say(line)


def patiently(ask: Callable[[], object], pause: float) -> None:
    """Until there is capacity; after each refusal twice as long, up to ten minutes."""
    while True:
        try:
            ask()
            return
        except NoCapacityError as error:
            _say(f"{error}; the next try is in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _say(line: str) -> None:
    print(f"{datetime.now(tz=UTC).astimezone():%Y-%m-%d %H:%M:%S} {line}", flush=True)
