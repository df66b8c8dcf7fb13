"""A run kept going until it is done: slices that are taken away come back, hosts that die start again."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from cloud import kept
from cloud.errors import CloudError, DeletedError, NoCapacityError
from cloud.hosts import Hosts
from cloud.launch import Launch, kept_launch, require_secrets, set_up, start, stop
from cloud.settings import Settings
from cloud.slices import Fate, Slice, born, hours_of
from cloud.source import Code
from cloud.status import summary
from cloud.verdict import Health, Verdict, judge

_GRACE = 20.0  # seconds for what still runs where a host is lost: without it no step ends
_MOST_RESTARTS = 3  # without a step between them
_MOST_SILENT = 5  # looks, one after the other, at which some hosts do not answer and no step is made
_MOST_LATE = 10  # looks at which some hosts are done and others are not
_QUIET_SECONDS = 1800.0  # without a step, after which it is said
_LAST_SECONDS = 420.0  # of the slice's hours, in which the training saves; longer than the guard leaves it
_LONGEST_PAUSE = 600.0
_COSTS = "the slice stays: cloud/tpu delete ends its cost"


class Watch:
    """Of one launch.

    hours: of slices, all together, after which the last one is deleted; None for no end. Those of a slice that is there
    already are its own. pause: seconds between looks.
    """

    def __init__(
        self, settings: Settings, slice_: Slice, hosts: Hosts, launch: Launch, hours: float | None, pause: float
    ):
        self._settings, self._slice, self._hosts, self._launch = settings, slice_, hosts, launch
        self._left, self._pause = hours, pause
        self._code: Code | None = None
        self._born: float | None = None  # time at which the present slice was made
        self._ends: float | None = None  # time at which it deletes itself
        self._lacking = False  # whether a slice has to be made, whatever became of the last one
        self._due = False  # whether the training has to be started
        self._furthest = self._steps = 0  # step that was told of so many
        self._step: int | None = None  # that was told last: after a loss, steps are done again
        self._step_at = time.time()
        self._starts = self._silent = self._late = 0
        self._said = ""

    def run(self, code: Code | None) -> int:
        """Until the end. Exit code: 0 when the run is done, 1 when it can't go on.

        The slice stays, but for the end of its hours, or where the launch says otherwise.
        code: of a launch that is new; None goes on with what is kept. CloudError where it can't begin.
        """
        require_secrets(self._launch)
        with kept.only_watch(self._settings):
            self._begin(code)
            pause = self._pause
            while True:
                try:
                    ended = self._look()
                    pause = self._pause
                except DeletedError as error:
                    _say(f"{error}; the watch ends")
                    return 1
                except (CloudError, OSError) as error:  # this machine may be offline: nobody can tell for how long
                    _say(str(error))
                    ended, pause = None, min(2 * pause, _LONGEST_PAUSE)
                if ended is not None:
                    return ended
                time.sleep(pause)

    def _begin(self, code: Code | None) -> None:
        if self._left is not None and self._left <= 0:
            raise CloudError("the hours of this launch are used up; --max-hours gives it more")
        self._code = code or kept.kept_code(self._settings)
        if self._bring():
            self._due = True
            return
        verdict = judge(self._hosts.status(), self._launch.run)
        if verdict.health is Health.OTHER:
            raise CloudError(f"{verdict.why}; cloud/tpu stop ends it")
        self._due = code is not None or verdict.health in (Health.IDLE, Health.STOPPED)
        if code and (verdict.lives or verdict.health is Health.SILENT):
            former = kept_launch(self._settings)
            if former is None or not former.trains_as(self._launch):
                what = verdict.why or f"the run {self._launch.run} is trained there, and not by these options"
                raise CloudError(f"{what}; leave --config out to watch it, or cloud/tpu stop or delete first")
            _say("this is what was launched already; the watch goes on with it")
            self._code, self._due = kept.kept_code(self._settings), False

    def _look(self) -> int | None:
        """Does what has to be done; the exit code where the watch is over."""
        if not self._lacking:
            fate = self._slice.fate()
            if fate is Fate.NONE:
                done = self._launch.delete_when_done and self._furthest == self._steps > 0
                _say(f"the slice was deleted, {self._where()}" + ", as it had to be" * done)
                return 0 if done else 1
            if self._ends is not None and time.time() > self._ends - _LAST_SECONDS:
                _say(f"MAX_HOURS are over, {self._where()}; it saves, and the slice is deleted")
                stop(self._hosts)
                self._slice.delete()
                return 1
            if fate is Fate.ON_ITS_WAY:
                self._slice.create(self._left)  # waits for it, or says why it does not come
                return None
            if fate is Fate.TAKEN:
                _say(f"the slice was taken away, {self._where()}")
                self._lacking, self._starts = True, 0  # of which the training has no fault
        if self._lacking:
            self._bring()
            self._due = True
        if self._due:
            return self._start()
        return self._act(judge(self._hosts.status(), self._launch.run))

    def _act(self, verdict: Verdict) -> int | None:
        if verdict.step is not None and verdict.steps is not None:
            if verdict.step != self._step:
                self._step, self._step_at, self._silent = verdict.step, time.time(), 0
            if verdict.step > self._furthest:
                self._furthest, self._steps, self._starts = verdict.step, verdict.steps, 1
        self._late = self._late + 1 if verdict.late else 0
        if verdict.health is Health.DONE:
            _say(f"the run {self._launch.run} is done, at step {verdict.step}")
            if self._launch.delete_when_done:
                self._slice.delete()
            else:
                _say(_COSTS)
            return 0
        if verdict.health in (Health.MISTAKEN, Health.STOPPED, Health.OTHER):
            _say(f"{verdict.why or verdict.health.value}\nit is not started again; {_COSTS}")
            return 1
        if verdict.health is Health.SILENT:
            self._wait_or_replace(verdict)
            return None
        self._silent = 0
        if verdict.health is not Health.RUNNING:
            return self._restart(verdict.why or verdict.health.value)
        if self._late > _MOST_LATE:
            return self._restart("some hosts are done, and others do not end")
        if time.time() - self._step_at > _QUIET_SECONDS:
            self._step_at = time.time()
            _say(f"no step for {_QUIET_SECONDS / 60:.0f} min; cloud/tpu logs may tell why, and stop ends it")
        else:
            self._tell(f"step {verdict.step} of {verdict.steps}" if verdict.step is not None else "starting")
        return None

    def _wait_or_replace(self, verdict: Verdict) -> None:
        """A training that makes steps needs no ssh; where no host answers, the trouble may be on this side."""
        self._tell(f"{self._where()}: {verdict.why}")
        if verdict.answered:
            self._silent += 1
        if self._silent > _MOST_SILENT:
            _say("no answer and no step any more; the slice is made anew")
            self._silent, self._lacking = 0, True
            self._slice.delete()

    def _restart(self, why: str) -> int | None:
        _say(why)
        if self._starts <= _MOST_RESTARTS:
            _say("starting again from the last checkpoint")
            stop(self._hosts, _GRACE)
        self._due = True
        return self._start()

    def _start(self) -> int | None:
        """As at the beginning: code and environment are there at once where they are unchanged."""
        if self._starts > _MOST_RESTARTS:
            _say(f"{_MOST_RESTARTS} restarts made no step; {_COSTS}")
            return 1
        self._starts += 1
        assert self._code is not None
        set_up(self._hosts, self._code)
        kept.keep_code(self._settings, self._code)
        self._launch.save(self._settings)
        start(self._hosts, self._launch, self._code.version)
        self._due, self._late, self._step_at = False, 0, time.time()
        _say(f"{self._launch.run} is started on {self._hosts}")
        return None

    def _bring(self) -> bool:
        """The slice, as soon as the cloud has it to give, for the hours that are left; whether it was made now."""
        if self._born is not None and self._left is not None:
            self._left -= (time.time() - self._born) / 3600
            self._launch = replace(self._launch, hours_left=self._left)
            self._launch.save(self._settings)
        if self._left is not None and self._left <= 0:
            raise DeletedError(f"MAX_HOURS are used up, {self._where()}")
        self._born, self._lacking = None, True
        made = patiently(lambda: self._slice.create(self._left), self._pause)
        node = self._slice.node()
        if node is None:
            raise DeletedError("the slice was made and is gone again")
        hours = hours_of(node)
        self._born, self._lacking = born(node).timestamp(), False
        self._ends = None if hours is None else self._born + hours * 3600
        if not made:
            self._left = self._left if hours is None else hours
        _say(summary(self._settings, node, datetime.now(tz=UTC)))
        return made

    def _where(self) -> str:
        return f"at step {self._furthest} of {self._steps}" if self._steps else "before a step was told"

    def _tell(self, line: str) -> None:
        """Only what is new."""
        if line != self._said:
            self._said = line
            _say(line)


def patiently(ask: Callable[[], bool], pause: float) -> bool:
    """What it answers when there is capacity; after each refusal twice as long, up to ten minutes."""
    while True:
        try:
            return ask()
        except NoCapacityError as error:
            _say(f"{error}; the next try is in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _say(line: str) -> None:
    print(f"{datetime.now(tz=UTC).astimezone():%Y-%m-%d %H:%M:%S} {line}", flush=True)
