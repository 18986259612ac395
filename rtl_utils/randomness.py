"""Randomness as data: every draw comes from a counter-based generator with a name.

A draw depends on (seed, stream, epoch) and on nothing else: not on the device, not on what was drawn before, not on which other
replicas train beside it. So two methods of one seed see the same order of images, and their difference is a paired difference.
"""

from zlib import crc32

import numpy as np


def generator(seed: int, stream: str, epoch: int = 0) -> np.random.Generator:
    """Philox generator (Salmon et al. 2011) of one named stream in one epoch.

    seed: the run's only seed, 0 <= seed < 2^63; stream: what is drawn ("order", "ball", ...); epoch: position within the stream.
    Raises ValueError for another seed.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must lie in [0, 2^63); got {seed}")
    # the first word of the counter stays 0: Philox counts the draws there
    return np.random.Generator(np.random.Philox(key=[seed, crc32(stream.encode())], counter=[0, epoch, 0, 0]))
