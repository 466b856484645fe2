"""What the tests of diffusers folders share: the tiny folders, our denoisers, diffusers' own calls.

A test module takes the fixtures by assignment: ``folders, ours = diffusers_cases.folders, …``.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers_folders import TINY, network, save, scheduler

from sampling_kit.schedulers.denoiser import diffusers as kit

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()


@cache
def place():
    """A folder for this process's tiny models, gone when it ends."""
    return tempfile.TemporaryDirectory(prefix="diffusers")


@cache
def folder_of(name):
    return save(name, Path(place().name) / name)


@cache
def denoiser_of(name):
    return kit.load(kit.read_folder(folder_of(name)))


network_of = cache(network)


@pytest.fixture
def folders():
    """name → the folder, written once."""
    return folder_of


@pytest.fixture
def ours():
    """name → our denoiser."""
    return denoiser_of


@pytest.fixture
def theirs():
    """name → diffusers' network, as it was before it was saved."""
    return network_of


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
    x = torch.cat([x, cond["concat"]], 1) if "concat" in cond else x
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


def error(a, b, x=None):
    """Largest difference, relative to the largest of b and, if it is there, x."""
    size = 0 if x is None else x.abs().max()
    return float((a - b).abs().max() / max(1, b.abs().max(), size))


def edit(file, **changes):
    config = json.loads(file.read_text())
    config.update(changes)
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
