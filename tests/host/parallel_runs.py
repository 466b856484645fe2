"""Picard sweeps on tiny native networks with random weights. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/parallel_runs.py PACK

Prints one JSON object of measurements; ``test_parallel_host.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import perturbations as p  # before ComfyUI's modules: it puts them first
import torch
from comfy_extras.nodes_model_advanced import RescaleCFG
from torch import Tensor

import nodes

n = p.n


def measured(name: str) -> dict[str, Any]:
    """Runs of 12 steps, batch 2, by the solver in sequence and by sweeps, with and without what goes by the level."""
    rig = p.Rig(name)
    for q in rig.net.parameters():
        q.mul_(0.7)
    model, rows = rig.base.current_patcher, []
    rig.net.register_forward_pre_hook(lambda net, args: rows.append(len(args[0])))
    texts = [
        [[torch.randn(count, 5, 16), {"pooled_output": torch.zeros(1, 16)}]] for count in (1, 1)
    ]
    steps = torch.linspace(0.95, 0.0, 13)

    def run(
        sampler: Any, model: Any = model, chain: Any = None, images: int = 2, seed: int = 3
    ) -> tuple[Tensor, list[int]]:
        latent = {"samples": torch.zeros(images, *rig.shape[1:])}
        guider = n.kit("Guider", model=model, positive=texts[0], negative=texts[1], guidance=chain)
        noise = n.kit("PerImageNoise", seed=seed)
        rows.clear()
        out = n.core.SamplerCustomAdvanced.execute(noise, guider, sampler, steps, latent).args[0]
        return out["samples"], list(rows)

    found: dict[str, Any] = {}
    plain = n.kit("DPMSolverMultistep")
    sweeps = n.kit("ParallelSteps", sampler=plain, window=4, tolerance=0.0)
    cfg = n.kit("CFG", scale=2.0)
    patched = RescaleCFG().patch(model, 0.5)[0]
    cases = {"alone": (model, None), "CFG": (model, cfg), "patched": (patched, cfg)}
    for case, (which, chain) in cases.items():
        (theirs, single), (ours, swept) = (run(s, which, chain) for s in (plain, sweeps))
        found[case] = {
            "distance": n.distance(ours, theirs) / float(theirs.std()),
            "rows": [max(single), max(swept)],
            "calls": [len(single), len(swept)],
        }
    speculative = n.kit("SpeculativeSteps", sampler=n.kit("DDPM"), window=4)
    for case in ("CFG", "patched"):
        which, chain = cases[case]
        both, rows_of_both = run(speculative, which, chain)
        alone, _ = run(speculative, which, chain, 1, 4)
        found[f"{case} speculative"] = {
            "distance": n.distance(both[1:], alone) / float(alone.std()),
            "rows": max(rows_of_both),
            "calls": len(rows_of_both),
        }
    apg = n.kit("APG", momentum=-0.5)
    found["memory"] = n.message(lambda: run(sweeps, model, apg))
    return found


def main() -> None:
    torch.set_num_threads(1)
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    with torch.inference_mode():
        print(json.dumps({name: measured(name) for name in ("UNet", "Flux")}))


if __name__ == "__main__":
    main()
