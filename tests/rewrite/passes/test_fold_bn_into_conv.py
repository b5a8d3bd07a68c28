"""Conv then BatchNormalization becomes one Conv: its rows."""

from __future__ import annotations

from tests.rewrite.passes.walk import PassRows


class TestFoldBnIntoConv(PassRows):
    name = "fold-bn-into-conv"
    folds = """
        conv2d-bias-bn conv2d-no-bias-bn conv1d-bn conv3d-bn grouped-conv-bn depthwise-conv-bn
        conv-empty-third-input-bn opset-9-ir-4 opset-22 ir-3-initializers-are-inputs opset-6-is-test
        epsilon-absent epsilon-zero conv-bn-bn symbolic-batch shared-weights-both-with-bn
        shared-weights-one-with-bn conv-bias-is-beta weight-captured-by-if weight-is-graph-output
        all-params-constant-nodes params-behind-identity in-if-own-initializers in-if-outer-initializers
        in-function sparse-initializer-beside float64 float16 fp16-var-0-eps-1e-8 bn15-fp16-params-fp32
        slice-bias start-bias of-shape-bias weight-behind-cast weight-behind-reshape weight-behind-transpose
        training-mode-0 ir-3-shared-weight freeze-w freeze-g freeze-v freeze-all no-growth-unshared
        gamma-is-var weight-in-nested-if loop-own loop-outer scan-own scan-outer function-called-twice
        transpose-pair identity-between dropout-between dropout-false-between
        shuffle-dcr-between shuffle-crd-between
        cast-to-same-between average-between global-average-between maximum-between cast-like-same-between
        reshape-keeps-channel reshape-zero-and-minus-1
        unsqueeze squeeze conv-bfloat16 bfloat16-params-fp32 fp16-eps-underflows-everywhere eps-absent-opset-9
        eps-absent-opset-15 eps-0.0-opset-9 eps-0.0-opset-15 eps-0.001-opset-9 eps-0.001-opset-15
        eps-1e-10-opset-9 eps-1e-10-opset-15 var-slightly-negative var-0 gamma-0 gamma-negative large-conv
        nested-function long-domain-name weak-gamma weak-gamma-no-shift weak-weight weak-everything
        weak-gamma-and-variance weak-gamma-bfloat16 all-weak-but-shifted
        computed-weight-norm computed-weight-norm-opset-13 computed-standardised computed-masked computed-thresholded
        computed-einsum computed-scattered computed-of-its-shape computed-split computed-split-second
        computed-padded-and-added computed-low-rank computed-tiled
        computed-tanh-of-half computed-deep computed-variance
        weight-dequantize-linear dq-per-tensor dq-per-axis dq-zero-point dq-uint8 dq-opset-13 dq-negative dq-gamma-0
        dq-int32-bias dq-int4-negative
    """
    declines = """
        function-attribute: epsilon-differs-per-call
        training-mode: training-3-outputs training-1-output opset-9-five-outputs opset-6-is-test-absent
        output-is-graph-output: conv-output-is-graph-output output-of-a-body
        captured-by-subgraph: conv-output-captured-by-if captured-by-loop captured-by-scan captured-by-nested-if
            bn-in-branch
        several-readers: dq-read-twice conv-output-second-consumer one-conv-two-bns
        overridable: weight-overridable bn-scale-overridable all-overridable computed-of-overridable
        function-input: weights-differ-per-call computed-of-argument
        not-constant: bn-scale-is-graph-input computed-of-random computed-too-large
        weight-quantized: conv-weight-dequantized
        per-axis-scale: dq-opset-12
        scale-axis: dq-of-inputs
        integer-range: dq-minus-128
        spatial-stats: opset-7-spatial-0 opset-6-spatial-0
        padded-shift: average-counts-padding-between
        negative-scale: maximum-between-negative
        channel-axis: shuffle-of-width-between conv-transpose-1-2 half-a-transpose-pair reshape-mixes-channels
        non-positive-variance: bad-var-below-minus-eps bad-var-is-minus-eps bad-var-0-eps-0
        not-finite: bad-g-nan bad-be-nan bad-m-nan bad-v-nan bad-w-nan bad-b-nan bad-g-inf bad-be-inf bad-m-inf
            bad-v-inf bad-w-inf bad-b-inf
        overflow: fp16-overflow params-fp32-overflow-fp16
        rounding: fp16-weight-underflows all-weak fp16-all-weak
        weight-shared: no-growth-one-bn no-growth-two-bns
        no-linear-op: conv-relu-bn conv-relu-bn-gamma--1.5 conv-relu-bn-gamma-0 conv-sigmoid-bn conv-leakyrelu-bn
            conv-hardswish-bn dropout-true-between cast-to-half-between
        opset: opset-5
    """
