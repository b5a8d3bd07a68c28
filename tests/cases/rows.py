"""Every row: models that fold, models that are left alone for a reason, and models of which only the outputs matter."""

from __future__ import annotations

from tests.cases import (
    arithmetic,
    arithmetic_shapes,
    before_conv,
    channel_axis,
    computed_constants,
    constants_and_opsets,
    conv_batch_norm,
    every_pass,
    inner_graphs,
    matmul_batch_norm,
    merges,
    moved_biases,
    numeric_range,
    padding_and_sign,
    quantized_layers,
    sharing,
    stored_types,
    through_layers,
    unusual_models,
    weak_channels,
)
from tests.cases.case import Case

# One of each kind: what every folder should do, and what none may.
CORE: tuple[Case, ...] = tuple(
    case
    for section in (conv_batch_norm, matmul_batch_norm, sharing, stored_types, arithmetic, before_conv)
    for case in section.ROWS
)
# Shapes of model on which other folders crash, write an invalid file or change the answer.
FURTHER: tuple[Case, ...] = tuple(
    case
    for section in (
        constants_and_opsets,
        computed_constants,
        inner_graphs,
        channel_axis,
        arithmetic_shapes,
        padding_and_sign,
        numeric_range,
        unusual_models,
        merges,
        through_layers,
        moved_biases,
        every_pass,
        weak_channels,
        quantized_layers,
    )
    for case in section.ROWS
)
ROWS = (*CORE, *FURTHER)
# Nothing need happen, but the outputs stay.
SOUND: tuple[Case, ...] = (*unusual_models.SOUND, *merges.SOUND, *through_layers.EQUAL)
