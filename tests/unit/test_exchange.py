"""Bytes that devices exchange, read from the text of programs; tests/devices.py reads those of compiled ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxrec.benchmarks.exchange import add_exchanged, exchanged

LOOP = """\
%body (x: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%x), to_apply=%add
}
%small (x: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%x), to_apply=%add
}
%large (x: f32[4]) -> f32[4] {
  ROOT %r = f32[40]{0} all-reduce(%x), to_apply=%add
}
ENTRY %main.1 (p: f32[4]) -> f32[4] {
"""
WHILE = "ROOT %w = (s32[], f32[4]) while(%t), condition=%below, body=%body"


@pytest.mark.parametrize(("line", "expected"), [
    ("%a = (f32[8,2]{1,0}, /*index=1*/bf16[6]{0}, pred[3]{0}) all-reduce(%p, %q, %r), to_apply=%add",
     {"all-reduce": 64 + 12 + 3}),
    ("%a = f32[128,8]{1,0:T(8,128)(2,1)S(1)} all-reduce(%p), to_apply=%add", {"all-reduce": 4096}),
    ("%s = s4[6]{0} reduce-scatter(%p), to_apply=%add", {"reduce-scatter": 3}),
    ('%a = f32[99]{0} add(%p, %q), metadata={op_name="all-reduce(f32[7])"}', {}),
    (WHILE + ', backend_config={"known_trip_count":{"n":"9"}}', {"all-reduce": 9 * 16}),
    ("%c = f32[4] conditional(%i, %p, %p), branch_computations={%large, %small}", {"all-reduce": 160}),
])  # fmt: skip
def test_text_by_hand(line: str, expected: dict[str, int]) -> None:
    """What this machine's compiler does not write."""
    assert exchanged(f"{LOOP}  {line}\n}}\n", 1) == expected


def test_text_that_does_not_say_is_refused() -> None:
    for text, message in ((f"{LOOP}  {WHILE}\n}}\n", "does not say how often it turns"), ("", "no HLO module")):
        with pytest.raises(ValueError, match=message):
            exchanged(text, 3)


def test_a_compiling_process_that_dies_costs_only_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, rows = tmp_path / "script.py", [{"model": "gru4rec"}, {"model": "narm"}]
    script.write_text("import sys; sys.exit(f'no memory for {sys.argv[1:]}')")
    add_exchanged(rows, script, ["narm", "--steps", "4"])
    why = "exit status 1: no memory for ['narm', '--steps', '4', '--collectives']"
    assert capsys.readouterr().err == f"bytes exchanged at 8 devices: {why}\n"
    assert [row["exchanged_per_step"] for row in rows] == [None, None]
