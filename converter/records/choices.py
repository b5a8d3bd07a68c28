"""What there is to choose from, where more than one room has to know it. Nothing is imported for it."""

from __future__ import annotations

from enum import StrEnum


class StageId(StrEnum):
    """The stages of the referee, in the order in which they are told of; the words for each are in `report.wording`.

    ``optional``: whether it may be asked for by name. The others come with one of these, or with every run.
    """

    optional: bool

    def __new__(cls, id_: str, optional: bool = False) -> StageId:
        stage = str.__new__(cls, id_)
        stage._value_ = id_
        stage.optional = optional
        return stage

    ENVIRONMENT = "environment"
    STRUCTURE = "structure", True
    ALGEBRA = "algebra", True
    PARAMETERS = "parameters", True
    LOCAL = "local", True
    SEGMENTS = "segments"
    RUNTIME = "runtime", True
    RUNTIME_DEPLOYED = "runtime-deployed"
    DECISION = "decision", True
    REMOVAL = "removal"
