"""The nouns that every layer shares: frozen records without behaviour that needs a library. They are the JSON.

Names of nodes in records are *labels*: the node's own name where it has a unique one, otherwise
``<op_type>:<first output>``; nodes of a subgraph or function are prefixed with their owner's
label and a slash.
"""

from converter.records.evidence import (
    Block,
    Environment,
    InputSet,
    Latency,
    ModelFacts,
    OutputCheck,
    Parity,
    Stage,
    Timing,
    Verdict,
    Warning,
    WarningCode,
    exit_code_of,
)
from converter.records.rewrites import (
    Counts,
    Delta,
    EffectKind,
    Fate,
    FateKind,
    Finding,
    Gate,
    Rewrite,
    Safety,
    Status,
    Step,
    Verb,
    Weight,
    count_biases,
)

__all__ = [
    "Block",
    "Counts",
    "Delta",
    "EffectKind",
    "Environment",
    "Fate",
    "FateKind",
    "Finding",
    "Gate",
    "InputSet",
    "Latency",
    "ModelFacts",
    "OutputCheck",
    "Parity",
    "Rewrite",
    "Safety",
    "Stage",
    "Status",
    "Step",
    "Timing",
    "Verb",
    "Verdict",
    "Warning",
    "WarningCode",
    "Weight",
    "count_biases",
    "exit_code_of",
]
