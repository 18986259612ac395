"""What the rows say about a claim: margins, tests, and tables with a verdict."""

from rtl_utils.claims.keeping_out import judged, keeps_out, passing, power_text
from rtl_utils.claims.ranks import coupled_text, rank_table
from rtl_utils.claims.single import (
    CLAIM_4,
    CONDITIONS,
    OWN_TASK,
    chance_table,
    frozen_cases,
    frozen_table,
    map_rows,
    stuck_table,
)
from rtl_utils.claims.synthetic import lime_table, loss_tables, rise_tables
from rtl_utils.claims.verdicts import (
    ALIKE,
    ALLOWED,
    CHANCE,
    INFERIOR,
    NEAR_CHANCE,
    Case,
    Judged,
    course_cases,
    difference_text,
    differences,
    judge,
    verdict_table,
)

__all__ = [
    "ALIKE",
    "ALLOWED",
    "CHANCE",
    "CLAIM_4",
    "CONDITIONS",
    "INFERIOR",
    "NEAR_CHANCE",
    "OWN_TASK",
    "Case",
    "Judged",
    "chance_table",
    "coupled_text",
    "course_cases",
    "difference_text",
    "differences",
    "frozen_cases",
    "frozen_table",
    "judge",
    "judged",
    "keeps_out",
    "lime_table",
    "loss_tables",
    "map_rows",
    "passing",
    "power_text",
    "rank_table",
    "rise_tables",
    "stuck_table",
    "verdict_table",
]
