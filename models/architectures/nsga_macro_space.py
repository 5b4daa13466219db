"""The macro search space of NSGA-Net: genomes, and the graphs that they stand for. Torch-free.

Lu et al., "NSGA-Net: Neural Architecture Search using Multi-Objective Genetic Algorithm", GECCO 2019. A genome is a
list of phases. A phase is `[[b], [b, b], [b, b, b], ..., [skip]]`: the i-th list, from 1 on, has one bit for each of
nodes 1 to i, saying whether node i + 1 takes its output. The last bit carries the phase's input to its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import InvalidSpec

#: Predecessors of each node that takes part, in the order in which they are concatenated; 0 is the phase's input. The
#: last (and largest) node is the phase's output.
Graph = Mapping[int, tuple[int, ...]]

#: A genome that a person gives may have this many phases, and nodes a phase, at most.
MOST_PHASES = 8
MOST_NODES = 32


@dataclass(frozen=True)
class Phase:
    """The bits of one phase: `inputs[i]` are those of node i + 2 from nodes 1 to i + 1."""

    inputs: tuple[tuple[int, ...], ...]
    skip: bool

    @property
    def active(self) -> bool:
        """Whether any two nodes are connected; a phase where none are is left out, whatever its skip bit."""
        return any(any(bits) for bits in self.inputs)


@dataclass(frozen=True)
class Genome:
    """All phases, those included that are not active."""

    phases: tuple[Phase, ...]

    def to_lists(self) -> list[list[list[int]]]:
        """The genome as papers print it, which `parse` reads back."""
        return [[*(list(bits) for bits in p.inputs), [int(p.skip)]] for p in self.phases]


def check(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition with its `genome` and nothing else; raises `InvalidSpec` when it has none.

    Width and decoder, which the search keeps beside a genome, are refused: they are options of the architecture, and to
    ignore them here would build another network than the one meant.
    """
    for key, option in (("decoder", "decoder=residual"), ("channels", "init_channels=32")):
        if key in definition:
            raise InvalidSpec(f"leave {key!r} out of an NSGA-Net macro definition: it is an option, such as {option}.")
    if "genome" not in definition:
        raise InvalidSpec("an NSGA-Net macro definition needs a 'genome', a list of phases.")
    return {"genome": parse(definition["genome"]).to_lists()}


def parse(data: Any) -> Genome:
    """Check a genome given as nested lists; raises `InvalidSpec` naming the first thing that is wrong."""
    if not isinstance(data, list | tuple) or not 1 <= len(data) <= MOST_PHASES:
        raise InvalidSpec(f"an NSGA-Net macro genome is a list of 1 to {MOST_PHASES} phases.")
    return Genome(tuple(_phase(phase, position) for position, phase in enumerate(data, start=1)))


def _phase(data: Any, position: int) -> Phase:
    if not isinstance(data, list | tuple) or not 1 <= len(data) <= MOST_NODES:
        raise InvalidSpec(
            f"phase {position} of the genome must be a list of bit lists, one a node from the second on and one for "
            f"the skip bit, for at most {MOST_NODES} nodes: for example [[1], [0, 1], [1]]."
        )
    for i, bits in enumerate(data, start=1):
        expected = 1 if i == len(data) else i
        if (
            not isinstance(bits, list | tuple)
            or len(bits) != expected
            or any(type(b) is not int or b not in (0, 1) for b in bits)
        ):
            what = "the skip bit" if i == len(data) else f"the inputs of node {i + 1}"
            raise InvalidSpec(f"phase {position} of the genome: {what} must be {expected} of 0 or 1, in a list.")
    return Phase(tuple(tuple(bits) for bits in data[:-1]), bool(data[-1][0]))


def repair(genome: Genome) -> tuple[Graph, ...]:
    """The graph of every active phase, with its loose ends tied as NSGA-Net does.

    Judged by the bits alone: a node that takes inputs and feeds nobody feeds the output; a node that feeds somebody and
    takes no input takes the phase's input; a node that does neither is left out.
    """
    return tuple(_graph(phase) for phase in genome.phases if phase.active)


def _graph(phase: Phase) -> Graph:
    inputs: dict[int, tuple[int, ...]] = {1: ()}
    for node, bits in enumerate(phase.inputs, start=2):
        inputs[node] = tuple(source for source, bit in enumerate(bits, start=1) if bit)
    feeding = {source for sources in inputs.values() for source in sources}
    graph: dict[int, tuple[int, ...]] = {}
    for node, sources in inputs.items():
        if sources or node in feeding:
            graph[node] = sources or (0,)
    loose = tuple(node for node, sources in inputs.items() if sources and node not in feeding)
    graph[len(inputs) + 1] = ((0,) if phase.skip else ()) + loose
    return graph
