"""A model whose biases and weights are fed, so that one loaded session answers for every change of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.ablate.im2col import Array
from converter.ablate.sites import Site
from converter.dataclass import dataclass
from converter.numerics import round_to
from converter.referee.proto.copies import extract_outputs, make_loadable
from converter.referee.proto.source import LoadedModel
from converter.runtime import Session

State = dict[str, NDArray[Any]]  # opening -> value, in the type that it is stored in


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Where sessions run, and with what."""

    provider: str = "cpu"
    custom_ops: Path | None = None
    threads: int | None = None


class Tap:
    """A session of a copy of the model that gives some tensors and is fed some constants."""

    def __init__(
        self,
        source: LoadedModel,
        wanted: Sequence[str],
        open_sites: Iterable[Site],
        where: SessionOptions,
        *,
        optimize: str,
    ) -> None:
        openings = [o for s in open_sites for o in (s.bias_opening, s.weight_opening)]
        model, self._inputs = extract_outputs(source, wanted, openings)
        self._session = Session(
            model,
            where.provider,
            optimize=optimize,
            custom_ops=where.custom_ops,
            external_dir=source.folder,
            threads=where.threads,
        )

    def run(self, feeds: Mapping[str, Any], state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The wanted tensors."""
        fed = {name: value for part in (feeds, state) for name, value in part.items() if name in self._inputs}
        return self._session.run(fed)


@dataclass
class Net:
    """A model with its biases, and what runs it."""

    source: LoadedModel
    sites: tuple[Site, ...]
    where: SessionOptions = field(default_factory=SessionOptions)

    def __post_init__(self) -> None:
        self.source = make_loadable(self.source)
        self.outputs = [o.name for o in self.source.proto.graph.output]
        self.original: State = {}
        for site in self.sites:
            self.original |= self.weights(site, site.weight, site.bias)

    @staticmethod
    def weights(site: Site, weight: Array, bias: Array) -> State:
        """What to feed for one layer to have this weight and this bias, both as stored."""
        return {
            site.weight_opening.name: np.ascontiguousarray(round_to(weight, site.dtype)),
            site.bias_opening.name: np.ascontiguousarray(round_to(bias, site.dtype)),
        }

    @staticmethod
    def without(site: Site, share: float = 0.0) -> State:
        """What to feed for a bias to have only a ``share`` of its size."""
        return {site.bias_opening.name: np.ascontiguousarray(round_to(share * site.bias, site.dtype))}

    def answers(self, sites: Iterable[Site] | None = None) -> Tap:
        """A session that gives the model's outputs; the parameters of ``sites`` are fed, of all by default."""
        return Tap(self.source, self.outputs, self.sites if sites is None else sites, self.where, optimize="all")

    def inside(self, names: Sequence[str], sites: Iterable[Site] = ()) -> Tap:
        """A session that gives inner tensors."""
        return Tap(self.source, names, sites, self.where, optimize="basic")

    def taps(self, site: Site, *, result: bool = True) -> list[str]:
        """The tensors that a layer's statistics are made of, less those that are fed."""
        fed = {i.name for i in self.source.proto.graph.input}
        return [n for n in (site.x, *([site.y] if result else [])) if n not in fed]
