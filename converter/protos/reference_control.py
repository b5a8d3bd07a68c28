"""If, Loop and Scan for the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converter.protos.reference_call import Unsupported

Body = Callable[[Sequence[Any]], list[Any]]  # inputs of the body -> its outputs, outer values in reach


def run_if(inputs: Sequence[Any], bodies: dict[str, Body]) -> list[Any]:
    """The outputs of the branch that the condition picks."""
    return bodies["then_branch" if bool(np.asarray(inputs[0]).reshape(())) else "else_branch"](())


def run_loop(inputs: Sequence[Any], body: Body, n_scans: int) -> list[Any]:
    """Loop: carried values first, then each scan output stacked on a new first axis."""
    limit = None if inputs[0] is None else int(inputs[0])
    go_on = True if len(inputs) < 2 or inputs[1] is None else bool(inputs[1])
    carried, step = list(inputs[2:]), 0
    scans: list[list[Any]] = [[] for _ in range(n_scans)]
    while go_on and (limit is None or step < limit):
        outputs = body([np.asarray(step, dtype=np.int64), np.asarray(go_on), *carried])
        go_on = bool(outputs[0])
        carried = outputs[1 : 1 + len(carried)]
        for scan, value in zip(scans, outputs[1 + len(carried) :], strict=True):
            scan.append(value)
        step += 1
    if n_scans and not step:
        raise Unsupported("a Loop with scan outputs that runs zero times")
    return carried + [np.stack(s) for s in scans]


def run_scan(inputs: Sequence[Any], body: Body, n_body_outputs: int, attributes: dict[str, Any]) -> list[Any]:
    """Scan (opset 9 on): states, then each scan output stacked on its axis."""
    n_scan = attributes["num_scan_inputs"]
    n_state = len(inputs) - n_scan
    states = list(inputs[:n_state])
    n_out = n_body_outputs - n_state
    axes_in = attributes.get("scan_input_axes") or [0] * n_scan
    axes_out = attributes.get("scan_output_axes") or [0] * n_out
    turn_in = attributes.get("scan_input_directions") or [0] * n_scan
    turn_out = attributes.get("scan_output_directions") or [0] * n_out
    sequences = [np.moveaxis(x, a, 0) for x, a in zip(inputs[n_state:], axes_in, strict=True)]
    sequences = [s[::-1] if t else s for s, t in zip(sequences, turn_in, strict=True)]
    results: list[list[Any]] = [[] for _ in range(n_out)]
    for step in range(len(sequences[0])):
        outputs = body([*states, *(s[step] for s in sequences)])
        states = outputs[:n_state]
        for result, value in zip(results, outputs[n_state:], strict=True):
            result.append(value)
    if n_out and not results[0]:
        raise Unsupported("a Scan over an empty sequence")
    stacks = [np.stack(r[::-1] if t else r) for r, t in zip(results, turn_out, strict=True)]
    return states + [np.moveaxis(s, 0, a) for s, a in zip(stacks, axes_out, strict=True)]
