"""Small models, each for a kind that was left until it was reported: what is left, and that the referee agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

import converter
from converter.records import Verdict
from tests.harness import assert_ops

REPORTS = Path(__file__).with_name("reports")
# File, operators left.
LEFT = {
    # A channel whose product underflows.
    "tiny_gamma": "Conv Relu",
    "b2_bn_dead_denormal_channels": "Conv",
    # Nodes that hand on what they are given.
    "b3_noop_casts_between": "Cast Cast Conv",
    "dropout_training_false": "Conv Dropout",
    "castlike_conv_bn": "Add CastLike Conv",
    # A Sum with a constant is an Add.
    "sum_operator_bias": "Conv Relu",
    # A batch norm behind a pool.
    "avgpool_bn": "AveragePool Conv Relu",
    # Batch norms and arithmetic behind several operators, or before several.
    "a1_scale_on_q_after_head_split": "Add Add MatMul MatMul MatMul MatMul MatMul MatMul Reshape Reshape Reshape "
    "Reshape Softmax Transpose Transpose Transpose Transpose",
    "a3_scores_div_sqrt_d": "Add Add MatMul MatMul MatMul MatMul MatMul MatMul Reshape Reshape Reshape "
    "Reshape Softmax Transpose Transpose Transpose Transpose",
    "a5_adaln_linear_split_add_one": "Add Gemm Mul Split Unsqueeze",
    "affine_reflectpad_conv": "Conv Pad",
    "bn_into_lstm": "LSTM Transpose",
    "bn_into_two_convs": "Conv Conv Mul Relu Sigmoid",
    "concat_bn": "Concat Conv Conv Relu",
    "matmul_weight_left_bn": "Add MatMul Relu",
    "o_conv_split_mul": "Conv Split",
    "o_deformconv_bn": "DeformConv",
    "o_gather_emb_ln": "Gather",
    "o_relu_bn_conv_pos": "Conv Relu",
    "split_two_bn": "Concat Conv Relu Split",
    "b11_scaler_matmul_add_rank_unknown": "Gemm Relu",
    "g_skl_scaler_mlpr_op18": "Cast Gemm Gemm Relu Reshape",
    # Branches of one input, or of one layer.
    "rep_block": "Conv Relu",
    "siamese_difference_conv": "Abs Conv Conv Sub",
    "bn_given_batch_statistics": "BatchNormalization Conv Mul ReduceMean ReduceMean ReduceMean Relu Sub",
    # Functions whose weights are arguments.
    "o_functions": "Conv Conv Conv Conv Relu",
    # Weights behind DequantizeLinear, integer chains, values that are dequantized.
    "q01_wdq_pc_conv_bn": "Conv DequantizeLinear",
    "q03_wdq_pc_convbias_mul_add": "Conv DequantizeLinear",
    "q04_qat_conv_i32bias_bn_relu_q": "Conv DequantizeLinear DequantizeLinear DequantizeLinear QuantizeLinear "
    "QuantizeLinear Relu",
    "q06_wdq_matmul_mul_add": "Add DequantizeLinear MatMul",
    "q08_qlinearconv_zero_bias": "QLinearConv",
    "q09b_wdq_i32bias_instnorm": "Conv DequantizeLinear DequantizeLinear InstanceNormalization QuantizeLinear",
    "q10_dyn_convinteger_bias_bn": "Add Cast ConvInteger DynamicQuantizeLinear Mul Mul",
    "q11_dyn_matmulinteger_bias_div": "Add Cast DynamicQuantizeLinear MatMulInteger Mul Mul",
    "q12_matmulnbits_mul_add": "MatMulNBits",
    "q13_dynquantmatmul_mul": "DynamicQuantizeMatMul",
    "q15_act_dq_mul": "DequantizeLinear",
    # A bias that is quantized as the model runs; both halves of a quantized LSTM's.
    "b5_convinteger_runtime_bias_instnorm": "Add Cast ConvInteger Div DynamicQuantizeLinear Mul Mul Mul Mul "
    "ReduceMean ReduceMean Sqrt Sub",
    "b6_dynamicquantizelstm_wb_rb": "DynamicQuantizeLSTM",
    # Constants that are computed.
    "weight_norm_reducel2": "Conv Relu",
    "bn_tiled": "Conv Relu",
    "frozen_bn_reciprocal": "Conv Relu",
}


@pytest.mark.parametrize("name", LEFT)
def test_folds_and_passes(name: str) -> None:
    result = converter.fold(REPORTS / f"{name}.onnx")
    assert result.parity is not None
    assert result.parity.verdict is Verdict.PASS, result.parity.why
    assert_ops(result.model, LEFT[name])


def test_every_file_is_tested() -> None:
    assert sorted(LEFT) == sorted(path.stem for path in REPORTS.glob("*.onnx"))


def test_a_mean_of_the_same_input_takes_the_bias_away() -> None:
    result = converter.fold(REPORTS / "bn_given_batch_statistics.onnx")
    assert result.after.biases == 0
