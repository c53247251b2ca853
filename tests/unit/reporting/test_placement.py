"""The placement part: what the bench told, and nothing where it told nothing."""

from dataclasses import replace

from foldrank.reporting.parts import Fold, Table, Text
from foldrank.reporting.section_placement import placement_parts
from foldrank.reports.bench import Bench, Energy, NullTest, Operators, Placement
from foldrank.reports.machine import Environment

PLACED = Placement(
    bundle="dense", provider="cuda", nodes={"CPUExecutionProvider": 2, "CUDAExecutionProvider": 271}, steps=8,
    step_us={"CUDAExecutionProvider": 1500.0}, operator_us={"MatMul": 900.0}, memcpy=3, casts=1,
    operators=Operators(before={"MatMul": 85, "Sigmoid": 12}, after={"MatMul": 85, "QuickGelu": 12}))
ENERGY = [Energy(bundle="dense", engine="genai", joules_per_token=0.25, energy_source="NVML, whole card"),
          Energy(bundle="compressed", engine="genai", joules_per_token=None, energy_source="no NVML")]
BEFORE = Bench(environment=Environment(threads=1, versions={}), null_test=NullTest(ratio=1.0, ci95=[1.0, 1.0]), rows=[],
               speedups=[], gates=[], verdict="pass")
"""As an earlier version wrote it."""


def test_nodes_times_copies_and_fusions_are_shown() -> None:
    nodes, fused, energy = placement_parts(replace(BEFORE, placement=[PLACED], energy=ENERGY))
    assert isinstance(nodes, Table)
    shown = [[cell.text for cell in row] for row in nodes.rows]
    assert shown[0][:3] == ["dense", "CPU", "2"]
    assert shown[1][1:3] == ["CUDA", "271"]
    assert "1.5" in shown[1][3]
    assert shown[1][4:] == ["3", "1"]
    assert isinstance(fused, Fold)
    operators = fused.parts[0]
    assert isinstance(operators, Table)
    assert [[cell.text for cell in row[:3]] for row in operators.rows] == [
        ["MatMul", "85", "85"], ["QuickGelu", "0", "12"], ["Sigmoid", "12", "0"]]
    assert isinstance(energy, Text)
    assert "0.25" in str(energy)
    assert "compressed" not in str(energy)


def test_a_bench_of_before_has_no_such_part() -> None:
    assert placement_parts(BEFORE) == []
