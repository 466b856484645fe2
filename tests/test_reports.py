"""What nodes tell after a run, for their panels on the page: text, and pictures of bounded length; words on a sheet."""

from __future__ import annotations

import ast
import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from node_calls import NODES, one
from PIL import Image

from sampling_kit.nodes.image.images import with_errors
from sampling_kit.schedulers.show.data_uri import LIMIT, data_uri, gallery

PACK = Path(__file__).resolve().parents[1]
NOISE = torch.rand(1, 900, 1500, 3, generator=torch.Generator().manual_seed(0))


def decoded(uri: str) -> np.ndarray:
    kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/]+={0,2})", uri).groups()
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.format.lower() == kind
        return np.asarray(picture.convert("RGB")) / 255


def test_a_picture_comes_back_from_its_text():
    picture = torch.zeros(40, 60, 3)
    picture[:20, :, 0] = 1
    assert np.array_equal(decoded(data_uri(picture)), picture.numpy())
    assert np.array_equal(decoded(data_uri(picture[None])), picture.numpy())


@pytest.mark.parametrize(
    "picture", [NOISE, NOISE[:, :3, :1500], NOISE.reshape(1, -1, 2, 3)[:, :5000]]
)
def test_a_picture_is_small_whatever_it_is(picture):
    uri = data_uri(picture)
    assert len(uri) <= LIMIT and decoded(uri).mean() == pytest.approx(0.5, abs=0.05)
    assert len(data_uri(picture, 20_000)) <= 20_000


def test_a_gallery_shows_the_first_of_a_batch():
    assert gallery(torch.ones(40, 8, 8, 3)).shape == (1, 4 * 132 + 4, 4 * 132 + 4, 3)
    assert gallery(torch.ones(1, 300, 200, 3)).shape == (1, 308, 208, 3)


def returns_report(node: type) -> bool:
    tree = ast.parse(
        (PACK / Path(*node.__module__.split(".")[1:]))
        .with_suffix(".py")
        .read_text(encoding="utf-8")
    )
    (body,) = [
        c for c in ast.walk(tree) if isinstance(c, ast.ClassDef) and c.name == node.__name__
    ] or [tree]
    names = {
        n.func.id
        for n in ast.walk(body)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    return bool(names & {"report_on_page", "_report"}) and isinstance(body, ast.ClassDef)


def test_every_node_that_reports_has_a_panel():
    """web/js/results.js: every output node, and those it lists."""
    listed = re.search(
        r"ALSO = new Set\(\[(.*)\]\)", (PACK / "web/js/results.js").read_text(encoding="utf-8")
    )[1]
    also = set(re.findall(r'"(\w+)"', listed))
    reports = {name: node for name, node in NODES.items() if returns_report(node)}
    assert len(reports) >= 15
    without = {name for name, node in reports.items() if not node.define_schema().is_output_node}
    assert without <= also and {"SamplingKitFittedSolver"} <= without


def test_a_sheet_says_how_far_its_rows_are_from_a_batch():
    exact = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    off = exact + torch.tensor([0.0, 0.0, 0.25]).view(
        3, 1, 1, 1
    )  # the last picture, the second row
    found = with_errors(["a", "", "b"], [exact, off, exact[:2]], exact, 1, 2)
    assert found == ["a", "", "b\nRMSE 0", "RMSE 0.25", "RMSE 0"]
    sheet = dict(images=exact, images_2=off, columns=3, scale=4, gap=6)
    assert one("ImageSheet", **sheet, reference=1).shape[2] > one("ImageSheet", **sheet).shape[2]
    with pytest.raises(
        ValueError, match="reference = 3: no batch is connected there; connect images_3"
    ):
        one("ImageSheet", **sheet, reference=3)


def test_a_sheet_has_words_beside_its_rows_and_above_its_columns():
    pictures = torch.zeros(4, 8, 8, 3)
    plain = one("ImageSheet", images=pictures, columns=2, scale=4, gap=6)
    sheet = one(
        "ImageSheet",
        images=pictures,
        columns=2,
        scale=4,
        gap=6,
        row_labels="first;a $b / c",
        column_labels="x;y",
    )
    height, width = plain.shape[1:3]
    assert sheet.shape[1] > height + 10 and sheet.shape[2] > width + 40
    assert torch.equal(sheet[:, -height:, -width:], plain)
    left, top = sheet[0, :, : sheet.shape[2] - width, 0], sheet[0, : sheet.shape[1] - height, :, 0]
    middle = sheet.shape[1] - height + height // 2
    assert left[:middle].min() < 0.5 > left[middle:].min() and top.min() < 0.5
    assert (
        one("ImageSheet", images=pictures, columns=2, scale=4, gap=6, row_labels=" ").shape
        == plain.shape
    )
    few = dict(images=pictures, columns=1, scale=4, gap=6)
    assert torch.equal(  # a batch that became smaller
        one("ImageSheet", **few, column_labels="a;b"), one("ImageSheet", **few, column_labels="a")
    )
