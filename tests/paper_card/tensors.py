"""Tensors that report the device `cuda` and compute on the CPU.

Every operator passes `dispatch`, which refuses what a card would refuse: tensors of two devices,
generators of another device, and within a capture whatever waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.paper_card.card import CARD, PaperError, caller

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
TAKES_TWO_DEVICES = {
    aten.copy_.default,
    aten._to_copy.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten.set_.source_Tensor,
}
WAITS_FOR_THE_CARD = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}


class PaperTensor(torch.Tensor):
    """A tensor that reports a CUDA device; `elem` holds its numbers."""

    elem: torch.Tensor

    @staticmethod
    def __new__(cls, elem: torch.Tensor) -> PaperTensor:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=CUDA,
            requires_grad=elem.requires_grad,
        )
        made.elem = elem
        return made

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)
        self.elem = value.elem

    def data_ptr(self) -> int:
        return self.elem.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"PaperTensor({self.elem!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = PaperTensor(self.elem.clone())
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def is_pinned(self, device: Any = None) -> bool:
        return False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class PaperMode(TorchDispatchMode):
    """Intercepts operators without paper tensors too: those that create tensors on the card."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class IndexedMode(TorchFunctionMode):
    """Writes `cuda:0` for `cuda`: a PyTorch without CUDA has no current device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: indexed(v) if k == "device" else v for k, v in (kwargs or {}).items()}
        if func is torch.Tensor.cuda:
            return args[0].to(CUDA)
        if func is torch.Tensor.pin_memory:  # all host memory is alike here
            return pinned(args[0])
        if func is torch.Tensor.to:
            args = tuple(map(indexed, args))
        return func(*args, **kwargs)


class PaperGenerator(torch.Generator):
    """A generator that reports `cuda` if it was made for the card.

    Operators receive another wrapper of the same generator, so the card's are known by their
    address.
    """

    of_card: ClassVar[WeakValueDictionary[int, PaperGenerator]] = WeakValueDictionary()

    def __new__(cls, device: Any = "cpu") -> PaperGenerator:
        made = super().__new__(cls, "cpu")
        if torch.device(device).type == "cuda":
            cls.of_card[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return device_of(self)


def device_of(generator: torch.Generator) -> torch.device:
    return CUDA if generator._cdata in PaperGenerator.of_card else CPU  # type: ignore[attr-defined]


def pinned(x: torch.Tensor) -> torch.Tensor:
    """Return the tensor; PaperError if its elements share memory, which prevents a copy."""
    if torch._debug_has_internal_overlap(x) == 1:  # type: ignore[attr-defined]
        raise PaperError(f"a tensor of strides {x.stride()} cannot be pinned at {caller()[1]}")
    return x


MODE = PaperMode()


def indexed(x: Any) -> Any:
    is_current = x == "cuda" or (isinstance(x, torch.device) and x == torch.device("cuda"))
    return CUDA if is_current else x


def dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """Run one operator, or record it."""
    if is_composite(func):
        with MODE:  # autograd would have decomposed it before
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
    call = Call(func, args, kwargs)
    call.check_generator()
    if not call.is_for_card:
        return func(*args, **kwargs)
    call.check_devices()
    crossing = call.crossing()
    if crossing:
        CARD.note(crossing, func, call.tensors[0].shape)
    if call.writes:
        return call.write()
    return call.compute(gives_host=crossing == TO_HOST)


@cache
def is_composite(func: Any) -> bool:
    key = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))


TO_HOST, TO_CARD = "card to host", "host to card"


class Call:
    """One operator with its arguments."""

    def __init__(self, func: Any, args: Any, kwargs: Any) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.tensors = [*tensors_in(args), *tensors_in(kwargs)]
        self.on_card = [x for x in self.tensors if isinstance(x, PaperTensor)]
        self.on_host = [
            x for x in self.tensors if not isinstance(x, PaperTensor) and x.device.type == "cpu"
        ]
        device = kwargs.get("device")
        self.wanted = None if device is None else torch.device(device)
        self.writes = writes(func)

    @property
    def is_for_card(self) -> bool:
        return bool(self.on_card) or (self.wanted is not None and self.wanted.type == "cuda")

    def check_generator(self) -> None:
        """Raise PaperError for a generator of another device than that of the result."""
        generator = self.kwargs.get("generator")
        target = self.wanted or (self.tensors[0].device if self.tensors else CPU)
        if generator is None or target.type in (device_of(generator).type, "meta"):
            return
        raise PaperError(
            f"expected a '{target.type}' generator, found '{device_of(generator).type}' "
            f"at {caller()[1]}"
        )

    def check_devices(self) -> None:
        """Raise PaperError for tensors of two devices; a CPU scalar passes outside captures."""
        if not (self.on_card and self.on_host) or self.func in TAKES_TWO_DEVICES:
            return
        shapes = [tuple(x.shape) for x in self.on_host if x.ndim]
        if shapes:
            raise PaperError(
                f"expected all tensors on the same device: {self.func} has cuda and cpu {shapes} "
                f"at {caller()[1]}"
            )
        if CARD.recorder is not None:
            CARD.note("scalar of the host", self.func, ())

    def crossing(self) -> str:
        """Name how it moves data between host and card, or waits; empty if it does not."""
        if self.func is aten.copy_.default:
            return direction(
                isinstance(self.args[1], PaperTensor), isinstance(self.args[0], PaperTensor)
            )
        if self.func is aten._to_copy.default:
            target = self.wanted or self.args[0].device
            return direction(isinstance(self.args[0], PaperTensor), target.type == "cuda")
        if self.func is aten.index.Tensor and self.on_host:
            return TO_CARD
        return "wait" if self.func in WAITS_FOR_THE_CARD and self.on_card else ""

    def plain(self) -> tuple[Any, Any]:
        """Convert its arguments to those that the CPU takes."""
        args, kwargs = mapped(plain, self.args), mapped(plain, self.kwargs)
        if self.wanted is not None and self.wanted.type == "cuda":
            kwargs["device"] = CPU
        return args, kwargs

    def write(self) -> Any:
        """Change its arguments in place; in a capture only record it for the replay."""
        args, kwargs = self.plain()
        changed = [kwargs["out"]] if "out" in kwargs else [args[i] for i in self.writes]
        returned = [self.kwargs["out"]] if "out" in kwargs else [self.args[i] for i in self.writes]
        if CARD.recorder is None:
            made = self.func(*args, **kwargs)
            if not isinstance(made, torch.Tensor):
                return made
        else:
            CARD.recorder.record(self.func, args, kwargs, [None] * len(changed))
        return returned[0] if len(returned) == 1 else tuple(returned)

    def compute(self, gives_host: bool) -> Any:
        """Make new tensors, or views; in a capture a replay computes their values."""
        args, kwargs = self.plain()
        if not is_view(self.func):
            CARD.allocate()
        made = self.func(*args, **kwargs)
        if CARD.recorder is not None:
            given = {x.elem.untyped_storage()._cdata for x in self.on_card}
            own = [None if x.untyped_storage()._cdata in given else x for x in tensors_in([made])]
            if not is_view(self.func) or any(x is not None for x in own):
                CARD.recorder.record(self.func, args, kwargs, own)
        return made if gives_host else mapped(on_card, made)


def direction(is_from_card: bool, is_to_card: bool) -> str:
    if is_from_card == is_to_card:
        return ""
    return TO_HOST if is_from_card else TO_CARD


@cache
def writes(func: Any) -> tuple[int, ...]:
    """Return the indices of the arguments that an operator changes."""
    return tuple(
        i
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@cache
def is_view(func: Any) -> bool:
    """Tell if an operator returns the memory of an argument."""
    return not writes(func) and any(a.alias_info is not None for a in func._schema.arguments)


def plain(x: Any) -> Any:
    return x.elem if isinstance(x, PaperTensor) else x


def on_card(x: Any) -> Any:
    if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
        return x
    with torch.inference_mode(x.is_inference()):
        return PaperTensor(x)


def mapped(change: Callable[[Any], Any], x: Any) -> Any:
    """Apply `change` to every leaf of lists, tuples and dictionaries."""
    if isinstance(x, dict):
        return {name: mapped(change, value) for name, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(mapped(change, value) for value in x)
    return change(x)


def tensors_in(x: Any) -> list[torch.Tensor]:
    """List all tensors in lists, tuples and dictionaries."""
    found: list[torch.Tensor] = []
    for value in x.values() if isinstance(x, dict) else x:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple | dict):
            found += tensors_in(value)
    return found
