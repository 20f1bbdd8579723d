"""What this machine has: its device, bfloat16, and memory that stays mapped."""

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from gan.errors import Refused


def pick_device(gpu: bool | str) -> torch.device:
    """True, False or "auto" -> a device; raises Refused if the GPU asked for is not there."""
    found = [
        name
        for name, there in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
        )
        if there
    ]
    if gpu is True and not found:
        raise Refused(
            "--gpu=True: PyTorch finds no CUDA or MPS device here, only the CPU; leave --gpu out, "
            "or install a PyTorch build for your GPU"
        )
    if gpu is False or not found:
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, which convolutions have by default
    return torch.device(found[0])


def describe() -> str:
    """This machine in a line: system, processor, cores, GPU, Python and PyTorch."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
        name = names[0] if names else name
    except OSError:  # not Linux
        pass
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    parts = [platform.system(), name, f"{os.cpu_count()} cores", *gpu]
    return ", ".join(
        [*parts, f"Python {platform.python_version()}", f"PyTorch {torch.__version__}"]
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself: faster then, all but the smallest nets."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asked = getattr(torch.cpu, "get_capabilities", dict) if device.type == "cpu" else dict
    found: dict[str, object] = asked()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether the machine or its GPU ran out of memory."""
    said = (
        "out of memory", "not enough memory", "can't allocate memory",
        "Storage size calculation overflowed",
    )  # fmt: skip
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def check_memory(need: int, what: str) -> None:
    """Raises Refused, naming `what` asks for it, if `need` bytes are more than this machine has."""
    if need > (there := memory_bytes()):
        raise Refused(
            f"{what}: out of memory, it needs about {need / 1e9:,.0f} GB and this machine has "
            f"{there / 1e9:,.0f}; give less"
        )


def memory_bytes() -> int:
    """Memory of this machine, or of the container it is; 2**63 where the system does not tell."""
    found = [2**63]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)


def reuse_freed_memory() -> None:
    """Have the C library keep freed memory instead of returning it to the system every step.

    glibc maps each large tensor anew and the kernel clears its pages; without that a step on the
    CPU is up to a third faster. Elsewhere this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
