"""Rows of the course's checkout, which the installed package lacks."""

import pandas as pd

from rtl_utils import tables


def stored(name: str) -> pd.DataFrame:
    """Rows of a sweep of the checkout: transfers that were trained as usual or longer.

    Args:
        name: of the folder in results/.

    Raises:
        FileNotFoundError: outside a checkout, since the installed package holds no rows.
    """
    rows = tables.stored(name)
    if rows.empty:
        raise FileNotFoundError(
            f"the rows of results/{name} are part of the course's checkout, not of the installed "
            "package: run this panel in the checkout"
        )
    return tables.as_usual(rows)
