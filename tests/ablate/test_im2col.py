"""Patches times weights plus bias are what onnxruntime computes, whatever the geometry."""

from __future__ import annotations

import numpy as np
import pytest

from converter.ablate.im2col import Form, extract_rows
from converter.ablate.measure import imitate_bias
from converter.ablate.statistics import explain_mismatch
from tests.ablate.made import draw, layer, net_of

# op, attributes, x, weight, bias: distinct sizes on every axis, so that none can stand for another
LAYERS = {
    "plain": ("Conv", "kernel_shape=[3,5]", (2, 3, 11, 13), (5, 3, 3, 5), 5),
    "padded": ("Conv", "kernel_shape=[3,5],pads=[2,1,0,3]", (2, 3, 11, 13), (5, 3, 3, 5), 5),
    "strided": ("Conv", "kernel_shape=[3,3],strides=[2,3],pads=[1,1,1,1]", (2, 3, 11, 13), (5, 3, 3, 3), 5),
    "dilated": ("Conv", "kernel_shape=[3,2],dilations=[2,3],pads=[1,2,3,0]", (2, 3, 11, 13), (5, 3, 3, 2), 5),
    "grouped": ("Conv", "kernel_shape=[3,3],group=2,pads=[1,1,1,1]", (2, 4, 7, 5), (6, 2, 3, 3), 6),
    "depthwise": ("Conv", "kernel_shape=[3,3],group=4,pads=[1,1,1,1]", (2, 4, 7, 5), (8, 1, 3, 3), 8),
    "same-upper": ("Conv", 'kernel_shape=[4,3],auto_pad="SAME_UPPER",strides=[2,2]', (2, 3, 11, 13), (5, 3, 4, 3), 5),
    "same-lower": ("Conv", 'kernel_shape=[4,3],auto_pad="SAME_LOWER",strides=[2,2]', (2, 3, 11, 13), (5, 3, 4, 3), 5),
    "valid": ("Conv", 'kernel_shape=[3,3],auto_pad="VALID"', (2, 3, 11, 13), (5, 3, 3, 3), 5),
    "1-d": ("Conv", "kernel_shape=[3],strides=[2],pads=[1,2]", (2, 3, 11), (5, 3, 3), 5),
    "3-d": ("Conv", "kernel_shape=[2,3,2],pads=[0,1,1,1,0,1]", (2, 3, 5, 7, 4), (5, 3, 2, 3, 2), 5),
    "transposed": ("ConvTranspose", "kernel_shape=[3,2],strides=[2,3]", (2, 4, 5, 7), (4, 3, 3, 2), 3),
    "transposed-padded": (
        "ConvTranspose",
        "kernel_shape=[3,4],strides=[2,3],pads=[1,0,0,2],output_padding=[1,2]",
        (2, 4, 5, 7),
        (4, 3, 3, 4),
        3,
    ),
    "transposed-grouped": (
        "ConvTranspose",
        "kernel_shape=[3,3],strides=[2,1],dilations=[1,2],group=2,pads=[1,1,1,1]",
        (2, 4, 5, 7),
        (4, 3, 3, 3),
        6,
    ),
    "transposed-cut": ("ConvTranspose", "kernel_shape=[2],strides=[1],pads=[2,1]", (2, 3, 9), (3, 5, 2), 5),
    "transposed-same": (
        "ConvTranspose",
        'kernel_shape=[3,3],strides=[2,2],auto_pad="SAME_UPPER"',
        (2, 3, 5, 7),
        (3, 5, 3, 3),
        5,
    ),
    "gemm": ("Gemm", "", (4, 7), (7, 5), 5),
    "gemm-rows": ("Gemm", "transB=1,alpha=0.5,beta=2.0", (4, 7), (5, 7), 5),
    "gemm-scalar": ("Gemm", "transB=1", (4, 7), (5, 7), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_weights_are_the_layer(name: str) -> None:
    op, attributes, shape, weight, bias = LAYERS[name]
    net, _ = net_of(layer(op, attributes, shape, weight, bias))
    (site,) = net.sites
    x = draw(*shape, seed=3)
    y = net.inside([site.y]).run({"x": x}, {})[site.y]
    assert explain_mismatch(site, x, y) == ""
    flat, shift = site.form.flat(site.weight), site.shift.reshape(site.form.groups, 1, -1)
    seen = 0
    for rows in extract_rows(site.form, x, y):
        np.testing.assert_allclose(rows.x @ flat.swapaxes(1, 2) + shift, rows.y, atol=1e-4)
        seen += rows.y.size
    assert seen == y.size
    np.testing.assert_array_equal(site.form.stored(flat), site.weight)


@pytest.mark.parametrize("name", ["grouped", "transposed-grouped", "gemm-rows", "3-d"])
def test_weights_in_place_of_a_bias(name: str) -> None:
    """y' = W x + b (v . x), in whatever way the operator holds its weight."""
    op, attributes, shape, weight, bias = LAYERS[name]
    net, _ = net_of(layer(op, attributes, shape, weight, bias))
    (site,) = net.sites
    v = draw(site.form.groups, site.form.n_in, seed=6).astype(np.float64)
    x = draw(*shape, seed=3)
    tap = net.inside([site.y], [site])
    before, after = (tap.run({"x": x}, net.original | s)[site.y] for s in ({}, imitate_bias(net, site, v)))
    shift = site.shift.reshape(site.form.groups, 1, -1)
    for old, new in zip(extract_rows(site.form, x, before), extract_rows(site.form, x, after), strict=True):
        expected = old.y - shift + (old.x @ v[:, :, None]) * shift
        np.testing.assert_allclose(new.y, expected, atol=1e-3)


def test_matmul_of_batches_and_its_add() -> None:
    from tests.tiny import model

    text = "(float[N,3,7] x) => (float[N,3,5] y) { m = MatMul(x, w)  y = Add(b, m) }"
    net, _ = net_of(model(text, {"w": draw(7, 5, seed=1), "b": draw(5, seed=2)}))
    (site,) = net.sites
    x = draw(2, 3, 7, seed=3)
    y = net.inside([site.y]).run({"x": x}, {})[site.y]
    rows = list(extract_rows(site.form, x, y))
    assert [r.row for r in rows] == [0, 1]
    np.testing.assert_allclose(rows[1].x[0] @ site.weight + site.shift, y[1], atol=1e-5)


def test_a_misread_layer_is_told() -> None:
    op, attributes, shape, weight, bias = LAYERS["strided"]
    net, _ = net_of(layer(op, attributes, shape, weight, bias))
    (site,) = net.sites
    x = draw(*shape, seed=3)
    y = net.inside([site.y]).run({"x": x}, {})[site.y]
    assert "differs" in explain_mismatch(site, x, y + 1)
    assert "geometry" in explain_mismatch(site, x[:, :, :2, :2], y)


def test_positions_are_drawn_by_seed_and_row() -> None:
    form = Form("conv", (5, 3, 1, 1), strides=(1, 1), dilations=(1, 1), pads=((0, 0), (0, 0)))
    x = np.arange(2 * 3 * 7 * 11, dtype=np.float32).reshape(2, 3, 7, 11)
    y = np.zeros((2, 5, 7, 11), np.float32)
    first = [r.x for r in extract_rows(form, x, y, most=10, seed=(1, 2), first=4)]
    again = [r.x for r in extract_rows(form, x, y, most=10, seed=(1, 2), first=4)]
    moved = [r.x for r in extract_rows(form, x, y, most=10, seed=(1, 3), first=4)]
    assert [v.shape for v in first] == [(1, 10, 3)] * 2
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], moved[0])
    # a batch cut elsewhere draws the same of the same row
    alone = next(iter(extract_rows(form, x[1:], y[1:], most=10, seed=(1, 2), first=5))).x
    np.testing.assert_array_equal(alone, first[1])


def test_chunks_do_not_change_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    op, attributes, shape, weight, bias = LAYERS["grouped"]
    net, _ = net_of(layer(op, attributes, shape, weight, bias))
    x = draw(*shape, seed=3)
    y = net.inside(["y"]).run({"x": x}, {})["y"]
    whole = [r.x for r in extract_rows(net.sites[0].form, x, y)]
    monkeypatch.setattr("converter.ablate.im2col.CHUNK_BYTES", 1)
    parts = [r.x for r in extract_rows(net.sites[0].form, x, y)]
    assert len(parts) > len(whole)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), np.concatenate(whole, axis=1))


def test_the_centre_is_the_middle_tap() -> None:
    form = Form("conv", (5, 2, 3, 3), strides=(1, 1), dilations=(1, 1))
    centre = form.centre()
    assert centre is not None
    assert np.flatnonzero(centre).tolist() == [4, 13]
    assert Form("conv", (5, 2, 2, 3), strides=(1, 1), dilations=(1, 1)).centre() is None
    assert Form("matrix", (5, 2)).centre() is None
