"""Every single time, in a file beside the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converter.bench.measured import Measured
from converter.errors import BiasoptError


def write(found: Measured, path: Path) -> None:
    """Write the times of the blocks that count, in the order in which they were taken.

    ``a_ms`` and ``b_ms`` hold a time per pair, ``block`` the block of each pair, ``session`` the session of each
    block.

    Raises
    ------
    BiasoptError
        The file cannot be written.
    """
    sizes = [len(samples.a) for samples in found.samples]
    try:
        np.savez_compressed(
            path,
            a_ms=np.concatenate([samples.a for samples in found.samples]),
            b_ms=np.concatenate([samples.b for samples in found.samples]),
            block=np.repeat(np.arange(len(sizes)), sizes),
            session=np.array([block.session for block in found.counted]),
        )
    except OSError as exc:
        raise BiasoptError(f"{path}: cannot be written ({exc.strerror}); choose another --report folder") from exc
