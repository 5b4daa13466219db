"""The Square attack: random search by squares, without gradients.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020; settings, schedule and proposals are those of AutoAttack's implementation, L1 included. There a
batch shares the place of a square; here every example has its own, so that it does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models.attacks import norms
from models.attacks.random import key_of, philox4x32, uniform
from models.attacks.slots import Gradient, SlotAttack, Slots, margins
from models.specs import AttackSpec

#: The share of the image in a square is halved after each of these iterations (of 10 000, where it is rescaled).
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
FULL_SCHEDULE = 10_000

#: Iterations whose random numbers are drawn at once: drawing takes a hundred small operations, however many numbers.
AHEAD = 32


def sides(shape: tuple[int, ...], norm: str, *, p_init: float, steps: int, rescale: bool = False) -> list[int]:
    """The side of the square in each of `steps` iterations on images (C, H, W).

    At least 1 in L-inf; at least 3 and odd otherwise, where it has two halves; never more than the image.
    """
    channels, height, width = shape
    smallest = 1 if norm == "Linf" else 3
    found = []
    for iteration in range(steps):
        when = int(iteration / steps * FULL_SCHEDULE) if rescale else iteration
        share = p_init / 2 ** sum(when > limit for limit in HALVED_AFTER)
        side = max(round(math.sqrt(share * channels * height * width / channels)), smallest)
        if norm != "Linf" and side % 2 == 0:
            side += 1
        found.append(min(side, height, width))
    return found


def pattern(side: int, norm: str) -> Tensor:
    """The perturbation that a square adds in L2 and L1 (side, side), of length one: two halves of opposite signs.

    Each half is highest in its middle and falls with the distance from there (section 3.3 of the paper).
    """
    power = 2 if norm == "L2" else 4
    above = side // 2
    halves = [sign * _half(height, side, power, norm) for sign, height in ((1, above), (-1, side - above)) if height]
    whole = torch.cat(halves)
    return whole / norms.length(whole[None], norm).double()


def _half(height: int, width: int, power: int, norm: str) -> Tensor:
    """Sum of 1 / k^power over concentric squares of sides 1, 3, 5, ... that hold a pixel, scaled to length one."""
    centre_row, centre_column = height // 2, width // 2
    rings = max(centre_row, centre_column) + 1
    row = (torch.arange(height) - centre_row).abs()
    column = (torch.arange(width) - centre_column).abs()
    ring = torch.maximum(row[:, None], column[None, :])
    terms = 1 / torch.arange(1, rings + 1, dtype=torch.float64).pow(power)
    from_ring = terms.flip(0).cumsum(0).flip(0)
    half = from_ring[ring.clamp_max(rings - 1)]
    return half / norms.length(half[None], norm)


@dataclass(frozen=True)
class Grid:
    """What the attack looks up for images of one shape (C, H, W) on one device."""

    shape: tuple[int, ...]
    norm: str
    device: torch.device
    #: The side of the square in every iteration.
    sides: Sequence[int]

    @cached_property
    def side_at(self) -> Tensor:
        """The side by iteration (steps,), int64."""
        return torch.tensor(self.sides, device=self.device)

    @cached_property
    def _distinct(self) -> list[int]:
        return sorted(set(self.sides))

    @cached_property
    def pattern_at(self) -> Tensor:
        """The row of `patterns` by iteration (steps,), int64."""
        place = {side: row for row, side in enumerate(self._distinct)}
        return torch.tensor([place[side] for side in self.sides], device=self.device)

    @cached_property
    def patterns(self) -> Tensor:
        """The patterns of all sides, then their transposes (2 * sides, S, S), each in the upper left corner."""
        largest = max(self._distinct)
        table = torch.zeros(2, len(self._distinct), largest, largest)
        for row, side in enumerate(self._distinct):
            table[0, row, :side, :side] = pattern(side, self.norm)
            table[1, row, :side, :side] = pattern(side, self.norm).T
        return table.flatten(0, 1).to(self.device)

    @cached_property
    def rows(self) -> Tensor:
        return torch.arange(self.shape[1], device=self.device)

    @cached_property
    def columns(self) -> Tensor:
        return torch.arange(self.shape[2], device=self.device)

    def square(self, top: Tensor, left: Tensor, side: Tensor) -> Tensor:
        """True inside each example's square (n, 1, H, W); all arguments are (n,)."""
        row, column = self.rows - top[:, None], self.columns - left[:, None]
        tall = (row >= 0) & (row < side[:, None])
        wide = (column >= 0) & (column < side[:, None])
        return (tall[:, :, None] & wide[:, None, :])[:, None]

    def placed(self, which: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Each example's pattern `which` at its place (n, 1, H, W); outside its square it means nothing."""
        largest = self.patterns.shape[1]
        row = (self.rows - top[:, None]).clamp(0, largest - 1)
        column = (self.columns - left[:, None]).clamp(0, largest - 1)
        index = (which[:, None] * largest + row)[:, :, None] * largest + column[:, None, :]
        return self.patterns.view(-1)[index][:, None]


class Square(SlotAttack):
    """Every step proposes the best iterate so far with a square changed, and keeps it where the margin fell.

    L-inf: the pixels of the square go to clean +- eps, one sign a channel; the start is vertical stripes. L2 and L1:
    the length of one window is moved to another, in a pattern of two halves; the start tiles the image with patterns.
    Settings: `p_init`, and `rescale_schedule`, by which the squares shrink as fast as the queries run out.

    As in the reference, a square of side s has its corner in 0 .. H-s-1 (0 if that is empty): the last row and column
    are reached by the start only, and by squares as large as the image.
    """

    gradient = False

    def __init__(self, spec: AttackSpec) -> None:
        super().__init__(spec)
        self._key = key_of(spec.seed, spec.name)
        self._grid: Grid | None = None
        #: Turns for which random numbers are at hand.
        self._turns_left = 0

    def start(self, slots: Slots) -> Tensor:
        clean, eps = slots.clean, self.spec.eps.value
        channels, _, width = clean.shape[1:]
        if self.spec.norm == "Linf":
            stripes = uniform(self._key, slots.indices, slots.runs, (channels, 1, width))
            return (clean + torch.where(stripes < 0.5, -eps, eps)).clamp_(slots.low, slots.high)
        offset = self._tiles(slots)
        if self.spec.norm == "L2":
            return self._of_length_eps(offset, slots)
        return self._in_l1_ball(offset, slots)

    def _tiles(self, slots: Slots) -> Tensor:
        """Patterns side by side, five in a column of pixels, each transposed or not and with one sign a channel."""
        channels, height, width = slots.clean.shape[1:]
        side = max(1, min(height // 5, width))
        margin = max(0, (height - 5 * side) // 2)
        down, across = height // side, width // side
        numbers = uniform(self._key, slots.indices, slots.runs, (1 + channels, down, across))
        row = torch.arange(height, device=slots.x.device) - margin
        column = torch.arange(width, device=slots.x.device) - margin
        # Pixels before the first tile, and after the last one in a row or column, belong to none.
        tiled = ((row >= 0) & (row < down * side))[:, None] & ((column >= 0) & (column < across * side))[None]
        row_tile, column_tile = (row // side).clamp(0, down - 1), (column // side).clamp(0, across - 1)
        numbers = numbers[:, :, row_tile][:, :, :, column_tile]
        upright = pattern(side, self.spec.norm).float().to(slots.x.device)[row % side][:, column % side]
        lying = pattern(side, self.spec.norm).float().T.to(slots.x.device)[row % side][:, column % side]
        chosen = torch.where(numbers[:, :1] > 0.5, lying, upright) * tiled
        return torch.where(numbers[:, 1:] < 0.5, -chosen, chosen)

    def reset(self, slots: Slots, rows: Tensor) -> None:
        slots.remember("best", slots.x)[rows] = slots.x[rows]
        slots.remember("best loss", slots.best)[rows] = torch.inf
        self._turns_left = 0

    def loss(self, logits: Tensor, slots: Slots) -> Tensor:
        return margins(logits, slots.labels)

    def advance(self, slots: Slots, found: Gradient) -> None:
        # Of equal logits the lower class is predicted: a margin of zero fools the model or not, as the verdict has it.
        fooled = found.logits.argmax(1) != slots.labels
        loss = torch.where(fooled, found.loss.clamp_max(-torch.finfo(found.loss.dtype).tiny), found.loss)
        best, lowest = slots.memory["best"], slots.memory["best loss"]
        better = loss < lowest
        best = torch.where(norms.rows(better, best), slots.x, best)
        lowest = torch.where(better, loss, lowest)
        slots.memory["best"], slots.memory["best loss"] = best, lowest
        grid = self._grid_of(slots)
        step = slots.steps.clamp(0, self.spec.steps - 1)
        side = grid.side_at[step]
        numbers = self._numbers(slots, step)
        if self.spec.norm == "Linf":
            proposal = self._repaint(slots, grid, best, side, numbers)
        else:
            proposal = self._move(slots, grid, best, side, grid.pattern_at[step], numbers)
        if self.spec.verdict == "last":
            # The result of the search is the best iterate; a last proposal matters only where nothing has fooled yet.
            over = (slots.steps + 1 >= self.spec.steps) & (lowest < 0)
            proposal = torch.where(norms.rows(over, best), best, proposal)
        slots.x = proposal

    def _grid_of(self, slots: Slots) -> Grid:
        shape = tuple(slots.clean.shape[1:])
        if self._grid is None or self._grid.shape != shape or self._grid.device != slots.x.device:
            own = sides(
                shape,
                self.spec.norm,
                p_init=self.spec.number("p_init"),
                steps=self.spec.steps,
                rescale=bool(self.spec.setting("rescale_schedule")),
            )
            self._grid = Grid(shape, self.spec.norm, slots.x.device, own)
        return self._grid

    def _numbers(self, slots: Slots, step: Tensor) -> Tensor:
        """The random numbers of the present iterations (n, 5 + C), the same whenever they were drawn."""
        if self._turns_left == 0:
            slots.memory["numbers"] = self._draw(slots, step)
            slots.memory["numbers from"] = step
            self._turns_left = AHEAD
        self._turns_left -= 1
        ahead = (step - slots.memory["numbers from"]).clamp(0, AHEAD - 1)
        drawn = slots.memory["numbers"]
        return drawn.gather(1, ahead[:, None, None].expand(-1, 1, drawn.shape[2]))[:, 0]

    def _draw(self, slots: Slots, step: Tensor) -> Tensor:
        """Numbers in [0, 1) for the iterations from `step` on (n, AHEAD, 5 + C): of example, run and iteration."""
        count = 5 + slots.clean.shape[1]
        block = torch.arange(-(-count // 4), device=step.device)
        # The first draw of a run is that of its start.
        draw = step[:, None] + torch.arange(1, AHEAD + 1, device=step.device)
        index = slots.indices & 0xFFFFFFFF
        words = philox4x32((block, draw[:, :, None], index[:, None, None], slots.runs[:, None, None]), self._key)
        mixed = torch.stack(words, dim=-1).flatten(2)[:, :, :count]
        return (mixed >> 8).to(torch.float32).mul_(2.0**-24)

    @staticmethod
    def _corner(numbers: Tensor, side: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Top and left of squares (n,) from two random numbers each (n, 2)."""
        top = numbers[:, 0] * (grid.shape[1] - side)
        left = numbers[:, 1] * (grid.shape[2] - side)
        return top.long(), left.long()

    @staticmethod
    def _signs(numbers: Tensor) -> Tensor:
        """+1 or -1 a channel (n, C, 1, 1)."""
        return torch.where(numbers[:, 5:, None, None] < 0.5, -1.0, 1.0)

    def _repaint(self, slots: Slots, grid: Grid, best: Tensor, side: Tensor, numbers: Tensor) -> Tensor:
        """L-inf: adding +-2 eps in the square and projecting to the ball leads to clean +- eps from anywhere in it."""
        inside = grid.square(*self._corner(numbers, side, grid), side)
        painted = (slots.clean + self.spec.eps.value * self._signs(numbers)).clamp_(slots.low, slots.high)
        return torch.where(inside, painted, best)

    def _move(self, slots: Slots, grid: Grid, best: Tensor, side: Tensor, shape: Tensor, numbers: Tensor) -> Tensor:
        """L2 and L1: a new pattern in one window gets the length that both windows had, and what eps leaves over."""
        norm, eps, channels = self.spec.norm, self.spec.eps.value, slots.clean.shape[1]
        offset = best - slots.clean
        top, left = self._corner(numbers, side, grid)
        here = grid.square(top, left, side)
        there = grid.square(*self._corner(numbers[:, 2:], side, grid), side)
        transposed = (numbers[:, 4] > 0.5).long() * (len(grid.patterns) // 2)
        fresh = grid.placed(shape + transposed, top, left) * self._signs(numbers)
        window, both, whole = _channel_lengths(offset, [here, here | there, torch.ones_like(here)], norm)
        mixed = (fresh + offset / (window + norms.TINY)) * here
        mixed = mixed / (norms.length(mixed.flatten(0, 1), norm).view_as(window) + norms.TINY)
        if norm == "L2":
            unused = (eps**2 - whole.square().sum(1, keepdim=True)).clamp_min(0)
            new = mixed * (unused / channels + both.square()).sqrt()
        else:
            unused = (eps - whole.sum(1, keepdim=True)).clamp_min(0)
            new = mixed * (unused + both * channels)
        moved = torch.where(here, new, offset.masked_fill(there, 0))
        return self._of_length_eps(moved, slots) if norm == "L2" else self._in_l1_ball(moved, slots)

    def _of_length_eps(self, offset: Tensor, slots: Slots) -> Tensor:
        scaled = norms.direction(offset, "L2") * (self.spec.eps.value * norms.JUST_INSIDE)
        return (slots.clean + scaled).clamp_(slots.low, slots.high)

    def _in_l1_ball(self, offset: Tensor, slots: Slots) -> Tensor:
        limit = self.spec.eps.value * norms.JUST_INSIDE
        kept = norms.project_l1_in_box(offset, slots.clean, limit, slots.low, slots.high)
        return (slots.clean + kept).clamp_(slots.low, slots.high)


def _channel_lengths(offset: Tensor, masks: Sequence[Tensor], norm: str) -> Iterable[Tensor]:
    """The norm of every channel (n, C, 1, 1) inside each of some masks (n, 1, H, W): one product for all."""
    amount = (offset.square() if norm == "L2" else offset.abs()).flatten(2)
    inside = torch.cat(list(masks), 1).flatten(2).to(amount.dtype)
    sums = torch.bmm(amount, inside.transpose(1, 2))
    return (sums.sqrt() if norm == "L2" else sums)[:, :, None, None].unbind(-1)
