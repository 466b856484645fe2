"""The Guider on native models inside ComfyUI. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/guidance_runs.py PACK PICTURES

Prints one JSON object of measurements and saves the pictures of ``guidance_cases.py`` in the file PICTURES;
``test_guidance.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import native_models as n

sys.path.append(str(Path(__file__).parent))

import guidance_cases as cases
import torch
from comfy import samplers
from comfy_extras import nodes_custom_sampler as core
from comfy_extras import nodes_perpneg
from guidance_models import (
    BATCH,
    EULER,
    KINDS,
    ORDER,
    ROWS,
    controlled,
    engine,
    run,
    unet_world,
    world,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nodes

# ------------------------------------------------------------------------------------ every rule


def rules() -> list[str]:
    return [rule.__name__ for rule in engine().ALL]


def every_rule() -> list[dict[str, Any]]:
    """Every rule after CFG on a native model, batch 3, plain and with what other nodes patch."""
    rows = []
    for kind in KINDS:
        exact, unet = world(kind), unet_world(kind)
        for name in rules():
            w = unet if name in cases.PERTURBED else exact
            sigmas = n.steps(w.model, 6)
            before = n.kit("CFG", scale=3.0) if name != "CFG" else None
            chain = w.chain(name, before)
            out, base = run(w.guider(chain), sigmas), run(w.guider(before), sigmas)
            row = dict(kind=kind, rule=name, finite=bool(torch.isfinite(out).all()))
            row["size"] = float(out.abs().max())
            row["effect"] = n.distance(out, base)
            row["permuted"] = n.distance(run(w.guider(chain), sigmas, ROWS[ORDER]), out[ORDER])
            row["alone"] = n.distance(run(w.guider(chain), sigmas, ROWS[:1]), out[:1])
            rescaled = n.RescaleCFG().patch(w.model, 0.7)[0]
            patched = run(w.guider(chain, model=rescaled), sigmas)
            row["rescaled"] = n.distance(patched, out)
            row["rescaled permuted"] = n.distance(
                run(w.guider(chain, model=rescaled), sigmas, ROWS[ORDER]), patched[ORDER]
            )
            if w is exact:
                control = w.guider(chain, positive=controlled(n.POSITIVE, 0.15))
                shifted = w.guider(chain, positive=n.condition(n.SHIFT + 0.15))
                if name == "Compose":  # one of its conditions is the positive one again
                    shifted = control
                row["control"] = n.distance(run(control, sigmas), run(shifted, sigmas))
                row["control effect"] = n.distance(run(control, sigmas), out)
            one = w.chain(name, n.kit("CFG", scale=1.0)) if before else n.kit("CFG", scale=1.0)
            alone = w.chain(name) if before else None
            row["cfg 1"] = n.distance(run(w.guider(one), sigmas), run(w.guider(alone), sigmas))
            rows.append(row)
    return rows


def pair_only(args: dict[str, Any]) -> list[Tensor]:
    cond, uncond = args["conds"]
    known = args["input"], args["sigma"], args["model_options"]
    return samplers.calc_cond_batch(args["model"], [cond, uncond], *known)


def core_guiders() -> dict[str, float]:
    """Distance of ours to the core's guiders, where those are right."""
    found = {}
    for kind in KINDS:
        w = world(kind)
        sigmas, kit = n.steps(w.model, 8), n.kit
        for name, model in n.patched(w.model).items():
            for positive in (n.POSITIVE, controlled(n.POSITIVE, 0.15)):
                theirs = core.CFGGuider.execute(model, positive, n.NEGATIVE, 3.0).args[0]
                ours = w.guider(kit("CFG", scale=3.0), model=model, positive=positive)
                key = f"CFG {name} {'control' if positive is not n.POSITIVE else 'plain'} {kind}"
                found[key] = n.distance(run(ours, sigmas), run(theirs, sigmas))
        own = w.model.clone()  # a patch in place of the batch call, which knows two conditions
        own.set_model_sampler_calc_cond_batch_function(pair_only)
        chain = w.chain("Compose", kit("CFG", scale=3.0))
        outs = [run(w.guider(chain, model=model), sigmas) for model in (w.model, own)]
        found[f"batch function {kind}"] = n.distance(*outs)
        for style in ("regular", "nested"):
            theirs = core.DualCFGGuider.execute(
                w.model, w.other, n.POSITIVE, n.NEGATIVE, 2.0, 3.0, style
            )
            if style == "regular":  # D_n + b(D_2 − D_n) + a(D_1 − D_2)
                conditions = {"condition0": w.other, "condition1": n.POSITIVE}
                chain = kit("CFG", scale=3.0)
                chain = kit("Compose", conditions=conditions, weights="2, -2", guidance=chain)
            else:  # D_n + b(D_2 + a(D_1 − D_2) − D_n)
                conditions = {"condition0": w.other, "condition1": n.POSITIVE}
                chain = kit(
                    "Compose",
                    conditions=conditions,
                    weights="6, -6",
                    guidance=kit("CFG", scale=3.0),
                )
            found[f"DualCFG {style} {kind}"] = n.distance(
                run(w.guider(chain), sigmas), run(theirs.args[0], sigmas)
            )
        empty, rows = n.condition(0.0), ROWS[:1]  # the core's reduces over the whole batch
        theirs = nodes_perpneg.PerpNegGuider.execute(w.model, n.POSITIVE, w.other, empty, 3.0, 0.7)
        chain = kit("CFG", scale=3.0, guidance=kit("PerpNeg", negative_prompt=w.other, scale=0.7))
        ours = w.guider(chain, negative=empty)
        found[f"PerpNeg {kind}"] = n.distance(
            run(ours, sigmas, rows), run(theirs.args[0], sigmas, rows)
        )
    return found


# -------------------------------------------------------------------------------- calls, sharing


class Kept:
    """Where reports go."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def put(self, report: dict[str, Any]) -> None:
        self.reports.append(report)


def probed(guider: Any) -> tuple[Any, Kept]:
    (host,) = (m for key, m in sys.modules.items() if key.endswith(".nodes.host"))
    kept = Kept()
    return host.runs.probed(guider, kept), kept


def calls() -> dict[str, Any]:
    """{chain: forward passes, images and report} of 20 steps on FLOW, and the log's last line."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sampling_kit").addHandler(handler)
    logging.getLogger("sampling_kit").setLevel(logging.INFO)
    w, kit = world("FLOW"), n.kit
    sigmas, net = n.steps(w.model, 20), w.model.model.diffusion_model
    low, high = float(sigmas[14]), float(sigmas[6])
    interval = {"curve": "interval", "sigma_low": low, "sigma_high": high}
    chains = {
        "cfg": kit("CFG", scale=3.0),
        "interval": kit("CFG", scale=3.0, curve=interval),
        "one": kit("CFG", scale=1.0),
        "none": None,
        "compose": w.chain("Compose", w.chain("Compose", kit("CFG", scale=3.0))),
        "weak": w.chain("Autoguidance"),
        "perp": w.chain("PerpNeg", kit("CFG", scale=2.0)),
    }
    found: dict[str, Any] = {}
    for name, chain in chains.items():
        net.forwards.clear()
        w.weak.model.diffusion_model.rows = 0
        guider, kept = probed(w.guider(chain))
        run(guider, sigmas)
        (report,) = kept.reports
        json.dumps(report, allow_nan=False)
        found[name] = dict(
            forwards=len(net.forwards), images=sum(net.forwards), report=report,
            weak=w.weak.model.diffusion_model.rows, line=lines[-1],
        )  # fmt: skip
    return found


class Reads(TorchDispatchMode):
    """Counts how often a number is read from a tensor, which on a GPU waits for the device."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        read = function.__name__.split(".")[0] in ("item", "_local_scalar_dense")
        self.count += read and args[0].dtype != torch.float64  # those are never on a device
        return function(*args, **(kwargs or {}))


def reads() -> dict[str, float]:
    """Numbers read per further step: 28 steps against 20."""
    found = {}
    for kind in ("EPS", "FLOW"):
        w, counts = world(kind), []
        for steps in (20, 28):
            sigmas = n.steps(w.model, steps)
            with Reads() as mode:
                run(w.guider(n.kit("CFG", scale=3.0)), sigmas, sampler=n.kit("DDIM"))
            counts.append(mode.count)
        found[kind] = (counts[1] - counts[0]) / 8
    return found


def sharing() -> dict[str, Any]:
    """Sharing at pure noise: distance to the run without, images saved, and who is refused."""
    found: dict[str, Any] = {}
    many = [[torch.tensor([0.1, 0.2, 0.3])[:, None, None], {}]]
    same = [[torch.full((3, 1, 1), 0.2), {}]]
    for kind in KINDS:
        w = world(kind)
        sigmas, net = n.steps(w.model, 6, "trailing"), w.model.model.diffusion_model
        chain = n.kit("CFG", scale=3.0)
        outs = []
        for share in (False, True):
            net.forwards.clear()
            guider, kept = probed(w.guider(chain, share_pure_noise=share))
            outs.append(run(guider, sigmas))
            found[f"{kind} {share}"] = [sum(net.forwards), kept.reports[0]["shared_images"]]
        found[f"{kind} distance"] = n.distance(*outs)
        for name, positive in {"many": many, "same": same}.items():
            guider = w.guider(chain, positive=positive, share_pure_noise=True)
            found[f"{kind} {name}"] = n.message(lambda g=guider, s=sigmas: run(g, s))
    return found


# ------------------------------------------------------------------------------- the weak model


def weak_model() -> dict[str, Any]:
    """Autoguidance against its formula, and what is left after a run and after one that was stopped."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        w = world(kind)
        sigmas, net = n.steps(w.model, 6), w.model.model.diffusion_model
        guider = w.guider(w.chain("Autoguidance", scale=2.0))
        seen: list[bool] = []
        net.look = lambda seen=seen, guider=guider, w=w: seen.append(
            guider.loaded_models == [w.weak] and w.weak.model.current_patcher is w.weak
        )
        first, net.look = run(guider, sigmas), None
        found[f"{kind} together"] = seen == [True] * 6
        found[f"{kind} again"] = torch.equal(run(guider, sigmas), first)
        net.fail_at = len(net.forwards) + 3
        try:
            run(guider, sigmas)
        except InterruptedError:
            found[f"{kind} stopped"] = True
        net.fail_at = None
        kept = [k for k in ("inner_model", "loaded_models", "conds", "weak") if vars(guider).get(k)]
        patchers = [m.model.current_patcher for m in (w.model, w.weak)]
        found[f"{kind} clean"] = not kept and patchers == [None, None]
        found[f"{kind} after"] = torch.equal(run(guider, sigmas), first)

        both = Both(net, w.weak.model.diffusion_model)  # one network that does it all
        alone = n.native(kind)
        alone.model.diffusion_model = both
        found[f"{kind} distance"] = n.distance(run(w.guider(None, model=alone), sigmas), first)
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 4:] = 1
        image = {"samples": torch.full((BATCH, 4, 8, 8), 0.4), "noise_mask": mask}
        outs = [n.run(g, EULER, sigmas, image) for g in (w.guider(None, model=alone), guider)]
        found[f"{kind} masked"] = n.distance(*outs)
    w = world("EPS")
    own = w.chain("Autoguidance")
    found["clone"] = n.message(lambda: w.guider(n.kit("Autoguidance", weak_model=w.model.clone())))
    found["other noise"] = n.message(lambda: w.guider(own, model=n.native("FLOW")))
    found["two"] = n.message(
        lambda: n.kit("Autoguidance", weak_model=n.native("EPS"), guidance=own)
    )
    return found


class Both(nn.Module):
    """2·F − F_weak in the network's own output: Autoguidance of scale 2, which is linear."""

    dtype = torch.float32

    def __init__(self, net: nn.Module, weak: nn.Module) -> None:
        super().__init__()
        self.net, self.weak = net, weak

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = 2 * self.net(*args, **kwargs) - self.weak(*args, **kwargs)
        return out


# ------------------------------------------------------------------------------------ gradients


class Weighted(nn.Module):
    """A small network with weights, a buffer and a plain tensor; torch would not differentiate any of them
    that was made in inference mode."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.inside = nn.Conv2d(4, 8, 3, padding=1)
        self.outside = nn.Conv2d(8, 4, 3, padding=1)
        for p in self.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
        self.register_buffer("gain", torch.rand(8, 1, 1, generator=generator) + 0.5)
        self.table = torch.rand(8, 1, 1, generator=generator) + 0.5

    def forward(self, x: Tensor, t: Tensor, context: Tensor, **more: Any) -> Tensor:
        h = torch.tanh(self.inside(x) * self.gain * (1 + context.reshape(-1, 1, 1, 1)))
        return self.outside(h * self.table)


def weighted(kind: str, inference: bool) -> Any:
    model = n.native(kind)
    with torch.inference_mode(inference), torch.no_grad():
        model.model.diffusion_model = Weighted().requires_grad_(False)
    return model


def gradients() -> dict[str, Any]:
    """DPS and ΠGDM on weights made in inference mode and outside it."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        w = world(kind)
        for rule in ("DPS", "PiGDM"):
            chain = w.chain(rule, n.kit("CFG", scale=2.0), scale=0.02)
            outs = []
            for inference in (True, False):
                model = weighted(kind, inference)
                tensors = [*model.model.parameters(), *model.model.buffers()]
                outs.append(run(w.guider(chain, model=model), n.steps(model, 6)))
                now = [*model.model.parameters(), *model.model.buffers()]
                kept = all(a is b for a, b in zip(tensors, now, strict=True))
                found[f"{rule} {kind} {inference} kept"] = kept
            found[f"{rule} {kind} distance"] = n.distance(*outs)
            base = run(w.guider(n.kit("CFG", scale=2.0), model=model), n.steps(model, 6))
            found[f"{rule} {kind} effect"] = n.distance(outs[0], base)
    return found


# ------------------------------------------------------------------------------------ composition


def masks() -> dict[str, float]:
    """Composition with masks on a network that looks at each pixel alone."""
    found: dict[str, float] = {}
    left = torch.zeros(1, 64, 64)  # as pictures have them
    left[..., :32] = 1
    for kind in KINDS:
        w = world(kind)
        sigmas, cfg = n.steps(w.model, 6), n.kit("CFG", scale=2.0)

        def out(w: Any = w, sigmas: Any = sigmas, cfg: Any = cfg, **inputs: Any) -> Tensor:
            chain = n.kit("Compose", guidance=cfg, **inputs)
            return run(w.guider(chain), sigmas)

        a, b = w.other, n.condition(-0.7)
        masked = out(
            conditions={"condition0": a, "condition1": b},
            weights="2, -1",
            masks={"mask0": left, "mask1": 1 - left},
        )
        parts = (
            out(conditions={"condition0": a}, weights="2"),
            out(conditions={"condition0": b}, weights="-1"),
        )
        found[f"{kind} left"] = n.distance(masked[..., :4], parts[0][..., :4])
        found[f"{kind} right"] = n.distance(masked[..., 4:], parts[1][..., 4:])
        chained = n.kit("Compose", conditions={"condition0": a}, weights="2", guidance=cfg)
        chained = n.kit("Compose", conditions={"condition0": b}, weights="-1", guidance=chained)
        together = out(conditions={"condition0": a, "condition1": b}, weights="2, -1")
        found[f"{kind} chained"] = n.distance(run(w.guider(chained), sigmas), together)
    return found


def draw(noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: Any) -> Tensor:
    out = core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)
    return out.args[0]["samples"]


def main() -> None:
    torch.set_num_threads(1)
    n.comfy.utils.PROGRESS_BAR_ENABLED = False
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    checks = (every_rule, core_guiders, calls, reads, sharing, weak_model, gradients, masks)
    with torch.inference_mode():
        print(json.dumps({check.__name__: check() for check in checks}))
        torch.save(cases.pictures(n.kit, draw, rules()), sys.argv[2])


if __name__ == "__main__":
    main()
