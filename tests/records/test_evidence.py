"""Records of evidence: what a warning is."""

from __future__ import annotations

import copy
import dataclasses
import json

from converter.records import Parity, Verdict, Warning, WarningCode


def test_a_warning_is_its_sentence_and_keeps_its_code() -> None:
    warning = Warning(WarningCode.TF32, "TF32 is on")
    assert warning == "TF32 is on"
    assert json.dumps([warning]) == '["TF32 is on"]'
    assert copy.deepcopy(warning).code is WarningCode.TF32


def test_a_copied_parity_keeps_the_codes() -> None:
    parity = Parity(Verdict.PASS, "C", warnings=(Warning(WarningCode.CONSTANT_OUTPUT, "y"),))
    again = dataclasses.replace(copy.deepcopy(parity), why="x")
    assert [warning.code for warning in again.warnings] == [WarningCode.CONSTANT_OUTPUT]
