"""Our ``dataclass`` does what the standard library's does: each property asked of classes made by both."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any, ClassVar

import pytest

from converter.dataclass import dataclass

KINDS = [
    {"frozen": frozen, "slots": slots, "eq": eq}
    for frozen in (False, True)
    for slots in (False, True)
    for eq in (False, True)
]
MAKERS: list[Callable[..., Any]] = [dataclass, dataclasses.dataclass]


def _make(maker: Callable[..., Any], **kind: bool) -> type[Any]:
    @maker(**kind)
    class Sample:
        x: int
        y: tuple[int, ...] = (1, 2)
        z: list[int] = field(default_factory=list)
        quiet: int = field(default=0, repr=False, compare=False)
        late: int = field(default=7, kw_only=True)
        kind: ClassVar[str] = "sample"

        @property
        def double(self) -> int:
            return 2 * self.x

    return Sample


def _of(act: Callable[[], Any]) -> Any:
    """What comes of it, or the kind of the error."""
    try:
        return act()
    except (TypeError, AttributeError) as error:
        # The standard library's class with slots stumbles over its own ``super()``, python/cpython#90562.
        return dataclasses.FrozenInstanceError if "super(type, obj)" in str(error) else type(error)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_as_the_standard_library(kind: dict[str, bool]) -> None:
    ours, theirs = (_make(maker, **kind) for maker in MAKERS)
    for act in (
        lambda c: c(3) == c(3),
        lambda c: c(3) == c(4),
        lambda c: c(3, quiet=1) == c(3, quiet=2),
        lambda c: c(3) == "other",
        lambda c: repr(c(3, (5,), late=2)),
        lambda c: c(3, 4, 5, 6, 7),
        lambda c: c(),
        lambda c: c(3, other=1),
        lambda c: c(3).z is c(3).z,
        lambda c: c(3).double,
        lambda c: c.kind,
        lambda c: [f.name for f in dataclasses.fields(c)],
        lambda c: dataclasses.asdict(dataclasses.replace(c(3), x=4)),
        lambda c: c(3, z=()).__hash__ is None,
        lambda c: hash(c(3, z=())) == hash(c(3, z=())) if kind["eq"] else isinstance(hash(c(3)), int),
        lambda c: setattr(c(3), "x", 1),
        lambda c: setattr(c(3), "unheard_of", 1),
        lambda c: delattr(c(3), "x"),
        lambda c: repr(copy.copy(c(3))),
        lambda c: hasattr(c(3), "__dict__"),
        lambda c: c.__match_args__,
        lambda c: c.__qualname__,
        lambda c: c.__module__,
    ):
        assert _of(lambda act=act: act(ours)) == _of(lambda act=act: act(theirs))


@dataclass(frozen=True, slots=True)
class Base:
    a: int
    b: int = 2


@dataclass(frozen=True, slots=True)
class Derived(Base):
    c: int = 3

    def __post_init__(self) -> None:
        if self.c < 0:
            raise ValueError("c")

    def __repr__(self) -> str:
        return f"<{self.a}{self.b}{self.c}>"


@dataclass(frozen=True)
class Own:
    a: int

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 5


@dataclass
class Free:
    a: int
    made: list[int] = field(init=False, default_factory=lambda: [1])


def test_a_derived_class_has_no_second_slot_and_keeps_its_own_methods() -> None:
    one = Derived(1)
    assert (one.a, one.b, one.c, repr(one)) == (1, 2, 3, "<123>")
    assert Derived.__slots__ == ("c",)
    with pytest.raises(ValueError, match="c"):
        Derived(1, c=-1)
    assert pickle.loads(pickle.dumps(one)) == one != Base(1)


def test_a_method_of_the_class_stands() -> None:
    assert Own(1) == Own(2)
    assert hash(Own(1)) == 5


def test_a_field_that_is_not_given() -> None:
    assert Free(1).made == [1]
    assert Free(1).made is not Free(1).made
    with pytest.raises(TypeError):
        Free(1, made=[])  # type: ignore[call-arg]
