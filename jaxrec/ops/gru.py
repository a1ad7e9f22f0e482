"""Gated recurrent layers, stepped one item at a time or scanned over a sequence.

Two kinds, as in the authors' code of GRU4Rec. Over vectors the reset gate acts after the recurrent product and each
gate has two biases (Cho et al. 2014 as in cuDNN). Over one-hot items the reset gate acts before it, there is one bias,
and the input's product with its gate matrix is a row of a table, so the caller looks that row up.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxrec.ops.parallel import ONE, Placement
from jaxrec.ops.tables import glorot_like

Hidden = tuple[Array, ...]


def gru_cell(params: dict[str, Array], x: Array, h: Array, on: Placement = ONE) -> Array:
    """One step of a GRU over vectors: float32[B, H] from ``x`` float32[B, I] and ``h`` float32[B, H].

    Args:
        params: input_kernel [I, 3H], hidden_kernel [H, 3H], input_bias [3H], hidden_bias [3H]; gates in the order
            reset, update, candidate.
    """
    from_x = on.product(x, params["input_kernel"]) + params["input_bias"]  # [B, 3H]
    return _gates(from_x, on.product(h, params["hidden_kernel"]) + params["hidden_bias"], h)[0]


def gru_sequence(params: dict[str, Array], x: Array, reset: Array, on: Placement = ONE) -> Array:
    """float32[B, T, H]: the state of a GRU after each position of whole sequences, float32[B, T, I] ``x``.

    The input's product is one for all positions; a step has but the recurrent one.

    Args:
        params: as for ``gru_cell``.
        reset: bool[B, T]; the state is zeroed before these positions, and before the first.
    """
    from_x = on.product(x, params["input_kernel"]) + params["input_bias"]  # [B, T, 3H]
    states = _recurrence(on, from_x.swapaxes(0, 1), reset.T, params["hidden_kernel"], params["hidden_bias"])
    return states.swapaxes(0, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(on: Placement, from_x: Array, reset: Array, kernel: Array, bias: Array) -> Array:
    """float32[T, B, H] from float32[T, B, 3H], bool[T, B], [H, 3H] and [3H].

    The derivative is by hand for one reason: a scan's own would add up that of the kernel step by step, in T small
    products and T passes over [H, 3H]. From the steps stacked it is one product.
    """
    return _recurrence_forward(on, from_x, reset, kernel, bias)[0]


def _recurrence_forward(on: Placement, from_x: Array, reset: Array, kernel: Array, bias: Array) -> tuple[Array, Any]:
    def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Any]:
        h = jnp.where(at[1][:, None], 0.0, h)
        new, gates = _gates(at[0], on.product(h, kernel) + bias, h)
        return new, (new, (h, *gates))

    begin = jnp.zeros((from_x.shape[1], kernel.shape[0]), from_x.dtype)
    _, (states, kept) = jax.lax.scan(step, begin, (from_x, reset))
    return states, (kept, reset, kernel)


def _recurrence_backward(on: Placement, saved: Any, of_states: Array) -> tuple[Array, None, Array, Array]:
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


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _gates(from_x: Array, from_h: Array, h: Array) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """The new state; and reset, update, candidate and the candidate's part of ``from_h``, all float32[B, H]."""
    size = h.shape[-1]
    gates = jax.nn.sigmoid(from_x[:, : 2 * size] + from_h[:, : 2 * size])
    reset, update = gates[:, :size], gates[:, size:]
    candidate = jnp.tanh(from_x[:, 2 * size :] + reset * from_h[:, 2 * size :])
    return candidate + update * (h - candidate), (reset, update, candidate, from_h[:, 2 * size :])


def onehot_gru_cell(params: dict[str, Array], row: Array, h: Array, on: Placement = ONE) -> Array:
    """One step of a GRU over one-hot items, float32[B, H].

    Args:
        params: gate_kernel [H, 2H] (reset, update), candidate_kernel [H, H], bias [3H] (candidate, reset, update).
        row: float32[B, 3H], the item's row of the input matrix, in the order of the bias.
    """
    size = h.shape[-1]
    from_x = row + params["bias"]
    gates = jax.nn.sigmoid(from_x[:, size:] + on.product(h, params["gate_kernel"]))
    reset, update = gates[:, :size], gates[:, size:]
    candidate = jnp.tanh(from_x[:, :size] + on.product(reset * h, params["candidate_kernel"]))
    return h + update * (candidate - h)


class GRUStack(nn.Module):
    """GRU layers on top of each other; the hidden states are the caller's to carry.

    Attributes:
        inputs: width of the input vectors; with ``onehot`` three times the first layer's units.
        layers: units of each layer.
        onehot: whether the first layer reads rows of its input matrix.
        dropout_input: rate on the input vectors; with ``onehot`` on the first layer's output.
        dropout_hidden: rate on each layer's output (with ``onehot`` from the second on). The state that is carried is
            the dropped one, as in the authors' code.
    """

    inputs: int
    layers: tuple[int, ...]
    onehot: bool = False
    dropout_input: float = 0.0
    dropout_hidden: float = 0.0

    def setup(self) -> None:
        widths = (self.inputs, *self.layers)
        self.cells = [
            _onehot_params(self, f"layer_{i}", width) if self.onehot and i == 0
            else gru_params(self, f"layer_{i}", widths[i], width)
            for i, width in enumerate(self.layers)
        ]  # fmt: skip

    def __call__(self, x: Array, hidden: Hidden, train: bool = False, on: Placement = ONE) -> Hidden:
        """One step from float32[B, inputs] and float32[B, H] of each layer to the new states; the last is the output.

        Args:
            train: whether to drop out, with the ``dropout`` random stream.
        """
        states = []
        if not self.onehot:
            x = self._drop(x, self.dropout_input, train)
        for i, (params, h) in enumerate(zip(self.cells, hidden, strict=True)):
            first_onehot = self.onehot and i == 0
            x = onehot_gru_cell(params, x, h, on) if first_onehot else gru_cell(params, x, h, on)
            x = self._drop(x, self.dropout_input if first_onehot else self.dropout_hidden, train)
            states.append(x)
        return tuple(states)

    def _drop(self, x: Array, rate: float, train: bool) -> Array:
        if not train or not rate:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, x.shape)
        return jnp.where(keep, x / (1.0 - rate), 0.0)


def zero_hidden(layers: tuple[int, ...], lanes: int) -> Hidden:
    """float32[lanes, H] zeros for each layer."""
    return tuple(jnp.zeros((lanes, width), jnp.float32) for width in layers)


def reset_hidden(hidden: Hidden, reset: Array) -> Hidden:
    """The states with the lanes of bool[B] ``reset`` zeroed."""
    return tuple(jnp.where(reset[:, None], 0.0, h) for h in hidden)


def gru_params(module: nn.Module, name: str, inputs: int, units: int) -> dict[str, Array]:
    """The parameters of ``gru_cell``, made within a module's ``setup``."""

    def gates(key: Array, rows: int) -> Array:
        return glorot_like(key, (rows, 3 * units), blocks=3)

    return {
        "input_kernel": module.param(f"{name}_input_kernel", gates, inputs),
        "hidden_kernel": module.param(f"{name}_hidden_kernel", gates, units),
        "input_bias": module.param(f"{name}_input_bias", nn.initializers.zeros_init(), (3 * units,)),
        "hidden_bias": module.param(f"{name}_hidden_bias", nn.initializers.zeros_init(), (3 * units,)),
    }


def _onehot_params(module: nn.Module, name: str, units: int) -> dict[str, Array]:
    return {
        "gate_kernel": module.param(f"{name}_gate_kernel", lambda key: glorot_like(key, (units, 2 * units), blocks=2)),
        "candidate_kernel": module.param(f"{name}_candidate_kernel", lambda key: glorot_like(key, (units, units))),
        "bias": module.param(f"{name}_bias", nn.initializers.zeros_init(), (3 * units,)),
    }
