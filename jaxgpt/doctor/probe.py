"""What can be found out only by starting JAX, which may hang or crash: a process of its own, which devices.py starts.

Reads a request from stdin, a JSON object, and writes what it finds to stdout, a JSON object a line, `stage` before each
part and empty at the end.
"""

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxgpt.errors import UserError

# Of a TPU VM's chips, by their number, how they lie; source: jax/_src/test_multiprocess.py.
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
_PORT = 8476  # at which libtpu's processes would meet
_MORE_SECONDS = 5  # than whoever started this waits: for when nobody is left to end it


def main() -> None:
    """The request: all_hosts, wait, parallel and config (of the run, as dictionaries), batch (rows and microbatches, or
    null), tpu_chips (of this machine), seconds (that all may take).
    """
    request = json.load(sys.stdin)
    # Both end the process wherever it hangs: Python's own handlers would wait for the library that hangs.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.alarm(math.ceil(request["seconds"]) + _MORE_SECONDS)
    # What libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    try:
        _look(request, tell)
    except UserError as error:
        tell(problem=str(error))
    except Exception as error:
        tell(crash=f"{type(error).__name__}: {error}")
        os._exit(1)
    tell(stage="")
    os._exit(0)  # JAX would wait for hosts that are gone


def _look(request: dict[str, Any], tell: Callable[..., None]) -> None:
    tell(stage="importing jax")
    import jax

    from jaxgpt.config import ParallelConfig
    from jaxgpt.train import hosts

    tell(stage="finding out which host this is")
    parallel = ParallelConfig(**{**request["parallel"], "wait": request["wait"]})
    count, joined = 1, False
    try:
        own, told_by = hosts.find_hosts(parallel)
        count = own.count
        tell(index=own.index, count=count, told_by=told_by)
        if request["all_hosts"] and count > 1:
            tell(stage="waiting for the other hosts")
            identity = {"command": "doctor", **hosts.identity_of(request["config"])}
            hosts.join(parallel, identity, lambda line: None)
            joined = True
            tell(joined=True)
    except UserError as error:
        tell(hosts_problem=str(error))
    if count > 1 and not joined and request["tpu_chips"]:
        _leave_the_slice(request["tpu_chips"])
        tell(own_chips=True)

    tell(stage="starting the devices")
    devices = jax.devices()
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    tell(
        platform=devices[0].platform,
        kind=devices[0].device_kind,
        n_own=jax.local_device_count(),
        n_all=len(devices),
        limits=[one["bytes_limit"] for one in stats if "bytes_limit" in one],
    )
    tell(stage="computing on every device")
    _compute(tell)
    if request["batch"]:
        from jaxgpt.train.parallel import check_batch

        n_devices = len(devices) if joined else len(devices) * count
        tell(batch_devices=n_devices)
        try:
            check_batch(n_devices, *request["batch"])
        except UserError as error:
            tell(batch_problem=str(error))
    if joined:
        tell(stage="taking leave of the other hosts")
        hosts.leave()


def _leave_the_slice(chips: int) -> None:
    """Has libtpu take this host's chips for all there are: else it waits for those of the other hosts."""
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "CLOUD_TPU_TASK_ID": "0",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": _BOUNDS.get(chips, f"1,{chips},1"),
        "TPU_PROCESS_ADDRESSES": f"localhost:{_PORT}",
        "TPU_PROCESS_PORT": str(_PORT),
        "TPU_VISIBLE_CHIPS": ",".join(map(str, range(chips))),
    }


def _compute(tell: Callable[..., None]) -> None:
    """A known product, parameters that all must have alike, and a sum over all; UserError where one is wrong."""
    import jax
    import numpy as np

    from jaxgpt.config import Config, ModelConfig
    from jaxgpt.train.health import check_devices
    from jaxgpt.train.pmapped import Pmapped

    parallel = Pmapped()
    smallest = Config(output="", model=ModelConfig(128, n_positions=8, n_embd=128, n_layer=1, n_head=1))
    slow: list[str] = []
    check_devices(parallel, parallel.init_state(smallest), slow.append)
    if parallel.devices[0].platform != "cpu":  # whose devices share cores
        tell(slow=slow)
    numbers = {device: number for number, device in enumerate(parallel.devices, 1)}
    own = [number for device, number in numbers.items() if device.process_index == jax.process_index()]
    given = parallel.split({"numbers": np.array(own, np.int32)})["numbers"]
    add = jax.pmap(partial(jax.lax.psum, axis_name="all"), axis_name="all", devices=parallel.devices)
    expected = sum(numbers.values())
    wrong = {shard.device.id: shard.data.item() for shard in add(given).addressable_shards}
    wrong = {device: total for device, total in wrong.items() if total != expected}
    if wrong:
        totals = ", ".join(f"device {device} has {total}" for device, total in wrong.items())
        raise UserError(
            f"of a sum over all devices that is {expected} {totals}; make sure that they are well connected"
        )
    tell(works=True)


if __name__ == "__main__":
    main()
