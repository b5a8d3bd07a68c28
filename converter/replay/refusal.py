"""What makes a replay fail: something that the certificate says and that is not so."""

from __future__ import annotations


class Refusal(Exception):
    """``where``: the step or field; ``why``: what is wrong there."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where, self.why = where, why
