"""The prefixes-at-once feed: a session is read once and scored at every position, several sessions to a row. A step is
a grid of R rows of W positions, the model's window; sessions are cut into chunks of at most W inputs, packed into rows
without overlap. How chunks lie in steps depends on their lengths alone and is worked out once; an epoch only says which
chunk takes which place among those of its length."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.data.dataset import Sessions
from jaxrec.errors import UserError
from jaxrec.feeds.base import Feed, Plan, Shape, Take, shuffled, sort_order
from jaxrec.ops.parallel import pad

DAY = 24 * 60 * 60 * 1000  # ms


class PackedBlock(NamedTuple):
    """Steps of R rows of W positions, of which P are scored. What the model does not read is None."""

    input: Any  # int32[S, R, W], the item just seen; -1 where the row is padded
    start: Any  # int32[S, R, W], the column where this position's chunk begins; its own where the row is padded
    slot: Any  # int32[S, P], which position of the flattened grid is scored
    target: Any  # int32[S, P], the item that follows it
    weight: Any  # float32[S, P], of its loss; 0 where there is no target
    event: Any = None  # int32[S, R, W], the type of the input's event
    asked: Any = None  # int32[S, P], when the last event before each target was
    clock: Any = None  # int32[S, R, W], when the input was, in seconds from any moment on


class Log(NamedTuple):
    """All events of a split, one session behind the other."""

    items: Any  # int32[n]
    events: Any  # uint8[n], their types, or None
    times: Any  # int32[n], or None
    clock: Any = None  # int32[n], or None


class Chunks(NamedTuple):
    """Stretches of inputs within one session, int64[C] each."""

    begin: np.ndarray  # position of the first input event
    length: np.ndarray  # inputs, 1 to W
    scored: np.ndarray  # how many of the last of them are scored
    session: np.ndarray


class Template(NamedTuple):
    """Where chunks lie, for T steps. Places are in the order of (length, scored, step)."""

    chunk: Any  # int32[T, R, W], the place that holds this position; the number of places where none does
    offset: Any  # int32[T, R, W], the position within its chunk
    slot: Any  # int32[T, P], scored positions of the flattened grid, ascending; -1 behind the last one


def cut_chunks(offsets: np.ndarray, window: int, stride: int = 1, last_only: bool = False) -> Chunks:
    """Cut sessions, int64[sessions + 1] ``offsets``, into chunks of at most W inputs: beyond the first W targets whole
    windows, of which the last ``stride`` are scored; with ``last_only`` one with the last target alone."""
    inputs = np.diff(offsets) - 1
    session = np.flatnonzero(inputs > 0)
    first = np.minimum(inputs[session], window)
    if last_only:
        return Chunks(offsets[session + 1] - 1 - first, first, np.ones_like(first), session)
    extra = -(-np.maximum(inputs[session] - window, 0) // stride)  # chunks beyond the first of each session
    owner = np.repeat(session, extra)
    turn = np.arange(len(owner)) - np.repeat(np.cumsum(extra) - extra, extra)
    before = window + turn * stride  # targets scored by the chunks ahead
    end = np.minimum(before + stride, inputs[owner])
    return Chunks(
        np.concatenate([offsets[session], offsets[owner] + end - window]),
        np.concatenate([first, np.full(len(owner), window)]),
        np.concatenate([first, end - before]),
        np.concatenate([session, owner]),
    )


def pack(chunks: Chunks, window: int, targets: int) -> Template:
    """Lay chunks into rows and rows, each pattern evenly, into steps of at most ``targets`` (W or more) scored ones."""
    if not len(chunks.begin):
        nothing = np.zeros((0, 1, window), np.int32)
        return Template(nothing, nothing, nothing[:, :, 0])
    row, column, length, scored = _rows(chunks, window)
    total = np.bincount(row, weights=scored).astype(np.int64)  # of each row
    rows = min(len(total), int(targets // max(1.0, total.mean())) + 1)  # the most that no step has too many targets
    while rows > 1 and np.add.reduceat(total, np.arange(0, len(total), rows)).max() > targets:
        rows -= 1
    step, seat = np.divmod(row, rows)
    steps = -(-len(total) // rows)
    order = np.lexsort((step, scored, length))
    step, seat, column, length, scored = (part[order] for part in (step, seat, column, length, scored))

    begin = (step * rows + seat) * window + column
    place = np.repeat(np.arange(len(begin)), length)
    within = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
    at = begin[place] + within
    chunk = np.full(steps * rows * window, len(begin), np.int32)
    offset = np.zeros(steps * rows * window, np.int32)
    chunk[at], offset[at] = place, within
    marks = np.sort(at[within >= (length - scored)[place]])
    counts = np.bincount(marks // (rows * window), minlength=steps)
    slot = np.full((steps, counts.max(initial=1)), -1, np.int32)
    slot[np.arange(slot.shape[1]) < counts[:, None]] = marks % (rows * window)
    return Template(chunk.reshape(steps, rows, window), offset.reshape(steps, rows, window), slot)


def _rows(chunks: Chunks, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, column, length and scored positions of every place: patterns from the histogram of lengths."""
    # Chunks shorter than the window share rows; those of one length score alike.
    whole = (chunks.scored == chunks.length) | (chunks.length < window)
    scored_of = np.zeros(window + 1, np.int64)
    scored_of[chunks.length[whole]] = chunks.scored[whole]
    left = np.bincount(chunks.length[whole], minlength=window + 1)
    parts: list[tuple[np.ndarray, np.ndarray]] = []  # lengths and scored positions of the rows of each pattern
    while left.any():
        pattern, room, used = [], window, np.zeros_like(left)
        for size in range(window, 0, -1):
            take = min(room // size, left[size])
            pattern += [size] * take
            used[size], room = take, room - take * size
        repeats = int(np.min(left[used > 0] // used[used > 0]))
        left -= repeats * used
        lengths = np.tile(pattern, (repeats, 1))
        parts.append((lengths, scored_of[lengths]))
    full = len(parts)
    for scored, n in zip(*np.unique(chunks.scored[~whole], return_counts=True), strict=True):
        parts.append((np.full((n, 1), window), np.full((n, 1), scored)))
    # Patterns that score (nearly) whole rows and those that score little are merged last, so that their shares, and
    # with them the targets of a step, are as even as can be.
    times = np.array([len(lengths) for lengths, _ in parts])
    number = _ranks(np.concatenate([_spread(times[:full]), _spread(times[full:])]))
    sizes = np.concatenate([np.full(len(lengths), lengths.shape[1]) for lengths, _ in parts])
    column = np.concatenate([(np.cumsum(lengths, 1) - lengths).ravel() for lengths, _ in parts])
    length = np.concatenate([lengths.ravel() for lengths, _ in parts])
    counted = np.concatenate([scored.ravel() for _, scored in parts])
    return np.repeat(number, sizes), column, length, counted


def _spread(times: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each of ``times`` rows of each pattern: any stretch has its share of every pattern."""
    phase = (np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times) + 0.5) / np.repeat(times, times)
    return (_ranks(phase) + 0.5) / max(1, len(phase))


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def packed_feed(
    sessions: Sessions, window: int, plan: Plan, stride: int = 1, half_life: float | None = None, events: bool = False,
    times: np.ndarray | None = None, chunks: Chunks | None = None, clock: bool = False,
) -> Feed:  # fmt: skip
    """The blocks of a split, in rows of ``window`` positions; the lanes of the feed's shape are the scored positions of
    a step, at most ``plan.batch``, which is at least the window. Targets ``half_life`` days before the split's last
    event weigh half, with a mean of 1. Blocks tell types of ``events``, int32[n] ``times`` of the last events
    and the ``clock`` of all inputs on request; ``chunks`` are those of a model that cuts sessions in its own way. In
    order time, earlier sessions come earlier."""
    if len(sessions.items) >= 2**31:
        raise UserError(f"{len(sessions.items):,} events: models that read a session at once train on less than "
                        f"{2**31:,}; prepare a part of the data")  # fmt: skip
    log = Log(np.asarray(sessions.items, np.int32), np.asarray(sessions.events) if events else None, times,
              _seconds(sessions.times) if clock else None)  # fmt: skip
    if chunks is None:
        chunks = cut_chunks(np.asarray(sessions.offsets), window, stride, sessions.last_only)
    pairs, inputs, places = int(chunks.scored.sum()), int(chunks.length.sum()), len(chunks.begin)
    # The last targets alone come with all of their history: a step is then bounded by inputs, not by targets.
    batch = max(1, plan.batch * pairs // inputs) if sessions.last_only and inputs else plan.batch
    template = pack(chunks, window, batch)
    used, lanes = template.slot.shape
    shape = Shape.of(lanes, used, plan.steps_per_block)
    # Filled up to whole blocks, and with empty rows and unused slots until devices can share both.
    rows, steps, slots = template.chunk.shape[1], (0, shape.total - used), (0, pad(lanes, plan.mesh) - lanes)
    grid = [steps, (0, pad(rows, plan.mesh) - rows), (0, 0)]
    template = Template(np.pad(template.chunk, grid, constant_values=places), np.pad(template.offset, grid),
                        np.pad(template.slot, [steps, slots], constant_values=-1))  # fmt: skip
    value = None
    if half_life is not None:  # of each chunk's targets, by the age of its session's last event
        last = np.asarray(sessions.times)[np.asarray(sessions.offsets)[chunks.session + 1] - 1]
        value = np.maximum(0.5 ** ((last.max(initial=0) - last) / DAY / half_life), 1e-9)  # 0 would mean: no target
        value = value / np.average(value, weights=chunks.scored)
    # Classes of chunks that may take each other's places, in the order of the template's places.
    kind, in_time = chunks.length * (window + 1) + chunks.scored, np.argsort(chunks.session, kind="stable")

    def order(epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Of the chunk in each place, padding's last: int32[C + 1], the first event, and float32[C + 1], the weight."""
        turn = in_time if plan.order == "time" else shuffled(places, plan.order, plan.seed, epoch)
        chunk = turn[sort_order(kind[turn])]
        begin = np.append(chunks.begin[chunk], 0).astype(np.int32)
        return begin, None if value is None else np.append(value[chunk], 0).astype(np.float32)

    begin = jax.ShapeDtypeStruct((places + 1,), np.int32)
    order_like = begin, None if value is None else begin.update(dtype=np.float32)
    return Feed(plan, shape, pairs, (log, template), order, order_like, _cut)


def _seconds(times: Any) -> np.ndarray:
    """int32[n] from int64[n] ms: since the first of all, so that they fit."""
    seconds = np.asarray(times) // 1000
    return np.minimum(seconds - (seconds.min() if len(seconds) else 0), 2**31 - 1).astype(np.int32)


def target_positions(feed: Feed, epoch: int = 0) -> np.ndarray:
    """int64[steps of all blocks, P]: where in the split each target of a packed feed stands; -1 where there is none."""
    (begin, _), template = feed.order(epoch), jax.device_get(feed.split[1])
    return np.where(template.slot >= 0, _events(np, template, begin)[1], -1)


def _cut(xp: Any, own: Take, mine: Take, split: tuple[Log, Template], order: tuple[Any, Any]) -> PackedBlock:
    """Fill the template's steps. A device scores any positions of a step, not those of its own rows alone."""
    (log, template), (begin, value) = split, order
    part: Template = own(template)
    part = part._replace(slot=mine(part.slot))
    event, target = _events(xp, part, begin)
    live = part.slot >= 0
    slot = xp.where(live, part.slot, 0)
    weight = live.astype(xp.float32)
    if value is not None:
        weight = weight * value[xp.take_along_axis(part.chunk.reshape(len(slot), -1), slot, axis=1)]
    event, chunk, offset = mine((event, part.chunk, part.offset))
    start = (xp.arange(event.shape[2], dtype=xp.int32) - offset).astype(xp.int32)
    source = xp.where(chunk < len(begin) - 1, log.items[event], -1)
    kinds = None if log.events is None else log.events[event].astype(xp.int32)
    asked = None if log.times is None else log.times[xp.maximum(target - 1, 0)]
    goal = log.items[xp.minimum(target, len(log.items) - 1)]  # where the last event is scored, nothing follows
    clock = None if log.clock is None else log.clock[event]
    return PackedBlock(source, start, slot, goal, weight, kinds, asked, clock)


def _events(xp: Any, part: Template, begin: Any) -> tuple[Any, Any]:
    """The event in each position of the grid, and the one that each slot is to predict; 0 where there is none."""
    event = begin[part.chunk] + part.offset
    live = part.slot >= 0
    last = xp.take_along_axis(event.reshape(event.shape[0], -1), xp.where(live, part.slot, 0), axis=1)
    return event, xp.where(live, last + 1, 0)
