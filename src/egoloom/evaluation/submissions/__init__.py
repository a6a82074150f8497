"""Submission files of public challenges, with validators that say what is wrong before the server does."""

from egoloom.evaluation.submissions.checks import read_json_submission
from egoloom.evaluation.submissions.ego4d import (
    check_lta_submission,
    check_sta_submission,
    write_lta_submission,
    write_sta_submission,
)
from egoloom.evaluation.submissions.epic import (
    SupervisionLevels,
    check_epic_submission,
    epic_submission,
    read_epic_submission,
    write_epic_submission,
)
from egoloom.evaluation.submissions.ssv2 import check_ssv2_submission, write_ssv2_submission

__all__ = [
    "SupervisionLevels",
    "check_epic_submission",
    "check_lta_submission",
    "check_ssv2_submission",
    "check_sta_submission",
    "epic_submission",
    "read_epic_submission",
    "read_json_submission",
    "write_epic_submission",
    "write_lta_submission",
    "write_ssv2_submission",
    "write_sta_submission",
]
