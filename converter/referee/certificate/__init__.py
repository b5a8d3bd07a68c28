"""Replays a certificate on the original model: checks every claim, rebuilds the folded model.

Shares no code with the passes and the graph that they edit: a wire, an edit and a factor mean here what
docs/certificate.md says, and nothing else.
"""

from __future__ import annotations

from converter.referee.certificate.constants import Refusal, encoded
from converter.referee.certificate.output import built
from converter.referee.certificate.replay import SCHEMA, Engine, Replayed, check, facts, read, sealed

__all__ = ["SCHEMA", "Engine", "Refusal", "Replayed", "built", "check", "encoded", "facts", "read", "sealed"]
