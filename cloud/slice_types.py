"""TPU slices by the names that the cloud rents them out under: v3-8, v3-128, v5litepod-16, …"""

from dataclasses import dataclass

from cloud.errors import CloudError


@dataclass(frozen=True)
class SliceType:
    """name: as gcloud's --accelerator-type; topology: as `jaxgpt plan` names it; n_devices: as JAX counts them;
    n_chips: that are paid for; price_key: of jaxgpt.plan.prices; n_hosts: virtual machines, each with a process;
    runtime: the system that they start with."""

    name: str
    topology: str
    price_key: str
    n_devices: int
    n_chips: int
    n_hosts: int
    runtime: str


@dataclass(frozen=True)
class _Generation:
    """prefix: of the name, before the number; of that, per_device are a device, per_chip a chip. shapes: by the number.

    A host of a slice of several has four chips; up to one_host of the number there is one.
    """

    prefix: str
    plan: str
    runtime: str
    per_device: int
    per_chip: int
    per_host: int
    one_host: int
    shapes: dict[int, str]


_CORES_IN_3D = {
    8: "2x2x1",
    16: "2x2x2",
    32: "2x2x4",
    64: "2x4x4",
    128: "4x4x4",
    256: "4x4x8",
    512: "4x8x8",
    1024: "8x8x8",
}
_CHIPS_IN_2D = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_V2 = {8: "2x2", 32: "4x4", 64: "4x8", 128: "8x8", 256: "8x16", 512: "16x16"}
# Numbers are TensorCores, but chips in v5e and v6e. Source: cloud.google.com/tpu/docs, pages v2 to v6e, and runtimes.
_GENERATIONS = (
    _Generation("v2", "v2", "tpu-ubuntu2204-base", 1, 2, 8, 8, _V2),
    _Generation("v3", "v3", "tpu-ubuntu2204-base", 1, 2, 8, 8, {**_V2, 1024: "16x32", 2048: "32x32"}),
    _Generation("v4", "v4", "tpu-ubuntu2204-base", 2, 2, 8, 8, _CORES_IN_3D),
    _Generation("v5p", "v5p", "v2-alpha-tpuv5", 2, 2, 8, 8, _CORES_IN_3D),
    _Generation("v5litepod", "v5e", "v2-alpha-tpuv5-lite", 1, 1, 4, 8, _CHIPS_IN_2D),
    _Generation("v6e", "v6e", "v2-alpha-tpuv6e", 1, 1, 4, 8, _CHIPS_IN_2D),
)


def slice_type(name: str) -> SliceType:
    """CloudError names what there is where nothing has this name."""
    prefix, _, number = name.partition("-")
    for generation in _GENERATIONS:
        if generation.prefix == prefix and number.isdecimal() and int(number) in generation.shapes:
            n = int(number)
            return SliceType(
                name,
                f"{generation.plan}:{generation.shapes[n]}",
                generation.plan,
                n // generation.per_device,
                n // generation.per_chip,
                1 if n <= generation.one_host else n // generation.per_host,
                generation.runtime,
            )
    known = (f"{one.prefix}-{'|'.join(map(str, one.shapes))}" for one in _GENERATIONS)
    raise CloudError(f"TYPE is {name}, which is no slice; there are {', '.join(known)}")
