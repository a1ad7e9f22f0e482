"""What a program's text says: kernels, loops, copies, collectives, atomics, bytes; and what targets there are."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrec.errors import UserError
from jaxrec.programs import private, targets, worker
from jaxrec.programs.plan import padding
from jaxrec.programs.text import Argument, Program, bytes_of, padded

TEXT = """\
HloModule jit_block, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%put (a: f32[], b: f32[]) -> f32[] {
  %c = f32[] parameter(0)
  ROOT %d = f32[] parameter(1)
}

%rows (t: f32[90000,8], i: s32[4]) -> f32[4,8] {
  %t = f32[90000,8]{1,0} parameter(0)
  %i = s32[4]{0} parameter(1)
  ROOT %g = f32[4,8]{1,0} gather(%t, %i), offset_dims={1}, slice_sizes={1,8}
}

%turned (t2: f32[90000,8]) -> f32[8,90000] {
  %t2 = f32[90000,8]{1,0} parameter(0)
  ROOT %turn = f32[8,90000]{1,0} transpose(%t2), dimensions={1,0}
}

%inner (x: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %x = (s32[], f32[4,8]{1,0}) parameter(0)
  %x0 = s32[] get-tuple-element(%x), index=0
  %x1 = f32[4,8]{1,0} get-tuple-element(%x), index=1
  %f = f32[4,8]{1,0} fusion(%x1), kind=kLoop, calls=%add
  %f2 = f32[4,8]{1,0} fusion(%f), kind=kLoop, calls=%add
  ROOT %xt = (s32[], f32[4,8]{1,0}) tuple(%x0, %f2)
}

%fewer (y: f32[4,8]) -> f32[4,8] {
  %y = f32[4,8]{1,0} parameter(0)
  ROOT %yc = f32[4,8]{1,0} copy(%y)
}

%more (z: f32[4,8]) -> f32[4,8] {
  %z = f32[4,8]{1,0} parameter(0)
  %zc = f32[4,8]{1,0} copy(%z)
  ROOT %zd = f32[4,8]{1,0} copy(%zc)
}

%step (s: (s32[], f32[90000,8], s32[4])) -> (s32[], f32[90000,8], s32[4]) {
  %s = (s32[], f32[90000,8]{1,0}, s32[4]{0}) parameter(0)
  %s0 = s32[] get-tuple-element(%s), index=0
  %s1 = f32[90000,8]{1,0} get-tuple-element(%s), index=1
  %s2 = s32[4]{0} get-tuple-element(%s), index=2
  %read = f32[4,8]{1,0} fusion(%s1, %s2), kind=kLoop, calls=%rows
  %t = (s32[], f32[4,8]{1,0}) tuple(%s0, %read)
  %w = (s32[], f32[4,8]{1,0}) while(%t), condition=%below, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %w1 = f32[4,8]{1,0} get-tuple-element(%w), index=1
  %branch = f32[4,8]{1,0} conditional(%s0, %w1, %w1), branch_computations={%fewer, %more}
  %all = f32[4,8]{1,0} all-reduce(%branch), to_apply=%add
  %sort = s32[4]{0} sort(%s2), dimensions={0}, to_apply=%below
  %atomic = f32[90000,8]{1,0} scatter(%s1, %s2, %all), update_window_dims={1}, to_apply=%add
  %sorted = f32[90000,8]{1,0} scatter(%atomic, %s2, %all), unique_indices=true, to_apply=%add
  %set = f32[90000,8]{1,0} scatter(%sorted, %s2, %all), update_window_dims={1}, to_apply=%put
  ROOT %st = (s32[], f32[90000,8]{1,0}, s32[4]{0}) tuple(%s0, %set, %sort)
}

ENTRY %main (p: f32[90000,8], q: s32[4]) -> f32[90000,8] {
  %p = f32[90000,8]{1,0} parameter(0), metadata={op_name="state.tables[\\'item\\']"}
  %q = s32[4]{0} parameter(1), metadata={op_name="block.input"}
  %other = f32[90000,8]{0,1} copy(%p)
  %same = f32[90000,8]{1,0} copy(%p)
  %moved = f32[8,90000]{1,0} fusion(%p), kind=kLoop, calls=%turned
  %zero = s32[] constant(0)
  %begin = (s32[], f32[90000,8]{1,0}, s32[4]{0}) tuple(%zero, %same, %q)
  %loop = (s32[], f32[90000,8]{1,0}, s32[4]{0}) while(%begin), condition=%end, body=%step, TURNS
  ROOT %r = f32[90000,8]{1,0} get-tuple-element(%loop), index=1
}
""".replace("TURNS", 'backend_config={"known_trip_count":{"n":"5"}}')
SIZE = 90000 * 8 * 4


def test_what_a_step_executes() -> None:
    program = Program(TEXT, 5)
    # A read, 3 times 2 of the inner loop, the branch with most copies, a sort and 3 scatters; copies and a transpose
    # before the loop.
    assert (program.kernels(), program.kernels_of_block()) == (1 + 3 * 2 + 2 + 1 + 3, 3)
    assert [(one.turns, one.times) for one in program.loops()] == [(3, 1.0)] and program.endless() == []
    assert program.collectives() == {"all-reduce": 4 * 8 * 4} and program.host_transfers() == 0
    # Adding floats where places repeat; not where they are promised to be unique, nor where the last one wins.
    assert program.float_atomics() == 1
    copies = {(one.array, one.what): (one.bytes, one.times, one.per) for one in program.copies()}
    of_block = {("f32[90000,8]", "layout"): 1, ("f32[90000,8]", "copy"): 1, ("f32[8,90000]", "layout"): 1}
    assert copies == {key: (SIZE, times, "block") for key, times in of_block.items()}


def test_loops_that_do_not_say_how_often_they_turn() -> None:
    program = Program(TEXT.replace('"known_trip_count":{"n":"3"}', ""), 5)
    assert program.endless() == ["w"] and program.loops()[0].turns is None and program.kernels() == 9


def test_bytes_of_a_step_are_those_that_are_touched() -> None:
    program, rows = Program(TEXT, 5), 4 * 8 * 4
    read = rows + rows + 16  # of the table only the rows, which are written, and their ids
    loop, branch, reduced, sort = 3 * 2 * (2 * rows), 2 * 2 * rows, 2 * rows, 2 * 16
    scatters = 3 * (rows + rows + 16 + rows)  # rows that are written, and read before, ids and updates
    assert program.traffic() == read + loop + branch + reduced + sort + scatters
    product = '%all = (f32[4,8]{1,0}, s8[33554432]{0}) custom-call(%branch), custom_call_target="__cublas$gemm"'
    changed = TEXT.replace("%all = f32[4,8]{1,0} all-reduce(%branch), to_apply=%add", product)
    assert Program(changed, 5).traffic() == program.traffic()  # a library's workspace counts for nothing


def test_arguments_have_names_and_padding() -> None:
    first, second = Program(TEXT, 5).arguments()
    assert (first.name, first.bytes, second.name) == ("state.tables['item']", SIZE, "block.input")
    assert padded("f32[40000,101]{1,0:T(8,128)}") == 40000 * 128 * 4
    assert padded("f32[40000,101]{0,1:T(8,128)}") == 104 * 40064 * 4
    assert padded("f32[300]{0:T(512)}") == 512 * 4 and padded("s32[]{:T(128)}") == 512
    assert padded("pred[20,32]{1,0:T(8,128)(4,1)}") == 24 * 128
    assert padded("bf16[3,5,100]{2,1,0:T(8,128)(2,1)}") == 3 * 8 * 128 * 2
    assert padded("f32[1000,1]{0,1:T(1,128)}") == 1024 * 4 and padded("f32[7,3]{1,0}") == bytes_of("f32[7,3]") == 84


def test_narrow_tables_that_a_tpu_pads_are_told_of() -> None:
    narrow, wide = "f32[9000000,16]{1,0:T(8,128)}", "f32[9000000,129]{1,0:T(8,128)}"
    names = [
        ("state.tables['a']", narrow),
        ("moment of a", narrow),
        ("state.tables['b']", wide),
        ("c", "f32[9,1]{1,0}"),
    ]
    first, second = padding([Argument(name, shape, padded(shape)) for name, shape in names])
    assert first.startswith("state.tables['a'] and moment of a: padded from 0.58 to 4.61 GB, as rows of 16 ")
    assert first.endswith("a width of 128 takes no more")
    assert second.endswith("a width of 256 takes no more; 1 fewer, in all 128, take 50% of that")


# ---- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "devices", "hosts"), [
    ("tpu-v5e", 1, 1), ("tpu-v6e:4x4", 16, 4), ("tpu-v5p:2x2x1", 4, 1), ("h100", 1, 1), ("h200:16", 16, 2),
    ("a100:4", 4, 1), ("l4", 1, 1), ("cpu:8", 8, 1),
])  # fmt: skip
def test_targets(word: str, devices: int, hosts: int) -> None:
    target = targets.parse(word)
    assert (target.devices, target.hosts) == (devices, hosts) and 0 < target.usable <= target.memory
    assert target.environment()["JAX_PLATFORMS"] == "cpu" if target.platform != "gpu" else target.chip.config


@pytest.mark.parametrize(("word", "message"), [
    ("h10", r"h10: no such target \(did you mean 'h100'\?\); there are tpu-v5e, .* and cpu"),
    ("v5e:2x2", r"did you mean 'tpu-v5e'"),
    ("tpu-v5e:3x3", "no such topology of tpu-v5e.*; there are 1x1, 2x2, "),
    ("tpu-v5p:2x2", r"no such topology of tpu-v5p \(did you mean '2x2x"),
    ("h100:12", "beyond 8 in whole hosts of 8"), ("cpu:0", "1 to 512"), ("cpu:", "number of devices"),
])  # fmt: skip
def test_targets_that_do_not_exist(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        targets.parse(word)


def test_what_is_not_installed_or_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_lacks", lambda module: True)
    for word, extra in (("tpu-v6e", "compile-tpu"), ("l4", "compile-cuda")):
        with pytest.raises(UserError, match=rf"{word}: .* pip install 'jaxrec\[{extra}\]'$"):
            targets.check_extra(targets.parse(word))
    monkeypatch.setattr(private, "TESTED", ("0.1.2",))
    with pytest.raises(UserError, match=r"tried with 0\.1\.2, and jax .* is installed"):
        worker.check(targets.parse("tpu-v6e"))
    worker.check(targets.parse("cpu:8"))  # needs neither


def test_text_proto_of_gpus_names_what_they_have() -> None:
    config = targets.CHIPS["a100"].config
    assert "core_count: 108" in config and "major: 8 minor: 0" in config and config.count("{") == config.count("}")
    assert np.isclose(targets.CHIPS["h100"].memory / 1e9, 85.5, atol=0.1)
