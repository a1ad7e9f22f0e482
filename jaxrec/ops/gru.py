"""Gated recurrent layers as in GRU4Rec's code: over vectors the reset gate acts after the recurrent product and each
gate has two biases, as in cuDNN; over one-hot items it acts before it, and the input's product is a row of a table."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxrec.ops.parallel import ONE, Placement, by_hand
from jaxrec.ops.tables import glorot_like

UNROLLED = 32  # turns of a recurrence that accelerators run without a loop around them


def gru_cell(params: dict[str, Array], x: Array, h: Array, on: Placement = ONE) -> Array:
    """One step over vectors: float32[B, H] from ``x`` float32[B, I], ``h`` float32[B, H] and ``gru_params``."""
    from_x = on.product(x, params["input_kernel"]) + params["input_bias"]  # [B, 3H]
    return _gates(from_x, on.product(h, params["hidden_kernel"]) + params["hidden_bias"], h)[0]


def side_by_side(params: dict[str, Array]) -> Array | None:
    """float32[2, I + 1, 3H]: both kernels of ``gru_cell`` with their biases as last rows, for ``packed_gru_cell``; None
    where inputs and units are not as many."""
    if params["input_kernel"].shape != params["hidden_kernel"].shape:
        return None
    parts = [jnp.vstack([params[f"{name}_kernel"], params[f"{name}_bias"]]) for name in ("input", "hidden")]
    return jnp.stack(parts)


def apart(packed: Array) -> dict[str, Array]:
    """The parameters that ``side_by_side`` has put together."""
    return {f"{name}_{part}": rows for name, one in zip(("input", "hidden"), packed, strict=True)
            for part, rows in (("kernel", one[:-1]), ("bias", one[-1]))}  # fmt: skip


def _packed_forward(packed: Array, x: Array, h: Array, on: Placement) -> tuple[Array, tuple[Array, ...]]:
    """``gru_cell`` of accelerators, with one product for both kernels, and one for both of their derivatives and those
    of the biases. What comes from the state before has no derivative, as GRU4Rec cuts it there."""
    ones = jnp.ones((len(x), 1), x.dtype)
    both = jnp.stack([jnp.concatenate([part, ones], axis=1) for part in (x, h)])  # [2, B, I + 1]
    sums = on.product(both, packed)  # [2, B, 3H]
    return _gates(sums[0], sums[1], h)[0], (packed, *on.rounded(both), sums, h)


def _packed_backward(on: Placement, saved: tuple[Array, ...], slope: Array) -> tuple[Array, Array, None]:
    packed, both, sums, h = saved
    new, (reset, update, candidate, from_h) = _gates(sums[0], sums[1], h)
    of_c = slope * (1.0 - update) * (1.0 - candidate * candidate)
    of_r = of_c * from_h * reset * (1.0 - reset)
    of_u = slope * (h - candidate) * update * (1.0 - update)
    of_sums = jnp.stack([jnp.concatenate([of_r, of_u, last], axis=1) for last in (of_c, of_c * reset)])
    (rounded,) = on.rounded(of_sums)
    of_packed = jnp.einsum("zbi,zbg->zig", both, rounded, preferred_element_type=packed.dtype)
    return of_packed, on.product(of_sums[0], packed[0, :-1].T), None


packed_gru_cell = by_hand(_packed_forward, _packed_backward, (3,))


def gru_sequence(params: dict[str, Array], x: Array, reset: Array, on: Placement = ONE) -> Array:
    """float32[B, T, H]: the states of whole sequences float32[B, T, I] ``x``, zeroed before positions of ``reset``."""
    from_x = on.product(x, params["input_kernel"]) + params["input_bias"]  # [B, T, 3H]
    states = _recurrence(on, from_x.swapaxes(0, 1), reset.T, params["hidden_kernel"], params["hidden_bias"])
    return states.swapaxes(0, 1)


def gru_params(module: nn.Module, name: str, inputs: int, units: int) -> dict[str, Array]:
    """The parameters of ``gru_cell``; gates in the order reset, update, candidate."""

    def gates(key: Array, rows: int) -> Array:
        return glorot_like(key, (rows, 3 * units), blocks=3)

    return {
        "input_kernel": module.param(f"{name}_input_kernel", gates, inputs),
        "hidden_kernel": module.param(f"{name}_hidden_kernel", gates, units),
        "input_bias": module.param(f"{name}_input_bias", nn.initializers.zeros_init(), (3 * units,)),
        "hidden_bias": module.param(f"{name}_hidden_bias", nn.initializers.zeros_init(), (3 * units,)),
    }


def _recurrence_forward(on: Placement, from_x: Array, reset: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    """float32[T, B, H] from float32[T, B, 3H], bool[T, B], [H, 3H] and [3H]. The derivative is by hand, since a scan's
    own would add up that of the kernel in T small products and T passes; from the steps stacked it is one product."""
    if on.platform != "cpu":
        states = _states(on, from_x, reset, kernel, bias)
        return states, (states, from_x, reset, kernel, bias)

    def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Any]:
        h = jnp.where(at[1][:, None], 0.0, h)
        new, gates = _gates(at[0], on.product(h, kernel) + bias, h)
        return new, (new, (h, *gates))

    begin = jnp.zeros((from_x.shape[1], kernel.shape[0]), from_x.dtype)
    _, (states, kept) = jax.lax.scan(step, begin, (from_x, reset))
    return states, (kept, reset, kernel)


def _recurrence_backward(on: Placement, saved: Any, of_states: Array) -> tuple[Array, None, Array, Array]:
    if on.platform != "cpu":
        return _of_states(on, saved, of_states)
    (before, opening, update, candidate, from_h), reset, kernel = saved

    def step(of_next: Array, at: Any) -> tuple[Array, Any]:
        of_h, opened, h, r, u, c, g = at
        of_h = of_h + of_next
        of_c = of_h * (1.0 - u) * (1.0 - c * c)
        of_r, of_u = of_c * g * r * (1.0 - r), of_h * (h - c) * u * (1.0 - u)
        of_gates = jnp.concatenate([of_r, of_u, of_c * r], axis=1)
        of_before = of_h * u + on.product(of_gates, kernel.T)
        return jnp.where(opened[:, None], 0.0, of_before), (of_gates, of_c)

    parts = (of_states, reset, before, opening, update, candidate, from_h)
    _, (of_gates, of_c) = jax.lax.scan(step, jnp.zeros_like(of_states[0]), parts, reverse=True)
    size = kernel.shape[0]
    of_kernel = jnp.einsum("tbh,tbg->hg", *on.rounded(before, of_gates), preferred_element_type=before.dtype)
    of_x = jnp.concatenate([of_gates[:, :, : 2 * size], of_c], axis=2)
    return of_x, None, of_kernel, jnp.sum(of_gates, axis=(0, 1))


def _states(on: Placement, from_x: Array, reset: Array, kernel: Array, bias: Array) -> Array:
    """What ``_recurrence_forward`` gives, for accelerators: there each array that a turn stacks is a kernel of its own,
    and so is a loop's counter. Turns are unrolled, they stack states alone and reset what the next one begins with."""

    def turn(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        new, _ = _gates(at[0], on.product(h, kernel) + bias, h)
        return jnp.where(at[1][:, None], 0.0, new), new

    begin = jnp.zeros((from_x.shape[1], kernel.shape[0]), from_x.dtype)
    following = jnp.roll(reset, -1, axis=0)
    return jax.lax.scan(turn, begin, (from_x, following), unroll=min(len(reset), UNROLLED))[1]


def _of_states(on: Placement, saved: Any, of_states: Array) -> tuple[Array, None, Array, Array]:
    """``_recurrence_backward`` for accelerators. What does not wait for the turn behind it is worked out for all at
    once, the gates a second time: a turn is one product and one kernel around it."""
    states, from_x, reset, kernel, bias = saved
    opened = reset[:, :, None]
    before = jnp.where(opened, 0.0, jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]]))
    _, (r, u, c, g) = _gates(from_x, on.product(before, kernel) + bias, before)
    by_c = (1.0 - u) * (1.0 - c * c)
    by_gates = jnp.concatenate([by_c * g * r * (1.0 - r), (before - c) * u * (1.0 - u), by_c * r], axis=2)

    def turn(of_before: Array, at: Any) -> tuple[Array, Array]:
        of_state, by_gates, u, opened = at
        of_h = of_state + of_before
        of_before = of_h * u + on.product(jnp.concatenate([of_h] * 3, axis=1) * by_gates, kernel.T)
        return jnp.where(opened, 0.0, of_before), of_h

    begin, parts = jnp.zeros_like(of_states[0]), (of_states, by_gates, u, opened)
    _, of_h = jax.lax.scan(turn, begin, parts, reverse=True, unroll=min(len(reset), UNROLLED))
    of_gates = jnp.concatenate([of_h] * 3, axis=2) * by_gates
    of_kernel = jnp.einsum("tbh,tbg->hg", *on.rounded(before, of_gates), preferred_element_type=before.dtype)
    of_x = jnp.concatenate([of_gates[:, :, : 2 * kernel.shape[0]], of_h * by_c], axis=2)
    return of_x, None, of_kernel, jnp.sum(of_gates, axis=(0, 1))


_recurrence = by_hand(_recurrence_forward, _recurrence_backward, (0,))


def _gates(from_x: Array, from_h: Array, h: Array) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """The new state; and reset, update, candidate and the candidate's part of ``from_h``, all float32[B, H]."""
    size = h.shape[-1]
    gates = jax.nn.sigmoid(from_x[..., : 2 * size] + from_h[..., : 2 * size])
    reset, update = gates[..., :size], gates[..., size:]
    candidate = jnp.tanh(from_x[..., 2 * size :] + reset * from_h[..., 2 * size :])
    return candidate + update * (h - candidate), (reset, update, candidate, from_h[..., 2 * size :])


def onehot_gru_cell(params: dict[str, Array], row: Array, h: Array, on: Placement = ONE) -> Array:
    """One step over one-hot items, float32[B, H], from float32[B, 3H], the items' rows of the input matrix."""
    size = h.shape[-1]
    from_x = row + params["bias"]
    gates = jax.nn.sigmoid(from_x[:, size:] + on.product(h, params["gate_kernel"]))
    reset, update = gates[:, :size], gates[:, size:]
    candidate = jnp.tanh(from_x[:, :size] + on.product(reset * h, params["candidate_kernel"]))
    return h + update * (candidate - h)


def onehot_gru_params(module: nn.Module, name: str, units: int) -> dict[str, Array]:
    """The parameters of ``onehot_gru_cell``: gates reset, update; the bias has candidate, reset, update."""
    return {
        "gate_kernel": module.param(f"{name}_gate_kernel", lambda key: glorot_like(key, (units, 2 * units), blocks=2)),
        "candidate_kernel": module.param(f"{name}_candidate_kernel", lambda key: glorot_like(key, (units, units))),
        "bias": module.param(f"{name}_bias", nn.initializers.zeros_init(), (3 * units,)),
    }
