"""What networks see beside x, and shifts that grow with the size: against each pipeline's own."""

import math

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import edit, error
from diffusers_folders import TINY, conditioning, save

from sampling_kit.headless.core import conditioning as core
from sampling_kit.nodes.denoiser.vae import FolderVae
from sampling_kit.nodes.host.diffusers_conditioning import from_conditioning
from sampling_kit.nodes.host.latent_layout import sized_flow_of
from sampling_kit.schedulers.denoiser import diffusers as kit
from sampling_kit.schedulers.denoiser.diffusers.training import training_of, unread
from sampling_kit.schedulers.size_shift import SizedFlow, SizeShift

diffusers = pytest.importorskip("diffusers")
folders, no_gradients = cases.folders, cases.no_gradients
EMPTY = [[torch.zeros(1, 5, 16), {}]]


def picture(height, width, batch=1):
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(2))


def parts(folder):
    read = kit.read_folder(folder)
    return kit.load(read), FolderVae(kit.load_vae(read)), kit.load_vae(read)


def seen(network, conditioning):
    text, extra = conditioning[0]
    return from_conditioning(network, text, extra)["concat"]


def test_instruct_pix2pix_sees_latents_as_they_are(folders):
    network, vae, plain = parts(folders("instruct-pix2pix"))
    image = picture(16, 24)
    both = core.InstructPixToPixConditioning.execute(EMPTY, EMPTY, vae, image).args
    pipe = diffusers.StableDiffusionInstructPix2PixPipeline.__new__(
        diffusers.StableDiffusionInstructPix2PixPipeline
    )
    object.__setattr__(pipe, "vae", plain.module)
    theirs = pipe.prepare_image_latents(image.movedim(-1, 1) * 2 - 1, 1, 1, torch.float32, "cpu", False)  # fmt: skip
    assert (
        error(
            seen(network, both[0]),
            theirs,
        )
        < 1e-5
    )
    assert error(seen(network, both[0]), theirs * plain.latents.scale) > 0.1
    assert both[2]["samples"].shape == theirs.shape


def test_cosxl_sees_them_scaled(tmp_path):
    path = save("instruct-pix2pix", tmp_path)
    edit(path / "model_index.json", _class_name="StableDiffusionXLInstructPix2PixPipeline")
    assert kit.load(kit.read_folder(path)).beside.factor == 1.0
    edit(path / "model_index.json", is_cosxl_edit=True)
    assert kit.load(kit.read_folder(path)).beside.factor is None


def test_inpainting_sees_mask_and_masked_picture_scaled_as_x(folders):
    network, vae, plain = parts(folders("sd-inpaint"))
    image, mask = picture(16, 24), torch.zeros(1, 16, 24)
    mask[:, :, 12:] = 1
    both = core.InpaintModelConditioning.execute(EMPTY, EMPTY, vae, image, mask, False).args
    pipe = diffusers.StableDiffusionInpaintPipeline.__new__(
        diffusers.StableDiffusionInpaintPipeline
    )
    object.__setattr__(pipe, "vae", plain.module)
    object.__setattr__(pipe, "vae_scale_factor", 2)
    masked = (image.movedim(-1, 1) * 2 - 1) * (mask[:, None] < 0.5)
    pipe._encode_vae_image = lambda x, generator: plain.module.config.scaling_factor * plain.module.encode(x).latent_dist.mode()  # fmt: skip
    theirs = pipe.prepare_mask_latents(mask[:, None], masked, 1, 16, 24, torch.float32, "cpu", None, False)  # fmt: skip
    assert error(seen(network, both[0]), torch.cat(theirs, 1)) < 1e-5


@pytest.mark.parametrize("inverted", [False, True])
def test_cogvideox_from_a_picture(tmp_path, inverted):
    path = save("cogvideox-1.5", tmp_path)
    edit(path / "vae/config.json", invert_scale_latents=inverted)
    network, vae, plain = parts(path)
    image = picture(8, 16)
    pipe = diffusers.CogVideoXImageToVideoPipeline(
        None, None, plain.module, network.network, diffusers.CogVideoXDDIMScheduler()
    )
    pipe.vae.encode, encode = (lambda x: Modes(encode(x))), pipe.vae.encode
    theirs = pipe.prepare_latents(
        image.movedim(-1, 1) * 2 - 1, 1, 4, 5, 8, 16, torch.float32, torch.device("cpu")
    )[1]  # fmt: skip
    pipe.vae.encode = encode
    both = core.InstructPixToPixConditioning.execute(EMPTY, EMPTY, vae, image).args
    mine = seen(network, both[0])
    assert error(mine[:, :, 0], theirs.transpose(1, 2)[:, :, 0]) < 1e-5
    assert not theirs[:, 2:].any()  # what frames beyond the picture see: zeros, which a run appends


class Modes:
    """An encoding whose sample is its mode."""

    def __init__(self, coded):
        self.latent_dist = coded.latent_dist
        self.latent_dist.sample = lambda generator=None: self.latent_dist.mode()


def test_wan_from_a_picture(folders):
    network, vae, plain = parts(folders("wan-i2v"))
    image = picture(32, 48)
    pipe = diffusers.WanImageToVideoPipeline.__new__(diffusers.WanImageToVideoPipeline)
    for name, value in dict(
        vae=plain.module, vae_scale_factor_spatial=8, vae_scale_factor_temporal=4,
    ).items():  # fmt: skip
        object.__setattr__(pipe, name, value)
    pipe._internal_dict = diffusers.configuration_utils.FrozenDict(dict(expand_timesteps=False))
    theirs = pipe.prepare_latents(
        image.movedim(-1, 1) * 2 - 1, 1, 4, 32, 48, 9, torch.float32, torch.device("cpu")
    )[1]  # fmt: skip
    both = core.WanImageToVideo.execute(EMPTY, EMPTY, vae, 48, 32, 9, 1, image).args
    assert both[2]["samples"].shape == (1, 4, 3, 4, 6)
    assert error(seen(network, both[0]), theirs) < 1e-5


def test_what_is_missing_is_named(folders):
    network = parts(folders("sd-inpaint"))[0]
    with pytest.raises(ValueError, match=r"needs a picture's latents .*InstructPixToPix"):
        seen(network, EMPTY)
    with pytest.raises(ValueError, match="takes a picture of 4 latent channels"):
        seen(network, [[EMPTY[0][0], {"concat_latent_image": torch.zeros(1, 16, 8, 12)}]])
    cond = conditioning("sd-inpaint", 1) | {"concat": torch.zeros(1, 5, 8, 8)}
    with pytest.raises(ValueError, match=r"sees a picture of shape \(5, 8, 12\) beside x"):
        network(torch.zeros(1, 4, 8, 12), 1.0, cond)


def test_a_zeroed_negative_has_no_text_and_no_pooled_text():
    cond = [[torch.ones(1, 5, 16), {"pooled_output": torch.ones(1, 4), "guidance": 3.0}]]
    ((text, extra),) = core.ConditioningZeroOut.execute(cond).args[0]
    assert not text.any() and not extra["pooled_output"].any() and extra["guidance"] == 3.0
    assert cond[0][0].all()


# ------------------------------------------------------------------------------ shifts by size


@pytest.mark.parametrize(("name", "pixels"), [("flux", 512), ("flux", 1024), ("sd3", 768)])
def test_the_shift_of_a_latent_is_the_pipeline_s_for_its_size(name, pixels, folders):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = dict(use_dynamic_shifting=True, max_shift=1.16 if name == "sd3" else 1.15)
    network = kit.load(kit.read_folder(folders(name)))
    network = network.using(training_of("FlowMatchEulerDiscreteScheduler", config).seen_in((2, 2)))
    side = pixels // 8
    tokens = (side // 2) ** 2
    mu = calculate_shift(tokens, 256, 4096, 0.5, config["max_shift"])
    schedule = network.noise_schedule.for_latent((4, side, side))
    assert schedule.shift == pytest.approx(math.exp(mu), rel=1e-12)
    if (name, pixels) == ("flux", 512):
        assert schedule.shift == pytest.approx(1.8780, abs=1e-3)


def test_a_folder_s_schedule_takes_the_latent_on_the_wire(folders):
    from sampling_kit.nodes.schedule.schedules import Steps

    schedule = kit.load(kit.read_folder(folders("ltx"))).noise_schedule
    assert isinstance(schedule, SizedFlow)
    assert schedule.shift == pytest.approx(math.exp(2.05))  # of 4096 tokens
    latent = {"samples": torch.zeros(1, 4, 13, 16, 32)}  # 6656 tokens
    run = Steps.run(schedule, 4, {"spacing": "trailing"}, latent=latent)
    expected = SizeShift(0.95, 2.05, 1024, 4096).at(6656)
    assert run.schedule.shift == pytest.approx(expected) and expected > schedule.shift
    plain = Steps.run(schedule, 4, {"spacing": "trailing"})
    assert plain.schedule == schedule


def test_native_networks_use_the_same_rule():
    """ModelSamplingFlux's numbers at 1024² and 512², ModelSamplingLTXV's at 4096 tokens."""
    flux = sized_flow_of(None, ["Flux", "BaseModel"])
    assert flux.for_latent((16, 128, 128)).shift == pytest.approx(math.exp(1.15))
    assert flux.for_latent((16, 64, 64)).shift == pytest.approx(math.exp(0.63), rel=1e-3)
    ltx = sized_flow_of(None, ["LTXV"])
    assert ltx.for_latent((128, 4, 32, 32)).shift == pytest.approx(math.exp(2.05))
    assert sized_flow_of(None, ["SDXL"]) is None


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (dict(base_image_seq_len=4096), "must be above 0 and rise"),
        (dict(time_shift_type="cubic"), "neither exponential nor linear"),
        (dict(time_shift_type="linear", base_shift=-1.0), "set base_shift and max_shift"),
        (dict(use_karras_sigmas=True, use_beta_sigmas=True), "contradict each other"),
    ],
)
def test_contradictory_shifts_are_one_error(config, says):
    with pytest.raises(ValueError, match=says) as caught:
        training_of(
            "FlowMatchEulerDiscreteScheduler", dict(use_dynamic_shifting=True) | config, "X"
        )
    assert str(caught.value).startswith("X: ")


def test_keys_that_are_not_applied_are_named():
    said = unread("DDIMScheduler", dict(timestep_spacing="leading", thresholding=True))
    assert [text.split(" ")[0] for text in said] == [
        "clip_sample",
        "thresholding",
        "timestep_spacing",
    ]
    assert unread("FlowMatchEulerDiscreteScheduler", dict(shift=3.0, shift_terminal=None)) == ()
    assert TINY["ltx"].scheduler[1]["shift_terminal"] == 0.1
    assert "shift_terminal = 0.1" in unread(*TINY["ltx"].scheduler)[0]
