"""Randomness as data: every draw of a training comes from a counter-based generator with a name.

A draw depends on (seed, stream, epoch) and on nothing else: not on the device, not on what was
drawn before, not on which other replicas train beside it. So two methods of one seed see the same
order of images, and their difference is a paired difference. Only fresh weights come from
PyTorch's own initialisation, seeded by the run's seed (`models.build`).
"""

from zlib import crc32

import numpy as np

STREAMS = {
    "order": "order of the target's examples, per epoch",
    "blend": "weights of a blend that draws them, per epoch",
    "pair": "source partners, per epoch",
    "moved": "which partners show the other source, per epoch",
    "dropout": "dropout masks, per epoch",
    "window": "windows before they grow",
    "windows": "which windows lie where, per epoch",
    "subset": "training examples of a smaller task",
    "held-out": "training examples that an adaptive schedule looks at",
    "blocks": "blocks of a coupling",
    "length": "weights of the blends on which lengths are measured",
    "watched": "pairs on which lengths are measured",
    "ball-train": "places of the shortcut on training images",
    "ball-val": "places of the shortcut on validation images",
    "ball-share": "which training images carry the shortcut",
    "ball-share-val": "which validation images carry the shortcut",
    "synthetic": "means and variances of the synthetic features",
    "synthetic-source": "samples of the synthetic source",
    "synthetic-target": "samples of the synthetic target",
    "permute-columns": "permutation of the synthetic features",
    "permute-rows": "permutation of the rows of each synthetic feature",
    "digits-digits-0-4": "places, clutter, noise and split of the digits 0 to 4",
    "digits-digits-5-9": "places, clutter, noise and split of the digits 5 to 9",
    "lime": "perturbations around an explained point, per point",
}


def generator(seed: int, stream: str, epoch: int = 0) -> np.random.Generator:
    """The generator of one named stream in one epoch.

    Args:
        seed: the run's only seed, 0 <= seed < 2^63.
        stream: what is drawn; the table of all of them is STREAMS.
        epoch: position within the stream.

    Raises:
        ValueError: for another seed.

    Source: Philox, Salmon et al. (2011).
    """
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number in [0, 2^63); got {seed!r}")
    # the first word of the counter stays 0: Philox counts the draws there
    key = [seed, crc32(stream.encode())]
    return np.random.Generator(np.random.Philox(key=key, counter=[0, epoch, 0, 0]))
