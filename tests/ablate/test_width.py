"""The claim itself, on a net trained here: width lets weights replace biases, and nothing replaces a level."""

from __future__ import annotations

import numpy as np
import pytest

from converter.ablate.compensate import FitOptions, compensate
from converter.ablate.measure import Effect, measure_effects
from converter.ablate.session import Net
from tests.ablate.made import chain, data_of, images, net_of

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def wide() -> tuple[Net, dict[str, Effect]]:
    from tests.benchmarks.ablate_digits import trained

    content, (train, _, test, labels) = trained(64, 0, epochs=6)
    net, _ = net_of(content)
    convs = [s for s in net.sites if s.op == "Conv"]
    assert len(convs) == 3
    done = compensate(net, convs, data_of(net.source, {"image": train}).all(), FitOptions())
    assert done is not None
    zero = dict(net.original)
    for site in convs:
        zero |= net.without(site)
    held_out = data_of(net.source, {"image": test}, labels).all()
    return net, measure_effects(net, {"zero": zero, "moved": done.state}, held_out, "out", decides=True)[0]


def test_at_width_64_weights_replace_every_bias_where_zeroing_ruins_the_net(
    wide: tuple[Net, dict[str, Effect]],
) -> None:
    _, found = wide
    zero, moved = (found[n].summarize() for n in ("zero", "moved"))
    assert zero.accuracy_before > 0.97
    assert zero.difference < -0.10
    assert moved.difference >= -0.003
    assert moved.relative_error < zero.relative_error / 5


def test_a_net_without_biases_cannot_see_a_level() -> None:
    """f(a x) = a f(x): whatever the width, the answer to a brighter image is the same."""
    for width in (4, 32):
        net, _ = net_of(chain(width))
        state = dict(net.original)
        for site in net.sites:
            state |= net.without(site)
        x, tap = images(64), net.answers()
        bare = [tap.run({"x": a * x}, state)["z"] for a in (1.0, 0.5)]
        np.testing.assert_allclose(bare[1], 0.5 * bare[0], rtol=1e-4, atol=1e-6)
        assert (bare[0].argmax(1) == bare[1].argmax(1)).all()  # two classes that differ by contrast: half are wrong
        full = [tap.run({"x": np.float32(a) * x}, net.original)["z"] for a in (1.0, 0.05)]
        assert np.abs(full[1] - 0.05 * full[0]).max() > 0.1
