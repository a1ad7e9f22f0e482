"""Bytes that devices exchange, read from compiled programs: what the compiler makes, and text written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import ROOT

from jaxrec.benchmarks.exchange import add_exchanged, exchanged

# What is exchanged is known: 16 rows of 24 float32 over 8 devices, two rows each.
PROGRAMS = """
    import json
    import jax, jax.numpy as jnp
    from jax.sharding import PartitionSpec as P
    from jaxrec.benchmarks.exchange import exchanged

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def before(x):  # once a block
        total = jax.lax.psum(x, "data")
        return jax.lax.scan(lambda c, t: (jnp.sin(c + total[0, 0]), None), x, None, length=11)[0]

    def gathered(x):  # once a step
        return jax.lax.scan(lambda c, t: (c + jax.lax.all_gather(jnp.sin(c[0]), "data")[:2], None), x, None, 11)[0]

    def nested(x):  # seven times a step, beside one that is larger
        def inner(c, t):
            return jnp.sin(c) + jax.lax.psum(jnp.cos(c[0, :3]), "data").sum(), None
        def one(c, t):
            return jax.lax.scan(inner, jax.lax.psum(c, "data"), None, length=7)[0], None
        return jax.lax.scan(one, x, None, length=11)[0]

    def alone(x):
        return jax.lax.scan(lambda c, t: (jnp.sin(c), None), x, None, length=11)[0]

    found = {}
    for part in (before, gathered, nested, alone):
        whole = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False))
        text = whole.lower(jax.ShapeDtypeStruct((16, 24), jnp.float32)).compile().as_text()
        found[part.__name__] = exchanged(text, 11)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_compiled_programs_of_eight_devices() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", textwrap.dedent(PROGRAMS)]
    run = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    part = 2 * 24 * 4  # bytes of a device's rows
    assert json.loads(run.stdout) == {
        "before": {"all-reduce": pytest.approx(part / 11)},
        "gathered": {"all-gather": 8 * 24 * 4},
        "nested": {"all-reduce": part + 7 * 3 * 4},
        "alone": {},
    }


def module(entry: str, *computations: str) -> str:
    """A module whose entry computation has this line."""
    text = "\n\n".join(f"%{one}\n}}" for one in computations)
    return f"HloModule jit_f, num_partitions=8\n\n{text}\n\nENTRY %main.1 (p: f32[4]) -> f32[4] {{\n  {entry}\n}}\n"


LOOP = (
    "body (x: f32[4]) -> f32[4] {\n  ROOT %r = f32[4]{0} all-reduce(%x), to_apply=%add",
    "below (x: f32[4]) -> pred[] {\n  ROOT %c = pred[] compare(%i, %n), direction=LT",
)
WHILE = "ROOT %w = (s32[], f32[4]) while(%t), condition=%below, body=%body"
BRANCHES = [
    f"{name} (x: f32[4]) -> f32[4] {{\n  ROOT %r = f32[{size}] all-reduce(%x), to_apply=%add"
    for name, size in (("small", 4), ("large", 40))
]


@pytest.mark.parametrize(
    ("line", "computations", "expected"),
    [
        ("%a = (f32[8,2]{1,0}, /*index=1*/bf16[6]{0}, pred[3]{0}) all-reduce(%p, %q, %r), to_apply=%add", (),
         {"all-reduce": 64 + 12 + 3}),
        ("%a = f32[128,8]{1,0:T(8,128)(2,1)S(1)} all-reduce(%p), to_apply=%add", (), {"all-reduce": 4096}),
        ("a = u8[<=16] all-gather(p), dimensions={0}", (), {"all-gather": 16}),
        ("%s = s4[6]{0} reduce-scatter(%p), to_apply=%add", (), {"reduce-scatter": 3}),
        ('%a = f32[99]{0} add(%p, %q), metadata={op_name="all-reduce(f32[7])"}', (), {}),
        (WHILE + ', backend_config={"known_trip_count":{"n":"9"}}', LOOP, {"all-reduce": 9 * 16}),
        ("%c = f32[4] conditional(%i, %p, %p), branch_computations={%large, %small}", BRANCHES, {"all-reduce": 160}),
        ("%c = f32[4] conditional(%i, %p, %p), true_computation=%small, false_computation=%large", BRANCHES,
         {"all-reduce": 160}),
    ],
)  # fmt: skip
def test_text_by_hand(line: str, computations: list[str], expected: dict[str, int]) -> None:
    """What this machine's compiler does not write."""
    assert exchanged(module(line, *computations), 1) == expected


def test_a_loop_without_a_known_end_is_refused_where_it_exchanges_something() -> None:
    with pytest.raises(ValueError, match="a loop with collectives does not say how often"):
        exchanged(module(WHILE, *LOOP), 3)
    assert exchanged(module(WHILE, LOOP[0].replace("all-reduce", "negate"), LOOP[1]), 3) == {}


def test_a_compiling_process_that_dies_costs_only_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, rows = tmp_path / "script.py", [{"model": "gru4rec"}, {"model": "narm"}]
    script.write_text("import sys; sys.exit(f'no memory for {sys.argv[1:]}')")
    add_exchanged(rows, script, ["narm", "--steps", "4"])
    why = "exit status 1: no memory for ['narm', '--steps', '4', '--collectives']"
    assert capsys.readouterr().err == f"bytes exchanged at 8 devices: {why}\n"
    assert [row["exchanged_per_step"] for row in rows] == [None, None]
