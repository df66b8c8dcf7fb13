"""What the TPU compiler expects of a training step: GPT-2 small, bfloat16, 1,024 tokens, on slices that are not there.

    PYTHONPATH=.venv/libtpu python benchmarks/tpu_compile.py --topology v3:8x8 --json

An estimate by the compiler and no measurement; loops are multiplied out. tokens_per_second_per_device: null where this
compiler gives no time for the machine. temp_bytes: of a device, beside parameters, optimizer state and batch.
"""

import argparse
import json
from dataclasses import replace

from jaxgpt.config import Config, TrainConfig
from jaxgpt.model_config import ModelConfig
from jaxgpt.plan.machines import find_machine
from jaxgpt.plan.planning import Plan, make_plan

TEMPORARY = "activations and other temporaries"


def _plan(topology: str, rows: int, model: ModelConfig) -> Plan:
    machine = find_machine(topology)
    train = TrainConfig(batch_size=rows * machine.n_devices)
    return make_plan(Config("", model=model, train=train), machine)


def _figures(plan: Plan, rows: int) -> dict[str, float | str | None]:
    return {
        "topology": plan.machine.name,
        "rows_per_device": rows,
        "tokens_per_second_per_device": plan.tokens_per_second,
        "step_ms": plan.step_seconds and 1000 * plan.step_seconds,
        "mfu": plan.mfu,
        "temp_bytes": plan.memory[TEMPORARY],
        "bytes_moved": plan.bytes_moved,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", action="append", help="may be given several times; v3:8x8 and v5p:2x2x1")
    parser.add_argument("--rows", type=int, default=4, help="sequences per device")
    parser.add_argument("--remat", default="none", help="as model.remat")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    args = parser.parse_args()
    model = replace(ModelConfig(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, dtype="bfloat16"), remat=args.remat)
    figures = []
    for topology in args.topology or ["v3:8x8", "v5p:2x2x1"]:
        found = _figures(_plan(topology, args.rows, model), args.rows)
        figures.append(found)
        for key, value in found.items():
            print(f"{key:32s} {value}", flush=True)
        print()
    if args.json:
        print(json.dumps(figures[0] if len(figures) == 1 else {str(found["topology"]): found for found in figures}))


if __name__ == "__main__":
    main()
