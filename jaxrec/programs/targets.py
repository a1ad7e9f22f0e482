"""The accelerators that programs can be compiled for here, none of which has to be at hand: what a device has, by its
vendor's sheet, and how JAX is set up to compile for it. Only the standard library and ``jaxrec.errors`` are imported:
variables of the environment count before JAX is."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from importlib import metadata
from math import prod
from pathlib import Path
from typing import NamedTuple

from jaxrec.errors import UserError, listed, nearest

GIB = 2**30
OF_A_HOST = 8  # GPUs; more of them are several hosts
OF_A_MACHINE = 512  # virtual CPU devices, at most
SLICES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16",
         "16x16x24")  # fmt: skip
CUDA = {"nvcc": "cuda-nvcc", "nvvm": "nvvm", "runtime": "cuda-runtime", "nvjitlink": "nvjitlink", "crt": "cuda-crt"}


class Peaks(NamedTuple):
    """The vendor's figures of a device: FLOP/s of dense products by what they multiply, and bytes/s of its memory."""

    bfloat16: float
    tf32: float | None  # None: the device has none
    float32: float | None  # None: not published
    bytes: float


@dataclass(frozen=True)
class Chip:
    """A kind of device."""

    platform: str  # ``cpu``, ``gpu`` or ``tpu``
    memory: int  # bytes of a device; 0: that of this machine
    usable: int  # of them, bytes that programs get
    kept: str  # who keeps the rest
    peaks: Peaks | None = None
    topologies: tuple[str, ...] = ()  # of a TPU; the first one is that of one device
    config: str = ""  # of a GPU: XLA's text proto of the device


def _gpu(
    capability: str, cores: int, fpus: int, shared: int, threads: int, cache: int, clock: float, bandwidth: int,
    memory: int, name: str,
) -> str:  # fmt: skip
    """XLA's ``GpuTargetConfigProto``; ``shared``: bytes of shared memory of a core."""
    major, minor = capability.split(".")
    return f"""gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
 shared_memory_per_core: {shared} threads_per_core_limit: {threads} core_count: {cores} fpus_per_core: {fpus}
 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth}
 l2_cache_size: {cache} clock_rate_ghz: {clock} device_memory_size: {memory}
 shared_memory_per_block_optin: {shared - 1024} cuda_compute_capability {{ major: {major} minor: {minor} }}
 registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
 platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{name}" """


# JAX takes three quarters of a GPU when it starts; of a TPU the compiler says what it lets programs have.
OF_JAX = "JAX allots 75 % (XLA_PYTHON_CLIENT_MEM_FRACTION)"
OF_RUNTIME = "the TPU's runtime keeps the rest"


def _nvidia(mib: int, peaks: Peaks, config: str) -> Chip:
    memory = mib * 2**20  # as nvidia-smi gives it
    return Chip("gpu", memory, memory * 3 // 4, OF_JAX, peaks, config=config.replace("MEMORY", str(memory)))


CHIPS = {
    # cloud.google.com/tpu/docs/v5e, v6e, v5p, "System architecture": bfloat16 FLOP/s and HBM of a chip. float32 is not
    # published: products of float32 are bfloat16 passes, 3 or 6 of them where more bits are asked for.
    "tpu-v5e": Chip("tpu", 16 * GIB, int(15.75 * GIB), OF_RUNTIME, Peaks(197e12, None, None, 819e9), SLICES),
    "tpu-v6e": Chip("tpu", 32 * GIB, int(31.25 * GIB), OF_RUNTIME, Peaks(918e12, None, None, 1640e9), SLICES),
    "tpu-v5p": Chip("tpu", 96 * GIB, int(95.74 * GIB), OF_RUNTIME, Peaks(459e12, None, None, 2765e9),
                    ("1x1x1", *CUBES)),
    # NVIDIA's data sheets (H100, H200: SXM; A100: SXM 80 GB; L4), without sparsity.
    "h100": _nvidia(81559, Peaks(989e12, 494e12, 67e12, 3.35e12), _gpu(
        "9.0", 132, 128, 233472, 2048, 52428800, 1.98, 3352320000000, 84978434048, "NVIDIA H100 80GB HBM3")),
    "h200": _nvidia(143771, Peaks(989e12, 494e12, 67e12, 4.8e12), _gpu(
        "9.0", 132, 128, 233472, 2048, 62914560, 1.98, 4800000000000, 150123708416, "NVIDIA H200")),
    "a100": _nvidia(81920, Peaks(312e12, 156e12, 19.5e12, 2.039e12), _gpu(
        "8.0", 108, 64, 167936, 2048, 41943040, 1.41, 2039000000000, 85028765696, "NVIDIA A100-SXM4-80GB")),
    "l4": _nvidia(23034, Peaks(121e12, 60e12, 30.3e12, 300e9), _gpu(
        "8.9", 58, 128, 102400, 1536, 50331648, 2.04, 300096000000, 23659151360, "NVIDIA L4")),
    "cpu": Chip("cpu", 0, 0, ""),
}  # fmt: skip
EXTRAS = {"tpu": ("compile-tpu", ("libtpu",)), "gpu": ("compile-cuda", ("jax_cuda13_plugin", "nvidia.cu13"))}


@dataclass(frozen=True)
class Target:
    """Devices of a kind: ``tpu-v5e:2x4``, ``h100:8``, ``cpu:8``."""

    name: str
    chip: Chip
    topology: str  # of a TPU
    devices: int

    @property
    def platform(self) -> str:
        return self.chip.platform

    @property
    def hosts(self) -> int:
        """A host has 4 chips of a slice of TPUs, and 8 GPUs."""
        of_a_host = {"tpu": 4, "gpu": OF_A_HOST, "cpu": OF_A_MACHINE}[self.platform]
        return -(-self.devices // of_a_host)

    @property
    def memory(self) -> int:
        """Bytes of a device; virtual devices share those of the machine."""
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return self.chip.memory or whole // self.devices

    @property
    def usable(self) -> int:
        """Bytes of a device that a program gets."""
        return self.chip.usable or self.memory

    def environment(self) -> dict[str, str]:
        """What has to stand in the environment of a process that compiles for it, before it imports JAX. The process
        itself needs no accelerator, and compiles anew: how long that takes is told."""
        found = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": "", "JAXREC_CACHE": ""}
        flags = os.environ.get("XLA_FLAGS", "")
        if self.platform == "cpu":
            found["JAX_NUM_CPU_DEVICES"] = str(self.devices)
        if self.platform == "tpu":
            found |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TF_CPP_MIN_LOG_LEVEL": "3",
                      "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # fmt: skip
            found["TPU_STDERR_LOG_LEVEL"], found["TPU_MIN_LOG_LEVEL"] = "3", "3"
        if self.platform == "gpu":
            toolkit = cuda_toolkit()
            found |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
                      "PATH": f"{toolkit / 'bin'}:{os.environ.get('PATH', '')}"}  # fmt: skip
            found["XLA_FLAGS"] = f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={toolkit} {flags}".strip()
        return found


def parse(text: str) -> Target:
    """The target that a word of the command line says, or what is wrong with it in one line."""
    name, colon, shape = text.partition(":")
    if name not in CHIPS:
        usual = {"v5e": "tpu-v5e", "v6e": "tpu-v6e", "v5p": "tpu-v5p"}.get(name)
        near = f" (did you mean '{usual}'?)" if usual else nearest(name, CHIPS)
        raise UserError(f"--target {text}: no such target{near}; there are {listed(list(CHIPS))}, each with a topology "
                        "or a number of devices, such as tpu-v5e:2x2, h100:8 or cpu:8")  # fmt: skip
    chip = CHIPS[name]
    if chip.platform == "tpu":
        topology = shape if colon else chip.topologies[0]
        if topology not in chip.topologies:
            raise UserError(f"--target {text}: no such topology of {name}{nearest(topology, chip.topologies)}; there "
                            f"are {listed(chip.topologies)}")  # fmt: skip
        return Target(text, chip, topology, prod(map(int, topology.split("x"))))
    most = OF_A_MACHINE if chip.platform == "cpu" else 4096
    whole = OF_A_HOST if chip.platform == "gpu" else 1
    number = int(shape) if re.fullmatch("[1-9][0-9]{0,5}", shape) else 0 if colon else 1
    if not 0 < number <= most or (number > whole and number % whole):
        raise UserError(f"--target {text}: expected a number of devices, 1 to {most}"
                        f"{', beyond 8 in whole hosts of 8' if whole > 1 else ''}, such as {name}:8")  # fmt: skip
    return Target(text, chip, "", number)


def check_extra(target: Target) -> None:
    """One line where what compiles for a target is not installed, or is another version than JAX wants."""
    if target.platform not in EXTRAS:
        return
    extra, modules = EXTRAS[target.platform]
    if any(_lacks(module) for module in modules):
        raise UserError(f"--target {target.name}: its compiler is not installed; pip install 'jaxrec[{extra}]'")
    if target.platform == "gpu" and (mine := metadata.version("jax_cuda13_plugin")) != metadata.version("jax"):
        raise UserError(f"--target {target.name}: jax-cuda13-plugin is {mine}, and jax {metadata.version('jax')}; pip "
                        "install them in one version")  # fmt: skip


def _lacks(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # of a parent
        return True


def cuda_toolkit() -> Path:
    """The folder of NVIDIA's compiler, ``bin/ptxas`` within."""
    found = importlib.util.find_spec("nvidia.cu13")
    assert found is not None and found.submodule_search_locations, "check_extra comes first"
    return Path(next(iter(found.submodule_search_locations)))
