"""Memory that a process has freed and will want again.

glibc returns what is freed to the system, and each page of a new block costs a fault and is zeroed. How much it keeps follows
from the largest block that was freed so far (mallopt(3), M_MMAP_THRESHOLD), up to 64 MB. Other C libraries are left alone.
"""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_LARGEST = 2**25 - 2**13  # bytes: the largest block that glibc learns from, less what it adds


def expect_large_blocks() -> None:
    """Lets glibc keep 64 MB of freed memory from now on, as it does by itself once a block of 32 MB has been freed.

    An image of 640 pixels takes about 20 MB in blocks of up to 6 MB. Whether they are had anew for each image depends on how
    they lie; where they are, that is a seventh of detection.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)  # and freed


def keep_freed_memory() -> None:
    """Lets this process keep all that it frees, until its end.

    A training step frees hundreds of megabytes, in blocks larger than glibc ever keeps, and asks for them again at the next:
    up to a third of a step at 640 pixels on two cores.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_MMAP_MAX, 0)
