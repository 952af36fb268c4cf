"""What this machine's processor computes fast."""

import platform
from functools import cache


@cache
def computes_bf16() -> bool:
    """Whether products in bf16 are at least about as fast as in fp32.

    On x86, torch's libraries have kernels for them from AVX-512 on; below it they are many times slower.
    """
    import torch

    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not is_x86 or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX", "AVX2")
