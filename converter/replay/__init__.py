"""Replays a certificate on the original model: checks every claim, rebuilds the folded model.

Shares no code with the passes and the graph that they edit: a wire, an edit and a factor mean here what
docs/certificate.md says, and nothing else.
"""

from __future__ import annotations

from converter.replay.check import SCHEMA, Replayed, check, facts, read, sealed
from converter.replay.constants import encoded
from converter.replay.engine import Engine
from converter.replay.output import built
from converter.replay.refusal import Refusal

__all__ = ["SCHEMA", "Engine", "Refusal", "Replayed", "built", "check", "encoded", "facts", "read", "sealed"]
