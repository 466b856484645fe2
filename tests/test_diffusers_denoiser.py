"""diffusers folders as denoisers, against diffusers: its networks called its way, its schedulers, its pipelines.

Everything runs on tiny random models, saved as real folders and read back.
"""

import inspect
import itertools
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers_folders import TINY, VAES, clip, conditioning, network, save, scheduler, t5

from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.diffusers import adapters, training
from sampling_kit.schedulers.denoiser.many import many
from sampling_kit.schedulers.noise_schedule import Measured, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import Prediction
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM, DDPM, DPMSolverMultistep, Euler, RectifiedFlow
from sampling_kit.schedulers.solver.run import Run

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
every = pytest.mark.parametrize("name", TINY)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name → the folder, written once."""
    base = tmp_path_factory.mktemp("diffusers")
    return lru_cache(None)(lambda name: save(name, base / name))


@pytest.fixture(scope="module")
def ours(folders):
    """name → our denoiser."""
    return lru_cache(None)(lambda name: kit.load(kit.read_folder(folders(name))))


@pytest.fixture(scope="module")
def theirs():
    """name → diffusers' network, as it was before it was saved."""
    return lru_cache(None)(network)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def latent(name, batch=2, seed=0, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(batch, *TINY[name].shape, generator=generator)


def called(name, net, x, t, cond):
    """The network called as diffusers' pipeline for it does; t in diffusers' timesteps [B]."""
    kind, rest = TINY[name].kind, {}
    text = cond.get("text")
    if kind == "UNet2DModel":
        return net(x, t, class_labels=cond.get("labels")).sample[:, : x.shape[1]]
    if kind == "UNet2DConditionModel":
        if "pooled" in cond:
            size = (16, 24)  # the VAE has 2 pixels a latent
            ids = [*size, 0, 0, *((6.0,) if name == "sdxl-refiner" else size)]
            ids = torch.tensor([ids]).repeat(len(x), 1)
            rest = dict(added_cond_kwargs=dict(text_embeds=cond["pooled"], time_ids=ids))
        return net(x, t, encoder_hidden_states=text, **rest).sample
    if kind == "DiTTransformer2DModel":
        return net(x, timestep=t, class_labels=cond["labels"]).sample.chunk(2, 1)[0]
    if kind == "PixArtTransformer2DModel":
        sizes = dict(resolution=None, aspect_ratio=None)
        if net.use_additional_conditions:
            size = torch.tensor([[16.0, 24.0]]).repeat(len(x), 1)
            sizes = dict(resolution=size, aspect_ratio=size[:, :1] / size[:, 1:])
        out = net(x, encoder_hidden_states=text, encoder_attention_mask=cond.get("mask"), timestep=t, added_cond_kwargs=sizes)  # fmt: skip
        return out.sample.chunk(2, 1)[0]
    if kind == "SanaTransformer2DModel":
        return net(
            x, encoder_hidden_states=text, encoder_attention_mask=cond["mask"], timestep=t
        ).sample
    if kind == "SD3Transformer2DModel":
        return net(
            x, encoder_hidden_states=text, pooled_projections=cond["pooled"], timestep=t
        ).sample
    if kind == "FluxTransformer2DModel":
        pipe, (b, c, h, w) = diffusers.FluxPipeline, x.shape
        out = net(
            hidden_states=pipe._pack_latents(x, b, c, h, w), encoder_hidden_states=text, pooled_projections=cond["pooled"],
            timestep=t / 1000, img_ids=pipe._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", torch.float32),
            txt_ids=torch.zeros(text.shape[1], 3), guidance=torch.full((b,), 3.5),
        ).sample  # fmt: skip
        return pipe._unpack_latents(out, h, w, 1)
    if kind == "WanTransformer3DModel":
        return net(x, t, text).sample
    if kind == "LTXVideoTransformer3DModel":
        pipe, (f, h, w) = diffusers.LTXPipeline, x.shape[2:]
        out = net(
            pipe._pack_latents(x), text, t, cond["mask"], f, h, w, rope_interpolation_scale=(8 / 25, 8, 8)
        ).sample  # fmt: skip
        return pipe._unpack_latents(out, f, h, w)
    x = torch.cat([x, cond["concat"]], 1) if "concat" in cond else x
    f, h, w = x.shape[2:]
    if net.config.use_rotary_positional_embeddings:
        me = SimpleNamespace(vae_scale_factor_spatial=1, transformer=net)
        rotary = diffusers.CogVideoXPipeline._prepare_rotary_positional_embeddings
        rest["image_rotary_emb"] = rotary(me, h, w, f, torch.device("cpu"))
    if net.config.ofs_embed_dim:
        rest["ofs"] = torch.full((1,), 2.0)
    return net(x.transpose(1, 2), text, t, **rest).sample.transpose(1, 2)


def table_x0(name, out, t, x):
    """DDIM's pred_original_sample, whatever table scheduler the folder has."""
    kind = "CogVideoXDDIMScheduler" if name.startswith("cog") else "DDIMScheduler"
    kind = "DDPMScheduler" if name == "ddpm-classes" else kind  # the one that knows sigmoid betas
    s = getattr(diffusers, kind).from_config(scheduler(name).config, clip_sample=False)
    s.set_timesteps(1000)
    return s.step(out, t, x).pred_original_sample


def flow_x0(name, out, sigma, x):
    """Their flow scheduler's own x0: convert_model_output, or a step to σ = 0."""
    s = scheduler(name)
    s.set_timesteps(5, **({"mu": 1.0} if s.config.get("use_dynamic_shifting") else {}))
    s.sigmas, s.timesteps = torch.tensor([sigma, 0.0]), torch.tensor([1000 * sigma])
    s._step_index = 0
    if hasattr(s, "convert_model_output"):
        return s.convert_model_output(out, sample=x)
    return s.step(out, s.timesteps[0], x).prev_sample


def error(a, b, x):
    """Largest difference, relative to the largest of b and x."""
    return float((a - b).abs().max() / max(1, b.abs().max(), x.abs().max()))


# ---------------------------------------------------------------------------------------- D = theirs

TABLE = [n for n in TINY if training.SCHEDULERS[TINY[n].scheduler[0]].read is training.table]
FLOWS = ["sana", "sd3", "flux", "wan", "ltx"]
EDMS = ["edm", "edm-v", "svd-like"]
TABLE = [n for n in TABLE if n not in FLOWS + EDMS]


def test_every_tiny_model_is_compared():
    assert sorted([*TABLE, *FLOWS, *EDMS, "ncsn"]) == sorted(TINY)
    assert {t.kind for t in TINY.values()} == set(adapters.ADAPTERS)


@pytest.mark.parametrize("name", TABLE)
def test_x0_equals_ddim_s_on_tables(name, ours, theirs):
    x, cond, mine = latent(name), conditioning(name), ours(name)
    assert mine.path == VP()
    for t in (999, 998, 500, 1, 0):
        p = VP().at(float(mine.noise_schedule.kappa(t)))
        expected = table_x0(name, called(name, theirs(name), x, torch.full((2,), t), cond), t, x)
        got = mine(x, p.sigma, cond)
        assert got.dtype == torch.float32
        assert error(got, expected, x) < 1e-5, t
        if p.alpha:  # in ComfyUI's coordinates x0 + κ·ε
            host = mine.using(path=VE())(x / p.alpha, p.kappa, cond)
            assert error(host, expected, x) < 1e-5, t


@pytest.mark.parametrize("name", FLOWS)
def test_x0_equals_the_scheduler_s_on_flow(name, ours, theirs):
    x, cond, mine = latent(name), conditioning(name), ours(name)
    assert mine.path == Flow() == mine.path.host
    for sigma in (1.0, 0.98, 0.5, 0.02, 1e-3):
        out = called(name, theirs(name), x, torch.full((2,), 1000 * sigma), cond)
        assert error(mine(x, sigma, cond), flow_x0(name, out, sigma, x), x) < 1e-5, sigma


@pytest.mark.parametrize("name", EDMS)
def test_x0_equals_euler_s_on_edm(name, ours, theirs):
    cond, mine, s = conditioning(name), ours(name), scheduler(name)
    assert mine.path == VE()
    s.set_timesteps(9)
    for t, sigma in zip(s.timesteps, s.sigmas.tolist(), strict=False):
        x = latent(name, size=math.hypot(sigma, 0.5))
        s._step_index = None
        out = called(name, theirs(name), s.scale_model_input(x, t), t, cond)
        expected = s.step(out, t, x).pred_original_sample
        assert error(mine(x, sigma, cond), expected, x) < 1e-5, sigma


def test_x0_of_a_score_network_is_tweedie_s(ours, theirs):
    mine, s = ours("ncsn"), scheduler("ncsn")
    s.set_timesteps(9)
    s.set_sigmas(9)
    for sigma in s.sigmas.tolist():
        x = latent("ncsn", size=sigma)
        expected = x + sigma**2 * theirs("ncsn")(x, torch.full((2,), sigma)).sample
        assert error(mine(x, sigma), expected, x) < 1e-5, sigma


@every
def test_pictures_may_have_their_own_sigma_and_conditions_share_a_call(name, ours):
    x, cond, mine = latent(name), conditioning(name), ours(name)
    sigmas = [0.9, 0.3]
    both = mine(x, torch.tensor(sigmas, dtype=torch.float64), cond)
    for i, sigma in enumerate(sigmas):
        alone = mine(x[i : i + 1], sigma, {k: v[i : i + 1] for k, v in cond.items()})
        assert torch.allclose(both[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    other = conditioning(name, seed=5)
    calls = []
    hook = mine.network.register_forward_pre_hook(lambda *a: calls.append(1))
    pair = many(mine, x, 0.4, [cond, {k: v[:1] for k, v in other.items()}])
    hook.remove()
    assert len(calls) == 1
    assert torch.allclose(pair[0], mine(x, 0.4, cond), rtol=1e-4, atol=1e-4)
    first = {k: v[:1] for k, v in other.items()}
    assert torch.allclose(pair[1], mine(x, 0.4, first), rtol=1e-4, atol=1e-4)
    if "text" in cond:
        assert not torch.allclose(pair[0], pair[1], atol=1e-3)


@pytest.mark.parametrize(
    ("other", "calls"),
    [
        (lambda cond: dict(cond), [4]),
        (lambda cond: {k: v[:1] for k, v in cond.items()}, [4]),
        (lambda cond: {"text": cond["text"]}, [2, 2]),
        (lambda cond: {k: v[:, :3] for k, v in cond.items()}, [2, 2]),
        (lambda cond: cond | {"text": cond["text"].double()}, [2, 2]),
    ],
    ids=["alike", "one row", "other names", "other sizes", "other dtypes"],
)
def test_conditions_share_a_call_where_names_sizes_and_dtypes_agree(ours, other, calls):
    mine, x, cond = ours("pixart-alpha"), latent("pixart-alpha"), conditioning("pixart-alpha")
    second, seen = other(conditioning("pixart-alpha", seed=5)), []
    hook = mine.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    pair = many(mine, x, 0.5, [cond, second])
    hook.remove()
    assert seen == calls
    for d, condition in zip(pair, (cond, second), strict=True):
        assert torch.allclose(d, mine(x, 0.5, condition), rtol=1e-4, atol=1e-4)


def test_wrong_rows_are_named(ours):
    mine, x, cond = ours("pixart-alpha"), latent("pixart-alpha"), conditioning("pixart-alpha")
    with pytest.raises(ValueError, match="σ holds 3 values for a batch of 2"):
        mine(x, torch.tensor([0.1, 0.2, 0.3]), cond)
    three = {k: v[:1].expand(3, *v.shape[1:]) for k, v in cond.items()}
    with pytest.raises(ValueError, match="has 3 rows for a batch of 2"):
        many(mine, x, 0.5, [three, three])


@every
def test_the_network_runs_in_bfloat16_with_time_and_state_in_float32(name, folders, ours):
    mine = kit.load(kit.read_folder(folders(name)), torch.bfloat16)
    seen = []
    inner = {
        "FluxTransformer2DModel": "time_text_embed.time_proj",
        "DiTTransformer2DModel": "",
    }.get(mine.kind)
    module = mine.network.get_submodule(inner) if inner else mine.network
    names = ("t", "timestep") if inner is None else ()
    hook = module.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(next((kwargs[k] for k in names if k in kwargs), args[0] if args else None)),
        with_kwargs=True,
    )  # fmt: skip
    x, cond = latent(name), conditioning(name)
    if name == "flux":
        cond["guidance"] = torch.tensor([4.0])  # ·1000 is exact in bfloat16
    d = mine(x, 0.7013, cond)
    hook.remove()
    assert d.dtype == torch.float32
    assert mine.dtype == torch.bfloat16
    if seen[0] is not None:
        assert seen[0].dtype == torch.float32
    assert error(d, ours(name)(x, 0.7013, cond), x) < 0.05


def test_flux_rounds_its_time_to_bfloat16_unless_it_is_handed_past_it(folders):
    """What a plain call of diffusers' FluxTransformer2DModel does: 0.7013·1000 becomes 700 or 704."""
    mine, seen = kit.load(kit.read_folder(folders("flux")), torch.bfloat16), []
    clock = mine.network.time_text_embed.time_proj
    hook = clock.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    mine(latent("flux"), 0.7013, conditioning("flux"))
    cond = {k: v.bfloat16() for k, v in conditioning("flux").items()}
    called("flux", mine.network, latent("flux").bfloat16(), torch.full((2,), 701.3), cond)
    hook.remove()
    assert seen[0].tolist() == pytest.approx([701.3] * 2, abs=1e-4)
    assert seen[2].float().tolist() in ([700.0] * 2, [704.0] * 2)  # seen[1] is the guidance


def test_a_wrong_label_is_put_right_without_loading_again(ours):
    """The network of sd2-v read as an eps network, and back."""
    mine, x, cond = ours("sd2-v"), latent("sd2-v"), conditioning("sd2-v")
    other = mine.using(replace(mine.trained, prediction=Prediction("eps")))
    assert other.network is mine.network
    assert (other.prediction, mine.prediction) == ("eps", "v")
    p = VP().on(0.6)
    v = mine.raw(x, torch.tensor([float(mine.noise_schedule.time(p.kappa))]).expand(2), cond)
    assert torch.allclose(mine(x, 0.6, cond), p.alpha * x - 0.6 * v, atol=1e-6)
    assert torch.allclose(other(x, 0.6, cond), (x - 0.6 * v) / p.alpha, atol=1e-5)
    with pytest.raises(ValueError, match="says nothing about x0"):
        other(x, 1.0, cond)


@every
def test_facts_a_host_asks_for(name, ours):
    mine, tiny = ours(name), TINY[name]
    assert (mine.channels, mine.dims) == (tiny.shape[0], len(tiny.shape) - 1)
    assert set(mine.needs) <= {k for k, _ in tiny.cond} <= {*mine.needs, *mine.may}
    assert mine.dtype == torch.float32
    assert mine.dtype_reason == "the weights are stored in float32"
    with pytest.raises(ValueError, match="make the empty latent"):
        mine(torch.zeros(1, tiny.shape[0] + 1, *tiny.shape[1:]), 0.5)
    with pytest.raises(ValueError, match="make the empty latent"):
        mine(torch.zeros(1, *tiny.shape[:-1]), 0.5)
    if mine.needs:
        with pytest.raises(ValueError, match="needs the conditioning"):
            mine(latent(name), 0.5)
        with pytest.raises(ValueError, match="give 1 or 2"):
            mine(latent(name), 0.5, conditioning(name, batch=3))


def test_sizes_must_fit_the_patches(ours):
    for name, shape in [("flux", (4, 7, 8)), ("wan", (4, 3, 4, 5)), ("cogvideox-1.5", (4, 3, 8, 8)), ("ddpm", (3, 7, 8))]:  # fmt: skip
        with pytest.raises(ValueError, match="multiples of"):
            ours(name)(torch.zeros(1, *shape), 0.5, conditioning(name, 1))


@pytest.mark.parametrize("grid", [(3, 2, 7), (3, 7, 2), (2, 5, 5), (1, 3, 4), (4, 6, 4)])
@pytest.mark.parametrize("patch_t", [None, 2])
def test_the_rotary_embedding_is_the_cogvideox_pipeline_s(grid, patch_t):
    c = dict(patch_size=2, patch_size_t=patch_t, sample_width=16, sample_height=14, attention_head_dim=16)  # fmt: skip
    frames, rows, columns = grid
    me = SimpleNamespace(vae_scale_factor_spatial=1, transformer=SimpleNamespace(config=SimpleNamespace(**c)))  # fmt: skip
    make = diffusers.CogVideoXPipeline._prepare_rotary_positional_embeddings
    expected = make(me, 2 * rows, 2 * columns, frames, torch.device("cpu"))
    found = adapters.cogvideox_rotary(16, grid, patch_t, (7, 8), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_dit_of_diffusers_takes_square_latents_only(ours, theirs):
    """It takes the square root of the number of tokens for height and width."""
    with pytest.raises(ValueError, match="make the empty latent square"):
        ours("dit")(torch.zeros(1, 4, 8, 12), 0.5, conditioning("dit", 1))
    with pytest.raises(RuntimeError):
        theirs("dit")(torch.zeros(1, 4, 8, 12), torch.ones(1), torch.ones(1, dtype=torch.long))


def test_overflow_in_float16_is_named(folders):
    mine = kit.load(kit.read_folder(folders("cogvideox-5b")), torch.float16)
    with torch.no_grad():
        mine.network.proj_out.weight.mul_(60000).clamp_(-60000, 60000)
    with pytest.raises(FloatingPointError, match=r"CogVideoX.*σ = 0.5 in fp16: .* bf16"):
        mine(latent("cogvideox-5b"), 0.5, conditioning("cogvideox-5b"))


# ------------------------------------------------------------------------------------------- dtypes

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("name", "stored", "device", "chosen", "why"),
    [
        ("cogvideox-5b", BF16, "cuda", BF16, "stored in bfloat16"),
        ("cogvideox-5b", FP16, "cuda", BF16, "trained in bfloat16"),
        ("cogvideox-2b", FP16, "cuda", FP16, "stored in float16"),
        ("cogvideox-2b", FP16, "cpu", FP32, "CPU"),
        ("flux", FP16, "cuda", BF16, "trained in bfloat16"),
        ("sd", FP16, "cuda", FP16, "stored in float16"),
        ("sd", BF16, "cuda", BF16, "stored in bfloat16"),
        ("flux", FP32, "cuda", FP32, "stored in float32"),
    ],
)
def test_the_automatic_dtype_says_why(name, stored, device, chosen, why):
    dtype, reason = kit.choose_dtype("auto", stored, TINY[name].kind, TINY[name].config, device)
    assert dtype == chosen
    assert why in reason
    if BF16 in (chosen, stored):
        with pytest.raises(ValueError, match="choose bf16, fp32 or auto"):
            kit.choose_dtype("fp16", stored, TINY[name].kind, TINY[name].config)
    assert kit.choose_dtype("fp32", stored, TINY[name].kind, TINY[name].config)[0] == FP32


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="choose one of auto, fp32, bf16, fp16"):
        kit.choose_dtype("half", FP32, "UNet2DModel", {})


def test_a_folder_in_bfloat16_stays_so_and_wan_keeps_its_clock_in_float32(tmp_path):
    mine = kit.load(kit.read_folder(save("wan", tmp_path, torch.bfloat16)))
    assert mine.dtype == torch.bfloat16
    assert mine.dtype_reason == "the weights are stored in bfloat16"
    assert mine.network.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert mine.set_dtype(torch.float32).dtype == torch.float32


# --------------------------------------------------------------------------------- noise schedules


@pytest.mark.parametrize("kind", training.SCHEDULERS)
def test_defaults_are_the_class_s(kind):
    """An empty config means what the class's own constructor means."""
    signature = inspect.signature(getattr(diffusers, kind).__init__).parameters
    own = {n: p.default for n, p in signature.items() if p.default is not p.empty}
    assert training.training_of(kind, {}) == training.training_of(kind, own)


KINDS = ("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "CogVideoXDDIMScheduler")
SHAPES = ("linear", "scaled_linear", "squaredcos_cap_v2", "trained", "short")


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("kind", "betas"), [*itertools.product(KINDS, SHAPES), ("DDPMScheduler", "sigmoid")]
)
def test_tables_are_diffusers(kind, betas, zero):
    options = dict(rescale_betas_zero_snr=zero, beta_start=0.001, beta_end=0.015)
    options |= dict(beta_schedule=betas) if betas not in ("trained", "short") else {}
    if betas == "trained":
        options |= dict(
            trained_betas=np.linspace(0.001, 0.02, 500).tolist(), num_train_timesteps=500
        )
    if betas == "short":
        options |= dict(num_train_timesteps=100)
    if kind.startswith("Cog") and betas != "scaled_linear":
        options |= dict(snr_shift_scale=3.0 if betas == "trained" else 1.0)
    theirs = getattr(diffusers, kind)(**options)
    expected = theirs.alphas_cumprod.double().numpy()
    schedule = training.training_of(kind, dict(theirs.config)).noise_schedule
    found = schedule.alpha_bar
    if zero:
        assert found[-1] == 0
        assert expected[-1] < 1e-7  # Euler keeps 2⁻²⁴
        found, expected = found[:-1], expected[:-1]
    assert len(found) == len(expected)
    # float32: relative 1e-5, and near zero SNR what the subtraction of two close numbers leaves
    assert np.allclose(np.sqrt(found), np.sqrt(expected), rtol=2e-5, atol=2e-6)


def test_the_snr_shift_multiplies_kappa():
    plain, shifted = ScaledLinearVP(), ScaledLinearVP(snr_shift=3.0)
    assert np.allclose(
        np.exp(shifted.log_kappas), math.sqrt(3) * np.exp(plain.log_kappas), rtol=1e-9
    )


@pytest.mark.parametrize("name", ["flux", "ltx"])
@pytest.mark.parametrize("tokens", [256, 1000, 4096])
@pytest.mark.parametrize("rule", ["exponential", "linear"])
def test_the_dynamic_shift_is_the_pipeline_s(name, tokens, rule):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    kind, options = TINY[name].scheduler
    s = getattr(diffusers, kind)(**(options | dict(time_shift_type=rule, shift_terminal=None)))
    c = s.config
    mu = calculate_shift(
        tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift
    )
    s.set_timesteps(sigmas=np.linspace(1, 0.1, 10), mu=mu)
    found = training.training_of(kind, dict(c)).at(tokens).noise_schedule
    levels = [Flow().at(float(k)).sigma for k in found.kappa(np.linspace(1, 0.1, 10))]
    assert levels == pytest.approx(s.sigmas[:-1].tolist(), rel=1e-5)


def test_flow_shifts_and_ranges_are_read():
    of = training.training_of
    assert of("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)).noise_schedule == RectifiedFlowSchedule(3.0)  # fmt: skip
    flow = dict(use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction")
    for kind in (
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DEISMultistepScheduler",
    ):
        t = of(kind, flow)
        assert (t.noise_schedule, t.prediction.kind, t.time(math.inf)) == (RectifiedFlowSchedule(5.0), "flow", 1000)  # fmt: skip
    t = of("EDMEulerScheduler", dict(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7))
    assert (t.noise_schedule.kappa_min, t.noise_schedule.kappa_max) == (0.01, 50.0)
    assert t.prediction == Prediction("edm", 0.7)
    assert of("DDPMScheduler", dict(predict_epsilon=False)).prediction.kind == "x0"
    assert isinstance(of("DDPMScheduler", dict(trained_betas=[0.1, 0.2, 0.3])).noise_schedule, Measured)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("MyScheduler", {}, "scheduler MyScheduler is not known"),
        ("DDIMScheduler", dict(prediction_type="noise"), "prediction_type = 'noise' is not known; known: epsilon"),
        ("DDIMScheduler", dict(beta_schedule="cubic"), "beta_schedule = 'cubic' is not known"),
        ("DDIMScheduler", dict(beta_end=3.0), "beta_end = 3.0: must lie between"),
        ("DDIMScheduler", dict(num_train_timesteps="many"), "num_train_timesteps|timesteps = 'many'"),
        ("DDIMScheduler", dict(trained_betas=[0.1, 2.0]), "trained_betas must be"),
        ("UniPCMultistepScheduler", dict(prediction_type="flow_prediction"), "without use_flow_sigmas contradicts"),
        ("UniPCMultistepScheduler", dict(prediction_type="v_prediction", use_flow_sigmas=True), "v prediction is defined on VP"),
        ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True), "invert_sigmas"),
        ("EDMEulerScheduler", dict(prediction_type="sample"), "takes epsilon or v_prediction"),
        ("EDMEulerScheduler", dict(sigma_max=0.001), "must be below"),
        ("EulerDiscreteScheduler", dict(timestep_type="continuous"), "timestep_type = 'continuous'"),
    ],
)  # fmt: skip
def test_contradictory_scheduler_configs_are_refused(kind, config, says):
    with pytest.raises(ValueError, match=says) as caught:
        training.training_of(kind, config, "X/scheduler_config.json")
    assert str(caught.value).startswith("X/scheduler_config.json: ")


# ----------------------------------------------------------------------------------------- full runs


def guided(mine, cond, uncond, scale):
    """D with CFG, both branches in one call."""

    def denoise(x, sigma):
        d, u = many(mine, x, sigma, [cond, uncond])
        return u + scale * (d - u)

    return denoise


def sampled(solver, path, kappas, denoise, x, noise=None):
    return solver.plan(Points(path, tuple(kappas))).solve(Run(denoise, noise), x)


def pictures(x):
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def test_ddim_pipeline(ours):
    mine = ours("ddim-x0")
    s = diffusers.DDIMScheduler.from_config(scheduler("ddim-x0").config, clip_sample=False)
    pipe = diffusers.DDIMPipeline(unet=mine.network, scheduler=s)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(2, torch.Generator().manual_seed(0), 0.0, 10, output_type="np").images
    s = pipe.scheduler  # a copy of ours
    assert not s.config.clip_sample
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    got = pictures(sampled(DDIM(), VP(), kappas, mine, x))
    assert np.mean((got > 0) & (got < 1)) > 0.5  # not all clipped
    assert np.abs(got - theirs).max() < 1e-4


def test_ddpm_pipeline(ours, monkeypatch):
    from diffusers.schedulers import scheduling_ddpm

    mine = ours("ddim-x0")
    s = diffusers.DDPMScheduler.from_config(scheduler("ddim-x0").config, clip_sample=True)
    pipe = diffusers.DDPMPipeline(unet=mine.network, scheduler=s)
    pipe.set_progress_bar_config(disable=True)
    draws = lambda i: torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i))  # noqa: E731
    count = iter(range(1, 100))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: draws(next(count)))
    theirs = pipe(2, torch.Generator().manual_seed(0), 20, output_type="np").images
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    got = pictures(sampled(DDPM(clip_x0=1.0), VP(), kappas, mine, draws(0), lambda i, like: draws(i)))  # fmt: skip
    assert np.mean((got > 0) & (got < 1)) > 0.5
    assert np.abs(got - theirs).max() < 1e-4


SD_RUNS = {
    "DDIM": ("DDIMScheduler", dict(clip_sample=False, set_alpha_to_one=True), DDIM()),
    "Euler": ("EulerDiscreteScheduler", {}, Euler()),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", dict(lower_order_final=False), DPMSolverMultistep()),
}  # fmt: skip


def sd_pipeline(name, vae, unet, s, cond, uncond):
    """The pipeline without text encoders, and its prompt arguments."""
    embeds = dict(prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"])
    shared = dict(vae=vae, unet=unet, scheduler=s, tokenizer=None, text_encoder=None)
    if name != "sdxl":
        options = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        return diffusers.StableDiffusionPipeline(**shared, **options), embeds
    pipe = diffusers.StableDiffusionXLPipeline(**shared, text_encoder_2=None, tokenizer_2=None)
    pipe.text_encoder_2 = SimpleNamespace(
        config=SimpleNamespace(projection_dim=24), dtype=torch.float32
    )
    pooled = dict(pooled_prompt_embeds=cond["pooled"], negative_pooled_prompt_embeds=uncond["pooled"])  # fmt: skip
    return pipe, embeds | pooled


@pytest.mark.parametrize("method", SD_RUNS)
@pytest.mark.parametrize("name", ["sd", "sd2-v", "sdxl"])
def test_stable_diffusion_pipelines(name, method, ours, folders):
    kind, options, solver = SD_RUNS[method]
    config = {k: v for k, v in scheduler(name).config.items() if k.startswith(("beta_", "prediction", "rescale"))}  # fmt: skip
    s = getattr(diffusers, kind)(**config, **options, steps_offset=1, timestep_spacing="trailing")
    mine, x = ours(name), latent(name)
    cond, uncond = conditioning(name), conditioning(name, seed=7)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    pipe, embeds = sd_pipeline(name, vae, mine.network, s, cond, uncond)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        **embeds, num_inference_steps=10, guidance_scale=3.0, latents=x.clone(), output_type="latent", height=16, width=24
    ).images  # fmt: skip
    if name == "sd2-v" and method != "DDIM":
        # Their last level is ᾱ = 2⁻²⁴ for 0, a state of κ = 4096 that the network is told is pure noise.
        table = np.sqrt(1 / s.alphas_cumprod.double().numpy() - 1)
        mine = mine.using(replace(mine.trained, noise_schedule=Measured(tuple(table.tolist()))))
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    path = VP()
    if method == "Euler":  # keeps its state in x/α, and starts at x·√(κ² + 1) or, trailing, x·κ
        path, x = VE(), x * s.init_noise_sigma
    out = sampled(solver, path, kappas, guided(mine.using(path=path), cond, uncond, 3.0), x)
    assert error(out, theirs, latent(name)) < 1e-4


def test_ddim_with_set_alpha_to_one_false_stops_at_the_first_timestep_s_level(ours, folders):
    """The config of Stable Diffusion 1: the last step goes to t = 0, whose level is not 0, and x0 is not reached."""
    mine, x, cond = ours("sd"), latent("sd"), conditioning("sd")
    beta = {k: v for k, v in scheduler("sd").config.items() if k.startswith("beta_")}
    s = diffusers.DDIMScheduler(**beta, steps_offset=1, clip_sample=False, set_alpha_to_one=False)
    s.set_timesteps(10)
    theirs = x
    for t in s.timesteps:
        theirs = s.step(called("sd", mine.network, theirs, t, cond), t, theirs).prev_sample
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), mine.noise_schedule.kappa_min]
    out = sampled(DDIM(), VP(), kappas, lambda y, sigma: mine(y, sigma, cond), x)
    assert kappas[-1] == pytest.approx(0.0292, abs=1e-4)
    assert error(out, theirs, x) < 1e-4


def test_sd3_pipeline(ours, folders):
    name = "sd3"
    mine, s = ours(name), scheduler(name)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=mine.network, scheduler=s, vae=vae, **none
    )
    pipe.set_progress_bar_config(disable=True)
    x, cond, uncond = latent(name), conditioning(name), conditioning(name, seed=7)
    theirs = pipe(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], pooled_prompt_embeds=cond["pooled"],
        negative_pooled_prompt_embeds=uncond["pooled"], num_inference_steps=8, guidance_scale=4.0, latents=x.clone(),
        output_type="latent", height=16, width=24,
    ).images  # fmt: skip
    levels = Points.from_sigmas(Flow(), s.sigmas.tolist()).kappas
    out = sampled(RectifiedFlow(), Flow(), levels, guided(mine, cond, uncond, 4.0), x)
    assert error(out, theirs, x) < 1e-4


def test_flux_pipeline(ours, folders):
    name = "flux"
    mine, s = ours(name), scheduler(name)
    vae = diffusers.AutoencoderKL.from_pretrained(folders(name) / "vae")
    none = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = diffusers.FluxPipeline(transformer=mine.network, scheduler=s, vae=vae, **none)
    pipe.set_progress_bar_config(disable=True)
    x, cond = latent(name), conditioning(name)
    b, c, h, w = x.shape
    theirs = pipe(
        prompt_embeds=cond["text"], pooled_prompt_embeds=cond["pooled"], num_inference_steps=8, guidance_scale=3.5,
        latents=pipe._pack_latents(x, b, c, h, w), output_type="latent", height=2 * h, width=2 * w,
    ).images  # fmt: skip
    shift = mine.trained.at(mine.tokens(tuple(x.shape[1:]))).noise_schedule
    times = np.linspace(1, 1 / 8, 8)
    kappas = [*shift.kappa(times), 0.0]
    levels = [Flow().at(float(k)).sigma for k in kappas]
    assert levels == pytest.approx(s.sigmas.tolist(), abs=1e-6)  # the shift for these 24 tokens
    out = sampled(RectifiedFlow(), Flow(), kappas, lambda y, sigma: mine(y, sigma, cond), x)
    assert error(out, pipe._unpack_latents(theirs, h, w, 1), x) < 1e-4


@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b"])
def test_cogvideox_pipeline(name, ours, folders):
    mine = ours(name)
    s = diffusers.CogVideoXDDIMScheduler.from_config(scheduler(name).config)
    vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(folders(name) / "vae")
    pipe = diffusers.CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=mine.network, scheduler=s)  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    x, cond, uncond = latent(name), conditioning(name), conditioning(name, seed=7)
    f, h, w = x.shape[2:]
    theirs = pipe(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], num_inference_steps=10, guidance_scale=3.0,
        latents=x.transpose(1, 2).clone(), output_type="latent", height=2 * h, width=2 * w,
        num_frames=(f - 1) * vae.config.temporal_compression_ratio + 1, max_sequence_length=8,
    ).frames  # fmt: skip
    kappas = [*mine.noise_schedule.kappa(s.timesteps.numpy()), 0.0]
    assert math.isinf(kappas[0])  # zero terminal SNR
    out = sampled(DDIM(), VP(), kappas, guided(mine, cond, uncond, 3.0), x)
    assert error(out, theirs.transpose(1, 2), x) < 1e-4


@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-5b", "sd2-v"])
def test_zero_snr_runs_in_comfyui_s_coordinates(name, ours):
    """SIGMAS hold a finite stand-in for pure noise; the network is told pure noise there all the same."""
    mine, x, cond = ours(name), latent(name), conditioning(name)
    kappas = [*mine.noise_schedule.kappa(np.array([999, 749, 499, 249])), 0.0]
    points = Points(VP(), tuple(kappas))
    sigmas = torch.tensor(points.sigmas())
    assert mine.trained.time(float(sigmas[0])) == 999
    assert mine.trained.time(float(mine.noise_schedule.kappa(998))) == pytest.approx(998)
    native = DDIM().plan(points).solve(Run(lambda y, sigma: mine(y, sigma, cond)), x)
    host = mine.using(path=mine.path.host)
    denoise = lambda y, sigma: host(y, sigma, cond)  # noqa: E731
    out = sample(DDIM(), VP(), Run(denoise), x * sigmas[0], sigmas.tolist())
    assert error(out, native, x) < 1e-3


def test_a_bfloat16_cogvideox_folder_makes_frames(tmp_path):
    path = kit.read_folder(save("cogvideox-5b", tmp_path, torch.bfloat16))
    mine, vae = kit.load(path), kit.load_vae(path)
    assert (mine.dtype, vae.dtype) == (torch.bfloat16, torch.bfloat16)
    mine, cond = mine.using(path=mine.path.host), conditioning("cogvideox-5b", 1)
    x = latent("cogvideox-5b", 1)
    levels = [*mine.noise_schedule.kappa(np.array([998, 749, 499, 249])), 0.0]
    out = sample(DDIM(), VP(), Run(lambda y, sigma: mine(y, sigma, cond)), x * levels[0], levels)
    frames = vae.decode(out)
    assert out.dtype == frames.dtype == torch.float32
    assert frames.shape == (1, 3, 5, 16, 24)
    assert frames.isfinite().all()
    assert frames.std() > 0


def test_cogvideox_dpm_of_diffusers_steps_past_its_own_grid():
    """Its previous timestep is t − 1000//n: with 30 steps a third of the steps do not go to the next level, so
    its latents are not those of any solver on these levels. (5B's folder names it; the DDIM one is compared.)"""
    s = scheduler("cogvideox-5b")
    s.set_timesteps(30)
    went = s.timesteps[:-1] - s.config.num_train_timesteps // s.num_inference_steps
    assert int((went != s.timesteps[1:]).sum()) == 10


# ----------------------------------------------------------------------------------------------- VAE


@pytest.mark.parametrize("kind", VAES)
def test_vaes_encode_and_decode_as_the_pipelines_do(kind, folders):
    from diffusers_folders import build

    name = next(n for n, t in TINY.items() if t.vae == kind)
    vae, theirs = kit.load_vae(kit.read_folder(folders(name))), build(kind, VAES[kind])
    latents, c = latent(name, 1), theirs.config
    z = latents / (c.get("scaling_factor") or 1.0)
    if kind == "AutoencoderKLWan":
        mean, std = (
            torch.tensor(c[k]).reshape(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std")
        )
        z = latents * std + mean
    expected = theirs.decode(z).sample
    images = vae.decode(latents)
    assert torch.allclose(images, expected, atol=1e-5)
    space, f = vae.latents.spatial, vae.latents.temporal
    sizes = [n * space for n in latents.shape[-2:]]
    if (
        vae.dims == 3 and latents.shape[2] % 2
    ):  # an even number of frames has no first frame of its own
        sizes = [(latents.shape[2] - 1) * f + 1, *sizes]
        assert list(images.shape[2:]) == sizes
    coded = theirs.encode(images)
    coded = coded.latent if kind == "AutoencoderDC" else coded.latent_dist.mode()
    again = vae.encode(images)
    assert torch.allclose(vae.latents.to_vae(again), coded, atol=1e-5)
    with pytest.raises(ValueError, match="takes"):
        vae.decode(latents[:, :-1])


def test_latents_with_a_shift_and_statistics():
    latents = kit.Latents(scale=0.3611, shift=0.1159)  # Flux
    z = torch.randn(1, 2, 3, 3)
    assert torch.allclose(latents.from_vae(z), (z - 0.1159) * 0.3611)
    latents = kit.Latents(scale=0.5, mean=(0.1, -0.2), std=(2.0, 4.0))  # Playground
    expected = (z - torch.tensor([0.1, -0.2]).reshape(1, 2, 1, 1)) * 0.5 / torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)  # fmt: skip
    assert torch.allclose(latents.from_vae(z), expected)
    assert torch.allclose(latents.to_vae(expected), z, atol=1e-6)


def test_tiles_are_chosen_and_the_latent_scale_is_read_without_loading(folders):
    place = kit.read_folder(folders("cogvideox-2b"))
    assert kit.latents_of(place) == kit.Latents(0.7, spatial=2, temporal=2, channels=4)
    vae = kit.load_vae(place).tile()
    assert vae.module.use_tiling
    assert not vae.tile(False).module.use_tiling
    assert kit.latents_of(kit.read_folder(folders("ddpm"))) is None


def test_an_unknown_vae_does_not_stop_the_network(tmp_path):
    path = save("sd", tmp_path)
    edit(path / "vae/config.json", _class_name="AutoencoderTiny")
    edit(path / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    assert kit.load(kit.read_folder(path)).latents is None
    with pytest.raises(ValueError, match="the VAE class AutoencoderTiny is not known"):
        kit.load_vae(kit.read_folder(path))
    edit(path / "vae/config.json", _class_name="AutoencoderKL", scaling_factor=-1)
    edit(path / "model_index.json", vae=["diffusers", "AutoencoderKL"])
    with pytest.raises(ValueError, match=r"scaling_factor = -1.0 must be above 0"):
        kit.load(kit.read_folder(path))


# --------------------------------------------------------------------------------------------- text

PROMPT = ["a cat on a mat", ""]


def same(found, **expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].shape == value.shape
        assert torch.allclose(found[key].float(), value.float(), atol=1e-5), key


def encoded(path, **options):
    return kit.load_text(kit.read_folder(path)).encode(*PROMPT, **options)


def test_prompts_of_a_complete_stable_diffusion_folder(tmp_path, ours, folders):
    """A folder as the pipeline itself writes it."""
    model, tokenizer = clip(tmp_path / "parts")
    mine = ours("sd")
    pipe = diffusers.StableDiffusionPipeline(
        diffusers.AutoencoderKL.from_pretrained(folders("sd") / "vae"), model, tokenizer, network("sd"), scheduler("sd"),
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(tmp_path / "sd")
    same(encoded(tmp_path / "sd"), text=pipe.encode_prompt(PROMPT, "cpu", 1, False)[0])
    again = kit.load(kit.read_folder(tmp_path / "sd"))
    x, cond = latent("sd"), conditioning("sd")
    assert torch.equal(again(x, 0.5, cond), mine(x, 0.5, cond))


def bare(cls, **parts):
    """A pipeline with only these parts, enough for encode_prompt."""
    pipe = cls.__new__(cls)
    pipe._internal_dict = diffusers.configuration_utils.FrozenDict(dict(force_zeros_for_empty_prompt=False))  # fmt: skip
    names = ("transformer", "tokenizer_max_length", *(p + s for p in ("text_encoder", "tokenizer") for s in ("", "_2", "_3")))  # fmt: skip
    for name in names:
        object.__setattr__(pipe, name, parts.get(name))
    return pipe


def test_prompts_of_sdxl(tmp_path):
    path = save("sdxl", tmp_path)
    one, two = clip(path), clip(path, "_2", projection=True)
    pipe = bare(diffusers.StableDiffusionXLPipeline, text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1])  # fmt: skip
    text, _, pooled, _ = pipe.encode_prompt(PROMPT, device="cpu", do_classifier_free_guidance=False)
    same(encoded(path), text=text, pooled=pooled)


@pytest.mark.parametrize("with_t5", [True, False])
def test_prompts_of_sd3(tmp_path, with_t5):
    path = save("sd3", tmp_path)
    config = json.loads((path / "transformer/config.json").read_text()) | dict(
        joint_attention_dim=40
    )
    (path / "transformer/config.json").write_text(json.dumps(config))
    one, two = clip(path, projection=True), clip(path, "_2", projection=True)
    three = t5(path, "_3", hidden=40) if with_t5 else (None, None)
    pipe = bare(
        diffusers.StableDiffusion3Pipeline, text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1],
        text_encoder_3=three[0], tokenizer_3=three[1], tokenizer_max_length=16, transformer=SimpleNamespace(config=SimpleNamespace(**config)),
    )  # fmt: skip
    text, _, pooled, _ = pipe.encode_prompt(PROMPT, PROMPT, PROMPT, device="cpu", do_classifier_free_guidance=False, max_sequence_length=20)  # fmt: skip
    same(encoded(path, length=20), text=text, pooled=pooled)


def test_prompts_of_flux(tmp_path):
    path = save("flux", tmp_path)
    one, two = clip(path), t5(path, "_2")
    pipe = bare(diffusers.FluxPipeline, text_encoder=one[0], tokenizer=one[1], text_encoder_2=two[0], tokenizer_2=two[1], tokenizer_max_length=16)  # fmt: skip
    text, pooled, _ = pipe.encode_prompt(PROMPT, PROMPT, device="cpu", max_sequence_length=20)
    same(encoded(path, length=20), text=text, pooled=pooled)


@pytest.mark.parametrize(
    ("name", "cls", "masked"),
    [("cogvideox-2b", "CogVideoXPipeline", False), ("pixart-sigma", "PixArtSigmaPipeline", True), ("ltx", "LTXPipeline", True), ("wan", "WanPipeline", False)],
)  # fmt: skip
def test_prompts_of_t5_folders(tmp_path, name, cls, masked):
    path = save(name, tmp_path)
    model, tokenizer = t5(path, kind="UMT5" if name == "wan" else "T5")
    pipe = bare(getattr(diffusers, cls), text_encoder=model, tokenizer=tokenizer)
    out = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False, device="cpu", max_sequence_length=8)  # fmt: skip
    found = encoded(path, length=8)
    same(found, text=out[0], **(dict(mask=out[1]) if masked else {}))
    if name != "ltx":  # its network takes any width
        kit.load(kit.read_folder(path))(latent(name), 0.5, found)


def test_tokenizers_and_encoders_that_cannot_be_read(tmp_path):
    from safetensors.torch import load_file, save_file

    path = save("pixart-sigma", tmp_path)
    t5(path)
    tokenizer = path / "tokenizer"
    (tokenizer / "tokenizer.json").rename(tmp_path / "kept.json")
    (tokenizer / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"tokenizer: .*pip install sentencepiece protobuf"):
        encoded(path)
    (tokenizer / "spiece.model").unlink()
    (tmp_path / "kept.json").rename(tokenizer / "tokenizer.json")
    file = path / "text_encoder/model.safetensors"
    state = load_file(file)
    del state["encoder.final_layer_norm.weight"]
    save_file(state, file)
    with pytest.raises(ValueError, match=r"asks for 'encoder.final_layer_norm.weight' and 0 more"):
        encoded(path)


def test_text_encoders_that_are_missing_or_unknown(tmp_path):
    path = save("sd", tmp_path)
    with pytest.raises(ValueError, match="0 of 1 text encoders"):
        encoded(path)
    clip(path)
    file = path / "text_encoder/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(architectures=["BertModel"])))
    with pytest.raises(ValueError, match="the text encoder BertModel is not known"):
        encoded(path)
    (path / "tokenizer/adapter_config.json").write_text("{}")
    file.write_text(
        json.dumps(json.loads(file.read_text()) | dict(architectures=["CLIPTextModel"]))
    )
    with pytest.raises(ValueError, match=r"adapter_config.json is an adapter's"):
        encoded(path)
    with pytest.raises(ValueError, match="prompts for UNet2DModel are not known"):
        encoded(save("ddpm", tmp_path / "ddpm"))


# ------------------------------------------------------------------------- what a folder may not do


@pytest.fixture
def place(tmp_path):
    """A good folder, to be spoilt."""
    return save("ddpm", tmp_path / "models" / "ddpm")


def edit(file, **changes):
    config = json.loads(file.read_text())
    config.update(changes)
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def refused(place, says, **options):
    """One ValueError that names a file below ``place`` and says what is wrong."""
    with pytest.raises(ValueError, match=says) as caught:
        kit.load(kit.read_folder(place, **options))
    assert str(place.parent) in str(caught.value)
    return str(caught.value)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_pickle_is_not_opened(place):
    (place / WEIGHTS).unlink()
    (place / "unet/diffusion_pytorch_model.bin").write_bytes(
        b"cos\nsystem\n(S'touch /tmp/owned'\ntR."
    )
    refused(place, r"diffusion_pytorch_model.bin is a pickle.*convert it.*safe_serialization")


def test_links_out_of_the_folder(place, tmp_path):
    outside = tmp_path / "elsewhere.safetensors"
    (place / WEIGHTS).rename(outside)
    (place / WEIGHTS).symlink_to(outside)
    refused(place, "leads to .*elsewhere.safetensors, outside")
    kit.load(kit.read_folder(place, root=tmp_path))  # unless the models folder is larger
    (place / WEIGHTS).unlink()
    outside.rename(place / WEIGHTS)
    config = tmp_path / "config.json"
    (place / "unet/config.json").rename(config)
    (place / "unet/config.json").symlink_to(config)
    refused(place, "config.json leads to")
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(ValueError, match="outside"):
        kit.read_folder(tmp_path / "link", root=tmp_path / "models" / "ddpm" / "unet")


def test_a_folder_outside_the_models_folder(place, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"outside .*other: move or copy it there"):
        kit.read_folder(place, root=tmp_path / "other")
    with pytest.raises(ValueError, match="is not a folder"):
        kit.read_folder(tmp_path / "nothing")


@pytest.mark.parametrize("target", ["../../secret.safetensors", "/etc/passwd", "sub/x.safetensors", ".hidden.safetensors", 7])  # fmt: skip
def test_shards_elsewhere(place, target):
    (place / WEIGHTS).unlink()
    index = place / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps(dict(weight_map={"conv_in.weight": target})))
    refused(place, "is said to lie in")


def test_shards_and_variants_are_read(tmp_path, ours):
    x = latent("ddpm")
    sharded = save("ddpm", tmp_path / "sharded", max_shard_size="60KB")
    assert (sharded / "unet/diffusion_pytorch_model.safetensors.index.json").exists()
    mine = kit.load(kit.read_folder(sharded))
    assert torch.equal(mine(x, 0.5), ours("ddpm")(x, 0.5))
    shard = sorted((sharded / "unet").glob("*-00002-of-*.safetensors"))[0]
    shard.rename(tmp_path / "gone")
    refused(sharded, "is missing: the folder is incomplete")
    half = save("ddpm", tmp_path / "half", torch.float16, variant="fp16")
    assert (half / "unet/diffusion_pytorch_model.fp16.safetensors").exists()
    assert kit.read_folder(half).network_weights.variant == "fp16"
    mine = kit.load(kit.read_folder(half))
    assert mine.dtype == torch.float32
    assert "float16, which a CPU" in mine.dtype_reason
    assert error(mine(x, 0.5), ours("ddpm")(x, 0.5), x) < 0.01
    refused(half, "no variant 'bf16': choose one of fp16", variant="bf16")
    half = save("sd", tmp_path / "sd", torch.float16, variant="fp16")
    for file in (half / "vae").glob("*.fp16.safetensors"):
        file.rename(file.with_name(file.name.replace(".fp16", "")))
    assert kit.load_vae(kit.read_folder(half, variant="fp16")).dtype == torch.float32


def test_a_network_s_own_folder_with_its_scheduler_in_it_or_beside_it(place, tmp_path, ours):
    x = latent("ddpm")
    for bare in (place / "unet", tmp_path / "bare"):
        if bare.name == "bare":
            (place / "unet").rename(bare)
            refused(bare, "has no scheduler_config.json")
            (place / "scheduler/scheduler_config.json").rename(bare / "scheduler_config.json")
        assert torch.equal(kit.load(kit.read_folder(bare))(x, 0.5), ours("ddpm")(x, 0.5))


def test_several_networks_must_be_chosen_from(place):
    (place / "transformer").mkdir()
    refused(place, "2 networks .unet, transformer.: name one")
    kit.load(kit.read_folder(place, network="unet"))


@pytest.mark.parametrize("size", [100 * 2**20 + 1, 2 * 2**30, 2**63 + 5])
def test_a_huge_header(place, size):
    with (place / WEIGHTS).open("r+b") as file:
        file.write(struct.pack("<Q", size))
    refused(place, f"announces a header of {size} bytes")


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -4])
def test_a_truncated_file(place, keep):
    data = (place / WEIGHTS).read_bytes()
    (place / WEIGHTS).write_bytes(data[:keep])
    refused(place, "cut off")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[1, 2]", "holds a list, not an object"),
        (b"{not json", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "contradicts itself"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}', "contradicts itself"),
        (b'{"a": {"dtype": "PY", "shape": [1], "data_offsets": [0, 4]}}', "cannot read the header's entry 'a'"),
        (b'{"a": {"dtype": "F32"}}', "cannot read"),
    ],
)  # fmt: skip
def test_a_damaged_header(place, header, says):
    (place / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    refused(place, says)


def test_tensors_that_overlap(place):
    """What only the safetensors library sees is one error of the same kind."""
    data = (place / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["conv_norm_out.bias"]["data_offsets"] = header["conv_norm_out.weight"]["data_offsets"]
    text = json.dumps(header).encode()
    (place / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    refused(place, "safetensors is damaged")


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("scheduler/scheduler_config.json", None, "scheduler_config.json is missing"),
        ("unet/config.json", None, "config.json is missing"),
        (WEIGHTS, None, "has no diffusion_pytorch_model.safetensors: the folder is incomplete"),
        ("unet/config.json", dict(_class_name="MyNet"), "is a MyNet, but model_index.json says UNet2DModel"),
        ("unet/config.json", dict(_class_name="os; x"), "but model_index.json says"),
        ("unet/config.json", dict(block_out_channels=[8, 32]), "config and weights belong to different models"),
        ("unet/config.json", dict(in_channels=4, out_channels=4), "config.json asks for conv_in.weight of shape .8, 4, 3, 3., the weights hold .8, 3, 3, 3."),
        ("unet/config.json", dict(in_channels="3"), "in_channels = '3' must be a multiple of 1"),
        ("unet/config.json", dict(out_channels=5), "out_channels = 5 must be in_channels = 3, fewer"),
        ("unet/config.json", dict(layers_per_block=2), "config and weights belong to different models"),
        ("unet/config.json", dict(down_block_types=["EvilBlock", "DownBlock2D"]), "UNet2DModel refuses it"),
        ("unet/config.json", dict(class_embed_type="projection"), "class_embed_type = 'projection' is not supported"),
        ("unet/config.json", dict(quantization_config=dict(quant_method="bitsandbytes")), "quantised weights"),
        ("scheduler/scheduler_config.json", dict(prediction_type="noise"), "prediction_type = 'noise' is not known"),
        ("scheduler/scheduler_config.json", dict(_class_name="DDIMScheduler"), "model_index.json says DDPMScheduler"),
        ("model_index.json", dict(unet=[None, None]), "holds no network"),
    ],
)  # fmt: skip
def test_missing_and_contradictory_files(place, file, changes, says):
    if changes is None:
        (place / file).unlink()
    else:
        edit(place / file, **changes)
    refused(place, says)


def test_unknown_classes(place):
    edit(place / "model_index.json", unet=["diffusers", "MochiTransformer3DModel"])
    edit(place / "unet/config.json", _class_name="MochiTransformer3DModel")
    refused(place, "the network class MochiTransformer3DModel is not known; known: UNet2DModel")
    edit(place / "unet/config.json", _class_name=...)
    edit(place / "model_index.json", unet=["os", "system; x"])
    refused(place, "names no class")


def test_large_and_broken_configs(place):
    file = place / "unet/config.json"
    good = file.read_text()
    file.write_text(good + " " * (1 << 20))
    refused(place, "a config at most 1048576")
    file.write_bytes(b"\xff\xfe{}")
    refused(place, "not valid JSON")
    file.write_text("[]")
    refused(place, "holds a list, not an object")
    file.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file)
        refused(place, "not a regular file")


def test_nothing_of_the_folder_is_executed(place, tmp_path):
    """Custom code named in the configs stays text."""
    code = "import pathlib; pathlib.Path(__file__).with_name('owned').touch()\nclass Evil: pass"
    (place / "unet/evil.py").write_text(code)
    auto = dict(auto_map=dict(AutoModel="evil.Evil"), custom_pipeline="evil")
    edit(place / "unet/config.json", **auto)
    edit(place / "model_index.json", **auto)
    kit.load(kit.read_folder(place))
    assert not (place / "unet/owned").exists()


def test_weights_that_are_not_there_are_named(place):
    from safetensors.torch import load_file, save_file

    state = load_file(place / WEIGHTS)
    del state["conv_out.bias"], state["conv_in.bias"]
    save_file(state, place / WEIGHTS)
    refused(place, "config.json asks for 'conv_in.bias' and 1 more weights that are not there")


def test_weights_the_config_does_not_ask_for_are_named(place):
    edit(place / "unet/config.json", add_attention=False)
    with pytest.warns(UserWarning, match="weights are not used by UNet2DModel, such as 'mid_block"):
        kit.load(kit.read_folder(place))


def test_old_names_of_attention_weights(place, ours):
    from safetensors.torch import load_file, save_file

    names = {
        ".to_q.": ".query.",
        ".to_k.": ".key.",
        ".to_v.": ".value.",
        ".to_out.0.": ".proj_attn.",
    }
    state = {}
    for key, value in load_file(place / WEIGHTS).items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[key] = value
    assert any(".query." in key for key in state)
    save_file(state, place / WEIGHTS)
    x = latent("ddpm")
    assert torch.equal(kit.load(kit.read_folder(place))(x, 0.5), ours("ddpm")(x, 0.5))


def test_single_files_with_the_configs_of_a_folder(tmp_path, ours, folders):
    """With diffusers' names, and with another program's (LTX's own)."""
    from safetensors.torch import load_file, save_file

    x, cond = latent("ltx"), conditioning("ltx")
    file = next((folders("ltx") / "transformer").glob("*.safetensors"))
    configs = save("ltx", tmp_path / "configs")
    next((configs / "transformer").glob("*.safetensors")).unlink()
    names = {"proj_in": "patchify_proj", "time_embed": "adaln_single", "norm_q": "q_norm", "norm_k": "k_norm"}  # fmt: skip
    state = {}
    for key, value in load_file(file).items():
        for ours_, theirs_ in names.items():
            key = key.replace(ours_, theirs_)
        state["model.diffusion_model." + key] = value
    save_file(state | {"vae.x": torch.zeros(1)}, tmp_path / "own.safetensors")
    for single in (file, tmp_path / "own.safetensors"):
        mine = kit.load(kit.read_folder(configs), weights=kit.read_file(single))
        assert torch.equal(mine(x, 0.5, cond), ours("ltx")(x, 0.5, cond))
    state.popitem()
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"less.safetensors: config.json asks for .* not there"):
        kit.load(kit.read_folder(configs), weights=kit.read_file(tmp_path / "less.safetensors"))
    with pytest.raises(ValueError, match="reads no single files of UNet2DModel"):
        kit.load(kit.read_folder(folders("ddpm")), weights=kit.read_file(file))
    with pytest.raises(ValueError, match=r"is no .* file"):
        kit.read_file(tmp_path / "model.ckpt")


def test_loading_does_not_initialise_what_it_overwrites(place, monkeypatch):
    """Weights of the class itself are never drawn: a 12-billion network needs no memory for them."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda t, *a, **k: t if t.is_meta else pytest.fail("drawn"))  # fmt: skip
    kit.load(kit.read_folder(place))


def test_what_is_stored_is_known_without_loading(place):
    weights = kit.read_folder(place).network_weights
    assert weights.dtype == torch.float32
    assert weights.parameters == sum(p.numel() for p in network("ddpm").parameters())
    assert weights.bytes == 4 * weights.parameters


def test_without_diffusers_the_engine_imports_and_use_says_what_to_install(place):
    code = f"""
import sys
sys.modules["diffusers"] = sys.modules["transformers"] = None
from sampling_kit.schedulers.denoiser import diffusers as kit
folder = kit.read_folder({str(place)!r})
print(kit.read_training(folder.scheduler).prediction.kind)
try:
    kit.load(folder)
except ImportError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert out.returncode == 0, out.stderr
    first, second = out.stdout.splitlines()
    assert first == "eps"
    assert second.startswith("diffusers folders need diffusers and transformers")
    assert "pip install" in second
