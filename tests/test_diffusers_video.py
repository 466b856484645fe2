"""Videos of diffusers folders: frames asked are frames made, and equal to the pipeline's."""

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import error
from diffusers_folders import TINY, conditioning, save

from sampling_kit.headless.context import Context, use
from sampling_kit.headless.core import conditioning as beside
from sampling_kit.headless.core import sampling as core
from sampling_kit.nodes import NODES
from sampling_kit.nodes.host.latent_layout import LatentLayout
from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.diffusers import lead

diffusers = pytest.importorskip("diffusers")
no_gradients = cases.no_gradients
BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}
SIZE = dict(width=16, height=8)
LARGER = dict(width=32, height=16)  # Wan's VAE has 8 pixels a latent
T2V = TINY["cogvideox-1.5"].using(
    config={**TINY["cogvideox-1.5"].config, "in_channels": 4, "ofs_embed_dim": None},
    cond=(("text", (8, 16)),),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    TINY["cogvideox-1.5-t2v"] = T2V
    for name in ("cogvideox-2b", "cogvideox-1.5", "cogvideox-1.5-t2v", "wan", "ltx"):
        save(name, base / "diffusers" / name)
    yield base
    del TINY["cogvideox-1.5-t2v"]


@pytest.fixture(autouse=True)
def running(models):
    with use(Context(models, models, models, "cpu", None, {}, None, models=models)):
        yield


def node(name, **inputs):
    return BY_ID[name].execute(**inputs).args


def run(name, frames, positive=None, negative=None, seed=3, steps=3):
    """(latent, frames [F, H, W, 3] of one video) through the nodes, DDIM under CFG."""
    model, schedule, _ = node("LoadDiffusersDenoiser", folder=name)
    sigmas = node("Steps", noise_schedule=schedule, steps=steps, spacing={"spacing": "trailing"})[0]
    latent = node(
        "EmptyDiffusersLatent", model=model, frames=frames, **(LARGER if name == "wan" else SIZE)
    )[0]
    cond, uncond = conditioning(name, 1), conditioning(name, 1, seed=7)
    positive = positive or [[cond["text"], {}]]
    negative = negative or [[uncond["text"], {}]]
    guider = node("Guider", model=model, positive=positive, negative=negative, guidance=node("CFG", scale=3.0)[0])[0]  # fmt: skip
    out = core.SamplerCustomAdvanced.execute(core.BatchNoise(seed), guider, node("DDIM")[0], sigmas, latent).args  # fmt: skip
    vae = node("DiffusersVAE", folder=name)[0]
    assert out[0]["samples"].shape == out[1]["samples"].shape == latent["samples"].shape
    return out[0]["samples"], vae.decode(out[0]["samples"])[0], vae


@pytest.mark.some(2)
@pytest.mark.parametrize("name", ["cogvideox-2b", "cogvideox-1.5-t2v", "wan", "ltx"])
def test_frames_asked_are_frames_made(name, models):
    network = kit.load(kit.read_folder(models / "diffusers" / name))
    step = network.latents.step
    made = {n: run(name, n, steps=1)[1] for n in (1, 1 + step, 1 + 2 * step)}
    assert {n: len(frames) for n, frames in made.items()} == {n: n for n in made}
    with pytest.raises(ValueError, match=rf"frames = {step + 2}: .*: choose {step + 1} or {2 * step + 1}"):  # fmt: skip
        run(name, step + 2)


def test_a_picture_has_no_frames_to_choose():
    assert LatentLayout(4, 3, 8, 4, (1, 2, 2), 4).shape(1, 64, 64, 81) == (1, 4, 21, 8, 8)
    with pytest.raises(ValueError, match="choose 45 or 49"):
        LatentLayout(4, 3, 8, 4, (1, 2, 2), 4).shape(1, 64, 64, 48)


def pipeline(name, kind, models):
    folder = models / "diffusers" / name
    parts = dict(
        transformer=diffusers.CogVideoXTransformer3DModel.from_pretrained(folder / "transformer"),
        vae=diffusers.AutoencoderKLCogVideoX.from_pretrained(folder / "vae"),
        scheduler=diffusers.CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler"),
    )
    made = getattr(diffusers, kind)(tokenizer=None, text_encoder=None, **parts)
    made.set_progress_bar_config(disable=True)
    made.vae_scale_factor_spatial = 2
    return made


def noise_of(name, frames, seed=3):
    """The run's noise as the pipeline has it: lead and video [B, F, C, H, W]."""
    shape = (1, TINY[name].shape[0], frames, SIZE["height"] // 2, SIZE["width"] // 2)
    noise = core.BatchNoise(seed).generate_noise({"samples": torch.zeros(shape)})
    return lead.start(noise, torch.zeros(shape), frames % 2, seed)[0].transpose(1, 2)


def shared(name, frames):
    cond, uncond = conditioning(name, 1), conditioning(name, 1, seed=7)
    return dict(
        prompt_embeds=cond["text"], negative_prompt_embeds=uncond["text"], num_inference_steps=3, guidance_scale=3.0,
        num_frames=frames, max_sequence_length=8, output_type="pt", **SIZE,
    )  # fmt: skip


def test_cogvideox_1_5_is_its_pipeline_s_video(models):
    """5 latent frames and a lead of one, which the pipeline cuts off too."""
    name, frames = "cogvideox-1.5-t2v", 9
    theirs = pipeline(name, "CogVideoXPipeline", models)(
        latents=noise_of(name, 5), **shared(name, frames)
    ).frames[0]
    ours = run(name, frames)[1]
    assert ours.shape[0] == len(theirs) == frames
    assert error(ours.movedim(-1, 1), theirs) < 8e-3  # 2 levels of 255: σ is finite on the wire


def test_cogvideox_1_5_from_a_picture_is_its_pipeline_s_video(models):
    """The picture stands beside the lead, and zeros beside all other frames."""
    name, frames = "cogvideox-1.5", 9
    picture = torch.rand(1, 8, 16, 3, generator=torch.Generator().manual_seed(5))
    pipe = pipeline(name, "CogVideoXImageToVideoPipeline", models)
    mode = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution.mode
    before = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution.sample
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    try:
        kind.sample = lambda self, generator=None: mode(self)
        theirs = pipe(
            image=picture.movedim(-1, 1), latents=noise_of(name, 5), **shared(name, frames)
        ).frames[0]
    finally:
        kind.sample = before
    vae = node("DiffusersVAE", folder=name)[0]
    cond, uncond = conditioning(name, 1), conditioning(name, 1, seed=7)
    both = beside.InstructPixToPixConditioning.execute(
        [[cond["text"], {}]], [[uncond["text"], {}]], vae, picture
    ).args
    ours = run(name, frames, both[0], both[1])[1]
    assert error(ours.movedim(-1, 1), theirs) < 8e-3  # 2 levels of 255: σ is finite on the wire


def test_a_lead_is_noise_of_its_own_and_none_where_there_is_none():
    noise = torch.randn(2, 4, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    latent = torch.randn(2, 4, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    more, put = lead.start(noise, latent, 1, seed=9)
    assert torch.equal(more[:, :, 1:], noise) and torch.equal(put[:, :, 1:], latent)
    assert torch.equal(put[:, :, 0], latent[:, :, 0])
    assert abs(float(more[:, :, 0].std()) - 1) < 0.5
    alone = lead.start(noise[1:], latent[1:], 1, seed=10)[
        0
    ]  # image 1 of seed 9 is image 0 of seed 10
    assert torch.equal(alone, more[1:])
    quiet = lead.start(torch.zeros_like(noise), latent, 1, seed=9)[0]
    assert not quiet.any()
    assert lead.without(more, 1).shape == noise.shape


@pytest.mark.parametrize(("name", "parts"), [("cogvideox-2b", [3, 2]), ("wan", [1] * 5)])
def test_decoding_tells_every_batch_of_frames(name, parts, models):
    vae = kit.load_vae(kit.read_folder(models / "diffusers" / name))
    told = []
    with vae.watched(told.append):
        vae.decode(torch.zeros(1, 4, 5, 4, 4))
    assert told == parts
    vae.decode(torch.zeros(1, 4, 5, 4, 4))
    assert told == parts
