"""What the head-less runner reads and writes: workflows in JSON and PNG, and images."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy_nodes import GOOD, node

from sampling_kit.headless import graph, png_text, workflow
from sampling_kit.headless.load_image import load_image
from sampling_kit.headless.save import save_images

# Reading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1.*truncated"),
        ('{"1": {"class_type": "Steps"', "line 1, column 29.*truncated"),
        ('{"1": nope}', "Expecting value at line 1, column 7$"),
        ('{\n "1": 5,\n}', "line 3, column 1|line 2, column 8"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "not a list"),
        ("7", "not a int"),
        ('{"1": 7}', "node '1' must be an object"),
        ('{"1": {"inputs": {}}}', "node '1' has no class_type"),
        ('{"1": {"class_type": "A"}}', "node '1' has no inputs"),
        ('{"1": {"class_type": "A", "inputs": []}}', "node '1' has no inputs"),
        ('{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "NaN is not a JSON number"),
        ('{"1": {"class_type": "A", "inputs": {"x": -Infinity}}}', "-Infinity is not"),
        ('{"nodes": [], "links": []}', r"editor's format.*Export \(API\)"),
        ('{"1": ' + "9" * 5000 + "}", "not JSON|must be an object"),
    ],
)
def test_unreadable_json_is_one_clear_error(tmp_path: Path, text: str | bytes, message: str):
    path = tmp_path / "w.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(graph.WorkflowError, match=message) as caught:
        graph.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(graph.WorkflowError, match="no such file"):
            graph.load(path)


def test_100_mb_are_refused_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(graph.WorkflowError, match="100 MB is too large"):
        graph.load(path)


def test_json_with_byte_order_mark_and_extra_keys(tmp_path: Path):
    path = tmp_path / "w.json"
    data = {"1": node("Steps", "Mine", steps=3) | {"is_changed": 1}}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(data).encode())
    assert graph.load(path).prompt == {"1": node("Steps", "Mine", steps=3)}


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, *chunks: bytes) -> Path:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    path.write_bytes(png_text.SIGNATURE + header + b"".join(chunks) + pixels + chunk(b"IEND", b""))
    return path


PROMPT_TEXT = json.dumps(GOOD).encode()
BOMB = zlib.compress(bytes(png_text.TEXT_LIMIT + 1))


@pytest.mark.parametrize(
    "body",
    [
        chunk(b"tEXt", b"prompt\0" + PROMPT_TEXT),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(PROMPT_TEXT)),
        chunk(b"iTXt", b"prompt\0\0\0\0\0" + PROMPT_TEXT),
        chunk(b"iTXt", b"prompt\0\1\0en\0x\0" + zlib.compress(PROMPT_TEXT)),
    ],
)
def test_prompt_in_every_kind_of_text_chunk(tmp_path: Path, body: bytes):
    loaded = graph.load(write_png(tmp_path / "a.png", body))
    assert loaded.prompt == GOOD
    assert loaded.ui is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "holds no workflow"),
        (chunk(b"tEXt", b'workflow\0{"nodes": []}'), "only the editor's graph"),
        (chunk(b"tEXt", b"prompt\0{"), "not JSON"),
        (chunk(b"tEXt", b"prompt\0" + PROMPT_TEXT)[:-1] + b"?", "damaged"),
        (chunk(b"zTXt", b"prompt\0\0" + b"rubbish"), "damaged"),
        (chunk(b"zTXt", b"prompt\0\0" + zlib.compress(PROMPT_TEXT)[:20]), "cut short"),
        (chunk(b"zTXt", b"a\0\0" + BOMB), "more than 32 MB of text"),
        (chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB), "more than 32 MB of text"),
        (chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20 * 2**20))) * 2, "more than 32 MB"),
        (struct.pack(">I", 2**31 - 1) + b"tEXt", "truncated"),
    ],
)
def test_bad_png_is_one_clear_error(tmp_path: Path, body: bytes, message: str):
    with pytest.raises(graph.WorkflowError, match=message):
        graph.load(write_png(tmp_path / "a.png", body))


def test_truncated_png(tmp_path: Path):
    whole = write_png(tmp_path / "a.png", chunk(b"tEXt", b"prompt\0" + PROMPT_TEXT)).read_bytes()
    for length in (8, 12, 40, 80, len(whole) - 20, len(whole) - 1):
        (tmp_path / "b.png").write_bytes(whole[:length])
        with pytest.raises(graph.WorkflowError, match="truncated"):
            graph.load(tmp_path / "b.png")


def test_comfyui_png_with_nan_in_is_changed(tmp_path: Path):
    text = b'{"1": {"class_type": "Steps", "inputs": {"steps": 3}, "is_changed": [NaN]}}'
    loaded = graph.load(write_png(tmp_path / "a.png", chunk(b"tEXt", b"prompt\0" + text)))
    assert loaded.prompt == {"1": node("Steps", steps=3)}


def test_png_round_trip_restores_both_graphs(tmp_path: Path):
    ui = {"nodes": [{"id": 1, "title": "żółw ✓"}], "links": []}
    saved = save_images(torch.rand(2, 4, 5, 3), "a", tmp_path, {"prompt": GOOD, "workflow": ui})
    for entry in saved:
        loaded = graph.load(tmp_path / entry["filename"])
        assert (loaded.prompt, loaded.ui) == (GOOD, ui)
    with Image.open(tmp_path / saved[0]["filename"]) as file:
        assert json.loads(file.text["workflow"]) == ui


# Images


def test_names_count_up_and_stay_in_subfolders(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a_00007_.png").touch()
    (tmp_path / "sub" / "a_b_00009_.png").touch()
    first, second = save_images(torch.zeros(2, 3, 5, 3), "sub/a", tmp_path, {})
    assert first == {"filename": "a_00008_.png", "subfolder": "sub", "type": "output"}
    assert second["filename"] == "a_00009_.png"
    (named,) = save_images(torch.zeros(1, 3, 5, 4), "%width%x%height%_%batch_num%", tmp_path, {})
    assert named["filename"] == "5x3_0_00001_.png"
    assert save_images(torch.zeros(1, 3, 5, 1), "x/../y", tmp_path, {}, "temp")[0] == {
        "filename": "y_00001_.png", "subfolder": "", "type": "temp"
    }  # fmt: skip


def test_pixels_round_trip_as_comfyui_stores_them(tmp_path: Path):
    values = torch.tensor([-1.0, 0.0, 0.4999, 1.0, 9.0]).reshape(1, 1, 5, 1).expand(-1, -1, -1, 3)
    (entry,) = save_images(values, "a", tmp_path, {})
    image, mask = load_image(entry["filename"], tmp_path)
    assert torch.equal((image[0, 0, :, 0] * 255).round(), torch.tensor([0.0, 0, 127, 255, 255]))
    assert mask.shape == (1, 64, 64)
    assert not mask.any()


@pytest.mark.parametrize(
    "prefix", ["../a", "sub/../../a", "/etc/a", "", ".", "..", "a/..", "link/a", "a\0b"]
)
def test_prefix_outside_of_the_folder_is_refused(tmp_path: Path, prefix: str):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"filename_prefix .* output folder"):
        save_images(torch.zeros(1, 2, 2, 3), prefix, folder, {})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch, error: BaseException):
    def half(self, file, *args, **options):
        Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(type(error)):
        save_images(torch.zeros(1, 2, 2, 3), "a", tmp_path, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((1, 2, 2, 3), float("nan")), "NaN"),
        (torch.zeros(2, 2, 3), "shape"),
        (torch.zeros(1, 2, 2, 2), "shape"),
        (torch.zeros(0, 2, 2, 3), "shape"),
    ],
)
def test_impossible_images_are_refused(tmp_path: Path, tensor: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        save_images(tensor, "a", tmp_path, {})
    assert os.listdir(tmp_path) == []


def test_mask_is_one_minus_alpha(tmp_path: Path):
    Image.new("RGBA", (3, 2), (255, 0, 0, 51)).save(tmp_path / "a.png")
    image, mask = load_image("a.png [input]", tmp_path)
    assert image.shape == (1, 2, 3, 3)
    torch.testing.assert_close(mask, torch.full((1, 2, 3), 0.8))


def test_frames_and_16_bit(tmp_path: Path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image("a.gif", tmp_path)[0].shape == (2, 2, 3, 3)
    Image.new("I;16", (3, 2), 32768).save(tmp_path / "b.png")
    assert load_image("b.png", tmp_path)[0].mean().item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "outside of the input folder"),
        ("link.png", "outside of the input folder"),
        ("none.png", "there is no image"),
        ("text.png", "cannot read the image"),
        ("cut.png", "cannot read the image"),
    ],
)
def test_load_image_is_confined_and_clear(tmp_path: Path, name: str, message: str):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes((tmp_path / "secret.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=message):
        load_image(name, folder)


def test_limits_are_what_the_messages_say():
    assert (png_text.TEXT_LIMIT, workflow.JSON_LIMIT) == (32 * 2**20, 32 * 2**20)
