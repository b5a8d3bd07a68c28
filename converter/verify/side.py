"""One model under comparison: its onnxruntime sessions, where they ran, and its float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from converter.protos.loadable import loadable
from converter.protos.reference import Reference
from converter.protos.source import Source
from converter.runtime import Session
from converter.runtime.profile import Placement, placement_and_run, prove
from converter.verify.options import Options

Outputs = dict[str, Any]


class Side:
    """One model, with its onnxruntime session and float64 references made on demand.

    ``deployed``: with the optimisations and the provider options that the user deploys with, else without
    optimisations and with the options under which errors are seen.
    """

    def __init__(self, source: Source, options: Options, *, deployed: bool = False) -> None:
        self.source = source
        self._options = options
        self._deployed = deployed
        self._session: Session | None = None
        self._reference: Reference | None = None
        self.providers: tuple[str, ...] = ()
        self.placement: Placement | None = None
        self._seen: tuple[Mapping[str, Any], Outputs] | None = None  # the placing run

    def run(self, feeds: Mapping[str, Any]) -> Outputs:
        """Outputs by onnxruntime; the first run on anything but the CPU proves where it takes place.

        Raises
        ------
        RuntimeUnavailable
            The provider that was asked for does not run the model's arithmetic.
        """
        if self._session is None:
            model, settings = self._settings()
            self._session = Session(model, self._options.provider, **settings)
            self.providers = self._session.providers
            if self._options.provider != "cpu" and self._options.prove and self.placement is None:
                self.again(feeds)
        return self._session.run(_wanted(self.source, feeds))

    def again(self, feeds: Mapping[str, Any]) -> Outputs:
        """Outputs of a second session, whose profile says which provider ran which node; made once per feeds."""
        if self._seen is None or self._seen[0] is not feeds:
            model, settings = self._settings()
            provider = self._options.provider
            self.placement, values = placement_and_run(model, provider, _wanted(self.source, feeds), **settings)
            prove(self.placement, provider, self.source.label)
            self._seen = feeds, values
        return self._seen[1]

    def _settings(self) -> tuple[bytes | Path, dict[str, Any]]:
        model, folder = loadable(self.source).for_runtime()
        options = self._options
        return model, {
            "optimize": options.opt_level if self._deployed else "off",
            "strict": not self._deployed,
            "options": dict(options.provider_options),
            "custom_ops": options.custom_ops,
            "external_dir": folder,
        }

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None

    def reference(
        self,
        feeds: Mapping[str, Any],
        perturb: int | None = None,
        watch: Callable[[str, Any], None] | None = None,
    ) -> Outputs:
        """Outputs in float64; with ``perturb``, of the model with every weight moved by its rounding error.

        ``watch`` is told of every tensor as it is made.
        """
        made = self._reference if perturb is None else None
        if made is None:
            limit = self._options.max_memory
            made = Reference(
                self.source.proto, weight_perturb=perturb, external_dir=self.source.folder, max_bytes=limit
            )
        if perturb is None:
            self._reference = made
        return made.run(_wanted(self.source, feeds), watch)

    @property
    def entered(self) -> frozenset[str]:
        """The subgraphs that the float64 runs went through; none where there was no such run."""
        return self._reference.entered if self._reference is not None else frozenset()


def _wanted(source: Source, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What the model has an input for: the two models of a segment may read different things."""
    names = {i.name for i in source.proto.graph.input}
    return {name: value for name, value in feeds.items() if name in names}
