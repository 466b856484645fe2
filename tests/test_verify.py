"""`sampling-kit verify`: between hosts, of several pictures and folders, of WebP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from test_headless_cli import REGISTRY, Paint, call, graph_of

from sampling_kit.headless import graph, provenance, registry
from sampling_kit.headless.cli import options
from sampling_kit.headless.picture_text import picture_texts
from sampling_kit.headless.png_text import read_text_chunks
from sampling_kit.headless.save import run_metadata, save_animation
from sampling_kit.headless.webp_text import WebpError, read_exif_texts
from sampling_kit.nodes.host.alone import io


class SaveWebp(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("SaveWebp", inputs=[io.Image.Input("images")], is_output_node=True)

    @classmethod
    def execute(cls, images):
        here = graph.current()
        frames = torch.cat([images, 1 - images])
        how = dict(lossless=True)
        saved = save_animation(frames, "film", here.output, run_metadata(here), 8, how)
        return io.NodeOutput(ui={"images": [saved]})


@pytest.fixture
def saved(tmp_path, monkeypatch) -> Path:
    """A picture in a folder of its own, below the working directory."""
    nodes = REGISTRY | {"SaveWebp": SaveWebp}
    monkeypatch.setattr(registry, "registry", lambda: nodes)
    monkeypatch.setattr(options, "set_device", lambda name: "cpu")
    monkeypatch.chdir(tmp_path)
    prompt = graph_of() | {"3": {"class_type": "SaveWebp", "inputs": {"images": ["1", 0]}}}
    Path("w.json").write_text(json.dumps(prompt))
    result = call("run", "w.json", "--output", "made")
    assert result.exit_code == 0, result.output
    return Path("made") / "p_00001_.png"


def changed(saved: Path, target: Path, by: int, machine: str = "") -> Path:
    """The same picture, every value ``by`` more, its digest right; made on another machine where one is named."""
    texts = read_text_chunks(saved)
    with Image.open(saved) as image:
        pixels = np.asarray(image) + np.uint8(by)
    facts = json.loads(texts["sampling_kit"])
    facts["versions"] |= {"machine": machine} if machine else {}
    facts["pixels"] = provenance.pixel_digest(pixels)
    info = PngImagePlugin.PngInfo()
    for name, text in (texts | {"sampling_kit": json.dumps(facts)}).items():
        info.add_text(name, text)
    Image.fromarray(pixels).save(target, pnginfo=info)
    return target


@pytest.mark.parametrize(("by", "code"), [(0, 0), (1, 0), (2, 0), (3, 1)])
def test_between_hosts_two_of_255_are_promised(saved, by, code):
    png = changed(saved, Path("x.png"), by, "another")
    result = call("verify", png)
    assert result.exit_code == code, result.output
    words = {0: "reproduces bit for bit", 3: "does NOT reproduce"}
    assert words.get(by, "reproduces within 2/255 (bit for bit: no)") in result.stdout


def test_on_the_same_host_one_of_255_is_a_difference(saved):
    changed(saved, Path("x.png"), 1)
    result = call("verify", "x.png")
    assert result.exit_code == 1 and "does NOT reproduce" in result.stdout


def test_a_webp_reproduces_with_all_its_frames(saved, monkeypatch):
    film = saved.parent / "film_00001_.webp"
    result = call("verify", film)
    assert (result.exit_code, result.stdout) == (0, f"{film}: reproduces bit for bit\n")
    monkeypatch.setattr(SaveWebp, "execute", classmethod(_other_second_frame))
    result = call("verify", film)
    assert result.exit_code == 1 and "does NOT reproduce" in result.stdout


def _other_second_frame(cls, images):
    here = graph.current()
    frames = torch.cat([images, images * 0])
    saved = save_animation(frames, "film", here.output, run_metadata(here), 8, dict(lossless=True))
    return io.NodeOutput(ui={"images": [saved]})


def test_several_files_and_folders(saved, monkeypatch):
    Image.new("RGB", (4, 4)).save("made/plain.png")
    (saved.parent / "cut.png").write_bytes(saved.read_bytes()[:200])
    changed(saved, Path("other.png"), 1, "another")
    result = call("verify", "made", "other.png", saved)
    assert result.exit_code == 2
    assert "cut.png: the PNG file is truncated" in result.stderr
    assert "plain.png" not in result.output
    last = result.stdout.splitlines()[-1]
    assert last == "4 pictures: 2 bit for bit, 1 within 2/255, 1 not a picture that can be verified"
    (saved.parent / "cut.png").unlink()
    assert call("verify", "made", "other.png").exit_code == 0
    monkeypatch.setattr(Paint, "execute", classmethod(_broken))
    result = call("verify", "made", "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert {one["result"] for one in answer["pictures"]} == {"could not be run"}


def _broken(cls, **_):
    raise ValueError("dry")


def test_a_folder_without_pictures_is_named(saved):
    Path("empty").mkdir()
    result = call("verify", "empty")
    assert result.exit_code == 2 and "no PNG or WebP with a workflow" in result.stderr


def test_a_webp_is_a_workflow(saved):
    film = saved.parent / "film_00001_.webp"
    assert graph.load(film).prompt == graph.load(saved).prompt
    assert set(picture_texts(film)) == {"prompt", "sampling_kit"}


@pytest.mark.parametrize("order", ["little", "big"])
def test_both_byte_orders_and_short_texts(tmp_path, order):
    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    text = b'prompt:{"1": 2}\0'
    head = {"little": b"II", "big": b"MM"}[order] + number(42, 2) + number(8, 4)
    entries = number(0x0110, 2) + number(2, 2) + number(len(text), 4) + number(8 + 2 + 24 + 4, 4)
    short = number(0x010F, 2) + number(2, 2) + number(4, 4) + b"a:b\0"
    exif = head + number(2, 2) + entries + short + number(0, 4) + text
    body = b"WEBPEXIF" + len(exif).to_bytes(4, "little") + exif
    path = tmp_path / "x.webp"
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    assert read_exif_texts(path) == {"prompt": '{"1": 2}', "a": "b"}
    for cut in range(12, len(body) + 7):
        path.write_bytes((b"RIFF" + len(body).to_bytes(4, "little") + body)[:cut])
        if cut < 20:
            assert read_exif_texts(path) == {}
        else:
            with pytest.raises(WebpError, match="truncated"):
                read_exif_texts(path)
