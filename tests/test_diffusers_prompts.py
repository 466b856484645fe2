"""Text encoders of diffusers folders, against the pipelines' encode_prompt."""

import json
from types import SimpleNamespace

import diffusers_cases as cases
import pytest
import torch
from diffusers_cases import latent
from diffusers_folders import TINY, clip, conditioning, network, save, scheduler, t5

from sampling_kit.schedulers.denoiser import diffusers as kit

diffusers = pytest.importorskip("diffusers")
folders, ours, theirs = cases.folders, cases.ours, cases.theirs
no_gradients = cases.no_gradients
every = pytest.mark.parametrize("name", TINY)


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
