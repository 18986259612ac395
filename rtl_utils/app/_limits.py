"""What a page's visitors may use."""

from typing import NamedTuple


class Limits(NamedTuple):
    """How many visitors a page may have, and how long.

    Args:
        visitors: at once; each has a kernel of some 50 MB, or 300 MB where kernels are not forked.
        idle: seconds without any use after which a visitor's kernel is ended.
    """

    visitors: int = 20
    idle: float = 30 * 60
