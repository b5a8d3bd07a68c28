"""The one table of passes, in the order in which they run."""

from __future__ import annotations

from converter.rewrite.passes import (
    absorb,
    drop,
    fold_into_consumer,
    fold_into_producer,
    hoist,
    merge,
    move_bias,
    normalise_gemm,
    parallel,
    recurrent,
)
from converter.rewrite.passes.base import Check, Pass
from converter.rewrite.passes.reasons import MEANINGS

PASSES: tuple[Pass, ...] = (
    drop.UNREAD,
    drop.TWINS,
    *fold_into_producer.PASSES,
    *fold_into_consumer.PASSES,
    merge.BN_INTO_BN,
    merge.AFFINE_INTO_BN,
    merge.AFFINES,
    merge.SUM_TERMS,
    *hoist.PASSES,
    parallel.CONVS,
    parallel.DIFFERENCE,
    absorb.PASS,
    drop.ZERO_BIAS,
    drop.IDENTITY_BN,
    drop.IDENTITY_AFFINE,
    move_bias.DROP_BEFORE_NORM,
    absorb.RUN_TIME,
    move_bias.DROP_ATTENTION_KEY,
    move_bias.SINK_ATTENTION_VALUE,
    move_bias.SINK,
    move_bias.MERGE_PARALLEL,
    recurrent.PASS,
    normalise_gemm.PASS,
)

__all__ = ["MEANINGS", "PASSES", "Check", "Pass"]
