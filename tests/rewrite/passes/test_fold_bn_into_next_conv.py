"""BatchNormalization then Conv becomes one Conv: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoNextConv(PassRows):
    name = "fold-bn-into-next-conv"
    folds = """
        bn-conv bn-depthwise-conv pads-0 valid same-without-padding same-lower-1x1 padding-never-read
        pure-scale-padded pure-scale-same depthwise-multiplier-2 grouped-no-bias grouped-square
        relu-bn-goes-forward large-grouped-next max-pool-padded max-pool-strided average-pool
        average-pool-uncounted-pads average-pool-ceil identity dropout scale-through-counted-pads dq-before
    """
    declines = """
        output-is-graph-output: bn-is-graph-output
        captured-by-subgraph: next-conv-in-branch
        several-readers: bn-two-readers
        negative-scale: max-pool-gamma-below-0
        padded-shift: bn-padded-conv bn-conv-same-upper same-lower same-unknown-size one-sided-pad
            average-pool-counted-pads
        no-linear-op: relu-gamma-above-0 relu-gamma-below-0 relu pad-constant-0 resize-tf-crop-and-resize
    """
