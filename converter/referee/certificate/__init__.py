"""Replays a certificate on the original model: checks every claim, rebuilds the folded model.

Shares no code with the passes and the graph that they edit: a tensor, an edit and a factor mean here what
docs/certificate.md says, and nothing else.
"""

from __future__ import annotations

from converter.referee.certificate.constants import CertificateError, encode_array, encode_integers
from converter.referee.certificate.replay import (
    SCHEMA,
    Replayer,
    ReplayResult,
    check_certificate,
    compute_seal,
    describe_facts,
    read_certificate,
)
from converter.referee.certificate.serialize import build_model

__all__ = [
    "SCHEMA",
    "CertificateError",
    "ReplayResult",
    "Replayer",
    "build_model",
    "check_certificate",
    "compute_seal",
    "describe_facts",
    "encode_array",
    "encode_integers",
    "read_certificate",
]
