"""What a compiled program costs a chip: memory, FLOPs, bytes, collectives; and the least time that
they take.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.extend.core

from launch.chips import Chip

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_ELEMENT_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_ARRAY = re.compile(r"\b(" + "|".join(_ELEMENT_BYTES) + r")\[([\d,]*)\]")
_OPERATION = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) (" + "|".join(COLLECTIVES) + r")(?:-start)?\("
)
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r"s32\[\][^ ]* constant\((\d+)\)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and size.

    Attributes:
      kind: one of `COLLECTIVES`.
      bytes: of the result that one chip gets, all arrays of the operation together.
      group: chips that take part together.
      count: how often a call of the program does it, loops counted.
    """

    kind: str
    bytes: int
    group: int
    count: int

    @property
    def wire_bytes(self) -> float:
        """What one chip sends, by ring algorithms, in one of them."""
        share = (self.group - 1) / self.group
        if self.kind == "all-reduce":
            return 2 * share * self.bytes
        if self.kind == "reduce-scatter":
            return (self.group - 1) * self.bytes
        return self.bytes if self.kind == "collective-permute" else share * self.bytes


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one call of a program costs one chip.

    Attributes:
      flops: multiply-adds × 2 of matrix products and convolutions.
      hbm_bytes: read and written: the compiler's count, which takes the body of a loop once, or all
        arguments and results once if that is more.
      arguments: bytes of HBM that inputs take.
      outputs: bytes of results that do not take the place of a donated input.
      temporaries: bytes of HBM for all that lives in between: activations, gradients, padding.
      collectives: what it sends over the links.
    """

    flops: float
    hbm_bytes: float
    arguments: int
    outputs: int
    temporaries: int
    collectives: tuple[Collective, ...]

    @property
    def peak_memory(self) -> int:
        """Bytes of HBM at worst."""
        return self.arguments + self.outputs + self.temporaries

    def seconds(self, chip: Chip) -> dict[str, float]:
        """The least time by each bound: "compute", "memory", "network" (all links busy, rings)."""
        return {
            "compute": self.flops / chip.flops,
            "memory": self.hbm_bytes / chip.memory_bandwidth,
            "network": sum(c.count * c.wire_bytes for c in self.collectives) / chip.link_bandwidth,
        }


def costs_of(compiled: Any, jaxpr: Any, num_devices: int) -> Costs:
    """Reads the costs of a `jax.stages.Compiled` program; `jaxpr` is what it was traced to, for all
    devices together.
    """
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
    return Costs(
        flops=flops_of(jaxpr) / num_devices,
        hbm_bytes=max(
            counted["bytes accessed"], memory.argument_size_in_bytes + memory.output_size_in_bytes
        ),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        collectives=collectives_of(compiled.as_text(), num_devices),
    )


def flops_of(jaxpr: Any, branch: Callable[[Iterable[float]], float] = max) -> float:
    """Multiply-adds × 2 of a jaxpr's matrix products and convolutions; loops as often as they run.

    A `while_loop`, whose length nobody knows, counts once; of a `cond`, what `branch` makes of its
    branches: the costliest.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [
            _open(value) for value in jax.tree.leaves(params, is_leaf=_is_jaxpr) if _is_jaxpr(value)
        ]
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * depth * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            dilated = math.prod(
                params["lhs_dilation"]
            )  # the zeros that it puts between are not multiplied
            total += 2.0 * equation.outvars[0].aval.size * kernel.size / features / dilated
        elif name == "cond":
            total += branch(flops_of(i, branch) for i in inner)
        else:
            total += (params.get("length", 1) if name == "scan" else 1) * sum(
                flops_of(i, branch) for i in inner
            )
    return total


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


def _open(value: Any) -> Any:
    return getattr(value, "jaxpr", value)


def collectives_of(hlo: str, num_devices: int) -> tuple[Collective, ...]:
    """Collectives of a compiled module's text, those in loops as often as the loop runs; largest
    traffic first.

    Args:
      hlo: the text of the module after partitioning.
      num_devices: chips that take part where the text names no groups.
    """
    computations, entry = _computations(hlo)
    found: dict[tuple[str, int, int], int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            if match := _OPERATION.match(line):
                found[
                    match[2],
                    _result_bytes(match[1], match[2], line),
                    _group_size(line, num_devices),
                ] += times
            for body in _BODY.findall(line):
                condition = _CONDITION.findall(line)[0]
                visit(body, times * _trips(computations, condition))
            for callee in _CALLS.findall(line):
                visit(callee, times)

    visit(entry, 1)
    collectives = [
        Collective(kind, size, group, count)
        for (kind, size, group), count in found.items()
        if group > 1
    ]
    return tuple(sorted(collectives, key=lambda c: -c.count * c.wire_bytes))


def _trips(computations: dict[str, list[str]], condition: str) -> int:
    """How often a loop runs: the number its counter is compared with, of which `lax.scan` makes a
    constant.
    """
    lines = computations.get(condition, [])
    called = [
        inner
        for line in lines
        for name in _CALLS.findall(line)
        for inner in computations.get(name, [])
    ]
    limits = [int(limit) for line in (*lines, *called) for limit in _TRIPS.findall(line)]
    return max(limits, default=1)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the entry's name."""
    lines: dict[str, list[str]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            lines[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            lines[name].append(line)
    return lines, entry


def _result_bytes(shape: str, kind: str, line: str) -> int:
    sizes = [
        _ELEMENT_BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(shape)
    ]
    if (
        f"{kind}-start(" in line
        and shape.startswith("(")
        and len(sizes) > 1
        and kind != "all-reduce"
    ):
        return max(sizes)  # an asynchronous start gives its operand beside its result
    return sum(sizes)


def _group_size(line: str, num_devices: int) -> int:
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return listed[1].count(",") + 1
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(counted[2])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", mesh[2]))
    return num_devices
