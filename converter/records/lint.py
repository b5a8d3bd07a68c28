"""What the linter of torch modules found: codes, findings with their evidence, and what it could not decide."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Any

from converter.dataclass import dataclass


class Kind(StrEnum):
    """What a finding says about a bias."""

    DEAD = "dead"  # it changes nothing in training
    REDUNDANT = "redundant"  # another parameter does the same
    ADVICE = "advice"  # a value that will hurt training
    SOURCE = "source"  # a rule in the source that is the wrong way round


@dataclass(frozen=True)
class Code:
    """One kind of finding. ``name`` is public API."""

    name: str
    kind: Kind
    summary: str
    why: str
    fix: str


CODES: tuple[Code, ...] = (
    Code(
        "bias-before-batch-norm",
        Kind.DEAD,
        "a bias that batch norms take away in training",
        "The norm subtracts each channel's mean over the batch, and with it whatever was added to the channel.",
        "construct the layer with bias=False; the norm's own offset (beta) does what the bias was for",
    ),
    Code(
        "bias-before-instance-norm",
        Kind.DEAD,
        "a bias that instance norms take away",
        "The norm subtracts each channel's mean over each image, and with it whatever was added to the channel.",
        "construct the layer with bias=False; affine=True gives the norm an offset, where one is wanted",
    ),
    Code(
        "bias-before-group-norm",
        Kind.DEAD,
        "a bias that a group norm of one channel per group takes away",
        "With as many groups as channels the norm subtracts each channel's mean, and with it the bias.",
        "construct the layer with bias=False",
    ),
    Code(
        "bias-before-layer-norm",
        Kind.DEAD,
        "a bias that a layer norm takes away",
        "What is added is the same all along the axes over which the norm subtracts the mean.",
        "construct the layer with bias=False",
    ),
    Code(
        "bias-before-centring",
        Kind.DEAD,
        "a bias that a hand-written norm takes away",
        "The mean that is subtracted, or the variance that is taken, runs over axes on which the bias is the same.",
        "construct the layer with bias=False",
    ),
    Code(
        "bias-before-softmax",
        Kind.DEAD,
        "a bias that a softmax takes away",
        "It is added to every entry that the softmax weighs against each other.",
        "construct the layer with bias=False",
    ),
    Code(
        "attention-key-bias",
        Kind.DEAD,
        "a bias of attention keys",
        "It adds the same number to all scores of one query, and the softmax over the keys does not see that.",
        "give the keys a projection without bias; where queries, keys and values share one bias, leave its part at 0",
    ),
    Code(
        "dead-norm-offset",
        Kind.DEAD,
        "an offset (beta) of a norm that other norms or a softmax take away",
        "Between the two norms stands nothing but linear operators, so what the first adds the next subtracts.",
        "nothing need be done; affine norms of newer torch take bias=False",
    ),
    Code(
        "frozen-norm-bias",
        Kind.REDUNDANT,
        "a bias before a norm whose statistics are fixed, and whose offset is trained",
        "The norm scales and shifts each channel by constants, so its offset spans what the bias does.",
        "construct the layer with bias=False; strip moves the value into the norm's running mean",
    ),
    Code(
        "doubled-rnn-bias",
        Kind.REDUNDANT,
        "two biases of a recurrent layer that are only ever added",
        "b_ih and b_hh have the same gradient: one parameter, which learns at twice the rate under SGD.",
        "add b_hh to b_ih, set b_hh to 0 and do not train it",
    ),
    Code(
        "forget-gate-bias",
        Kind.ADVICE,
        "an LSTM that forgets within a few steps, because its forget gate starts near one half",
        "With a forget bias b the memory lasts about 1 + e^b steps: 2 for b = 0.",
        "set the forget part of b_ih + b_hh to 1 or 2 at the start, if it must remember for long",
    ),
    Code(
        "large-bias-before-norm",
        Kind.ADVICE,
        "a bias so large that a norm in low precision loses digits",
        "bfloat16 and float16 round to a fraction of the value, and the norm subtracts the large part afterwards.",
        "remove the bias: the norm takes it away, and its rounding error stays",
    ),
    Code(
        "use-bias-if-instance-norm",
        Kind.SOURCE,
        "a bias that is switched on exactly where an instance norm takes it away",
        "InstanceNorm has no offset by default, but it subtracts the mean: the bias is lost, not missed.",
        "use_bias = False for batch norm and instance norm alike; affine=True where an offset is wanted",
    ),
)


@dataclass(frozen=True)
class Location:
    """A place in a source file; lines and columns count from 1, 0 is unknown."""

    path: str
    line: int
    column: int = 0
    end_line: int = 0
    end_column: int = 0


@dataclass(frozen=True)
class LintFinding:
    """One bias, or part of one, that cannot matter in training, or that will hurt it."""

    code: str
    kind: Kind
    module: str  # qualified name; "" is the module itself
    parameter: str  # qualified name
    part: tuple[int, int] | None  # elements start:stop of the parameter; None: all
    n_parameters: int  # that the finding is about
    message: str  # one clause
    fix: str
    cost: str  # what it costs in training
    location: Location | None = None  # of the call that constructs the module
    called_from: Location | None = None  # of the nearest call in the user's own folder, where that is another
    evidence: dict[str, Any] = field(default_factory=dict)  # JSON values only


@dataclass(frozen=True)
class Unconfirmed:
    """A verdict of the trace that the run in float64 did not bear out; never a finding."""

    code: str
    parameter: str
    why: str


@dataclass(frozen=True)
class LintReport:
    """What was found in one module."""

    label: str
    findings: tuple[LintFinding, ...]
    unconfirmed: tuple[Unconfirmed, ...]
    n_biases: int  # vectors looked at
    n_bias_parameters: int
    n_parameters: int  # of the module
    tracer: str  # torch.export | torch.fx
    notes: tuple[str, ...] = ()

    @property
    def n_dead(self) -> int:
        """The number of parameters that change nothing in training."""
        return sum(finding.n_parameters for finding in self.findings if finding.kind is Kind.DEAD)

    @property
    def n_redundant(self) -> int:
        """The number of parameters that do what another does."""
        return sum(finding.n_parameters for finding in self.findings if finding.kind is Kind.REDUNDANT)

    def failed(self, codes: frozenset[str]) -> bool:
        """Whether a finding has one of these codes; ``any`` is all of them."""
        return any("any" in codes or finding.code in codes for finding in self.findings)
