"""Solvers by published names: each row against the cases that core's samplers are compared with."""

from __future__ import annotations

import pytest
from core_sampler_cases import ALL_CASES

from sampling_kit.schedulers import spacing
from sampling_kit.schedulers.solver import ALL
from sampling_kit.schedulers.solver.published import BY_NAME, NEAR, ROWS, by_foreign_name, name_of
from sampling_kit.schedulers.spacing import schedule_names as spacings


@pytest.mark.some(12)
@pytest.mark.parametrize("row", [r for r in ROWS if r.comfy], ids=lambda r: r.name)
def test_a_row_is_the_method_that_core_s_sampler_of_that_name_was_compared_with(row):
    names = {name.removesuffix("_gpu").replace("uni_pc", "unipc") for name in row.comfy}
    compared = [case.ours for case in ALL_CASES if case.sampler in names]
    if compared:
        assert any(same(row.solver, ours) for ours in compared), (row, compared)
    else:
        assert names in ({"ddim"}, {"dpm_adaptive"})


def same(row, ours):
    """Of one kind and setting; on VP and VE λ and log σ are one coordinate, and cases are of several orders."""
    free = ("coordinate", "max_order", "lower_order_final")
    keep = lambda s: {k: v for k, v in vars(s).items() if k not in free}  # noqa: E731
    return type(row) is type(ours) and keep(row) == keep(ours)


def test_names_are_said_once_and_lead_back():
    said = [name for row in ROWS for name in {row.name, *row.comfy, *row.labels, *row.diffusers}]
    said += [near.name for near in NEAR]
    assert len(said) == len(set(said))
    for row in ROWS:
        assert name_of(row.solver) == row.name
        for name in (row.name, *row.comfy, *row.labels, *row.diffusers):
            assert by_foreign_name(name) == (row, "")
    for near in NEAR:
        assert by_foreign_name(near.name) == (BY_NAME[near.row], near.differs)


def test_every_solver_s_default_is_in_the_list():
    there = {type(row.solver) for row in ROWS}
    assert {kind.__name__ for kind in ALL} - {kind.__name__ for kind in there} == {"AMED"}


def test_a_name_that_nobody_has():
    with pytest.raises(ValueError, match=r"sampler = 'eular'.*choose one of Euler"):
        by_foreign_name("eular")


def test_schedules_elsewhere_lead_to_a_spacing_and_each_name_is_said_once():
    names = [name for row in spacings.ROWS for name in row.names]
    assert len(names) == len(set(names))
    for row in spacings.ROWS:
        assert row.spacing in spacing.ALL
        for name in row.names:
            assert spacings.by_foreign_name(name) == (row.spacing, row.differs)
    with pytest.raises(ValueError, match=r"scheduler = 'karas'.*choose one of karras"):
        spacings.by_foreign_name("karas")
