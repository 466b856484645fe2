"""Defects in what is around a run: settings that come from elsewhere, grids, a measured start; see ``defects.py``."""

from __future__ import annotations

from sampling_kit.benchmarks.defect import Defect

RUNS = (
    Defect("A1111: img2img takes all of its steps", "nodes/sample/infotext.py",
           "int(min(denoise, 0.999) * steps) + 1", "steps",
           ("tests/test_a1111.py::test_img2img_takes_the_steps_that_a1111_takes",)),
    Defect("A1111: the strength of a hires fix is the run's", "nodes/sample/infotext.py",
           "hires = any(key in pairs for key in HIRES)", "hires = False",
           ("tests/test_a1111.py::test_the_strength_of_a_hires_fix_is_not_the_run_s",)),
    Defect("A1111: commas in quotes split a value", "nodes/sample/infotext.py",
           "quoted = letter == '\"'", "quoted = False",
           ("tests/test_a1111.py::test_values_with_commas_and_what_a_prompt_holds_for_a1111_alone",)),
    Defect("grid: a cell's file forgets what is far upstream", "nodes/sample/grid_graph.py",
           "[digests.get(sources[name], sources[name]), value[1]]", "[value[1]]",
           ("tests/test_grid_node.py::test_what_is_there_is_not_made_again_whatever_the_grid",)),
    Defect("grid: nodes after the knob are not copied", "nodes/sample/grid_graph.py",
           "if key not in touched and not any(source in names for source in sources.values()):",
           "if key not in touched:", ("tests/test_grid_node.py",)),
    Defect("grid: cells in no order", "nodes/sample/grid_graph.py",
           '{} if last is None else {"before": [last, 0]}', "{}",
           ("tests/test_grid_node.py::test_only_what_a_knob_changes_is_copied",)),
    Defect("noise level: signal counts as noise", "schedulers/measure/noise_level.py",
           "if float(rest[-1]) <= uneven * mean:", "if count:", ("tests/test_noise_level.py",)),
    Defect("measured start: κ as σ on flow", "nodes/schedule/measured_noise.py",
           "(sigma,) = Points(schedule.path, (kappa,)).sigmas()", "sigma = kappa",
           ("tests/test_noise_level.py",)),
)  # fmt: skip
