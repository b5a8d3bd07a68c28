"""A bias by any name that somebody may use for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from converter.records import Fate


class NoSuchBias(LookupError):
    """No bias has the name that was asked for; the message names those that come near."""


@dataclass(frozen=True, slots=True)
class BiasFate(Fate):
    """A fate, and all the names by which somebody may ask for it: of nodes, of tensors, before and after."""

    names: frozenset[str] = field(default=frozenset(), repr=False)


def named(fates: Iterable[BiasFate], name: str, ops: Mapping[str, str]) -> BiasFate:
    """The fate of the bias that somebody calls `name`.

    Parameters
    ----------
    ops : every node's label -> its operator, to tell a node without a bias from no node at all

    Raises
    ------
    NoSuchBias
        None is called that.
    """
    biases = list(fates)
    found = [f for f in biases if f.node == name] or [f for f in biases if name in f.names]
    if found:
        return found[0]
    if name in ops:
        passing = [f.node for f in biases if any(hop.node == name for hop in f.path)]
        met = f"; it meets that of {' and '.join(passing[:3])}" if passing else ""
        raise NoSuchBias(f"{name!r} is a {ops[name]} without a bias{met}.")
    near = _near(name, biases)
    hint = f"did you mean {' or '.join(near)}?" if near else "`inspect --fates` lists them."
    raise NoSuchBias(f"no bias is called {name!r}; {hint}")


def _near(name: str, fates: list[BiasFate]) -> list[str]:
    """Labels that hold the name, or are much like it."""
    holding = [f.node for f in fates if name.lower() in f.node.lower()]
    if holding:
        return holding[:3]
    near = get_close_matches(name, [n for f in fates for n in sorted(f.names)], cutoff=0.5)
    return list(dict.fromkeys(f.node for n in near for f in fates if n in f.names))[:3]
