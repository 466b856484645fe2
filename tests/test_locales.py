"""Help, tooltips and translations are complete and in step with the nodes; tutorial, examples and blueprints hold together."""

import json
import re
from pathlib import Path

import pytest

from sampling_kit.dev import help_pages, locales, sync
from sampling_kit.dev.translations import LANGUAGES, PARTLY, ROOT, Translation
from sampling_kit.nodes import NODES
from sampling_kit.nodes.host.alone import io

PACK = ROOT.parent
SCHEMAS = {node.define_schema().node_id: node.define_schema() for node in NODES}
AGAIN = "run: python -m sampling_kit.dev.sync"
#: Need a folder or file that does not ship.
WITHOUT_EXAMPLE = {"SamplingKitDiffusersClass", "SamplingKitGridCell", "SamplingKitGridSheet"}


def inputs(items):
    for item in items:
        yield item
        for option in item.extra.get("options") or ():
            if isinstance(option, io.Option):
                yield from inputs(option.inputs)


def test_every_input_and_output_has_a_tooltip():
    bare = [(n, i.id) for n, s in SCHEMAS.items() for i in inputs(s.inputs) if not i.tooltip]
    bare += [(n, o.display_name) for n, s in SCHEMAS.items() for o in s.outputs if not o.tooltip]
    assert not bare


def test_every_help_page_says_what_when_and_where():
    assert not [name for name, schema in SCHEMAS.items() if len(schema.description) <= 40]
    pages = {node.define_schema().node_id: help_pages.page(node) for node in NODES}
    written = {name for name, help in help_pages.help_texts().items() if help.when}
    without = {name for name in written if "## Example" not in pages[name]}
    assert without <= WITHOUT_EXAMPLE


def test_solvers_and_rules_have_a_formula_a_reference_and_their_other_names():
    for schema in SCHEMAS.values():
        if schema.category == "Sampling Kit/solver":
            told = (
                help_pages.help_texts().get(schema.node_id, help_pages.Help()).formula
                + schema.description
            )
            assert "=" in told or "→" in told or "∫" in told, schema.node_id
            assert "Elsewhere: " in schema.description and "Reference: " in schema.description


def test_no_help_is_left_over():
    assert set(help_pages.help_texts()) <= set(SCHEMAS)


@pytest.mark.release
def test_everything_is_translated_and_every_help_is_written():
    assert not sync.unfinished()


def test_what_is_not_translated_stays_english():
    assert Translation({}, {}).text("When to use it") == "When to use it"
    toy = NODES[0].define_schema().display_name
    assert f"# {toy}\n" in help_pages.page(NODES[0], Translation({}, {}))


def test_the_generated_files_are_in_step():
    for path, text in locales.files().items():
        assert path.read_text(encoding="utf-8") == text, AGAIN


def test_translated_help_pages_are_in_step():
    made = help_pages.pages()
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, AGAIN
    assert set(help_pages.FOLDER.rglob("*.md")) == set(made)


def test_chinese_is_chinese():
    """Names may be symbols or proper names; a sentence has to be translated."""
    translation = Translation.of("zh")
    for english, own in translation.texts.items():
        if len(english) > 25 and " " in english and not english.startswith(("[{", "{")):
            assert re.search("[\u4e00-\u9fff]", own), english
            assert not re.search("[\u4e00-\u9fff] ?[,;?!]", own), f"half-width punctuation: {own}"


SCRIPTS = {"ja": "[\u3040-\u30ff]", "ko": "[\uac00-\ud7a3]"}
SPANISH = re.compile(r"\b(el|la|los|las|un|una|de|del|con|que|en|para|por|y|se|su)\b", re.I)
MOST_USED = {
    "Sample (Sampling Kit)", "Noise Schedule", "Noise Schedule from Model", "Steps", "Guider", "CFG Guidance", "Fit Solver", "Image Sheet",
}  # fmt: skip


@pytest.mark.parametrize("language", PARTLY)
def test_names_and_descriptions_are_in_their_language(language):
    """Not English copied: of nine nodes in ten a name, of 25 or more a description; the rest is left out, not in English."""
    told = json.loads((ROOT / language / "strings.json").read_text(encoding="utf-8"))
    titles = {node.define_schema().display_name for node in NODES}
    assert (
        len(titles - told["names"].keys()) <= len(titles) / 10
    )  # proper names, and the newest nodes
    assert len(told["descriptions"]) >= 25 and told["descriptions"].keys() >= MOST_USED
    for english, text in told["descriptions"].items():
        if language in SCRIPTS:
            letters = re.findall(r"[^\W\d_]", text)
            assert len(re.findall(SCRIPTS[language], text)) > 0.2 * len(letters), (english, text)
        else:
            assert len(SPANISH.findall(text)) >= 4, (english, text)
    same = [name for name, text in told["names"].items() if name == text]
    assert not same
    for english, text in told["names"].items():
        if language in SCRIPTS and not re.search("[\u4e00-\u9fff]", text):
            assert re.search(SCRIPTS[language], text), (english, text)


def test_what_a_partly_translated_language_lacks_is_left_to_the_page():
    made = json.loads((ROOT / "ja" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert made["SamplingKitSteps"].keys() == {"display_name", "description"}
    assert made["SamplingKitEditLevels"].keys() == {"display_name"}


def test_translations_keep_references_and_symbols():
    """arXiv numbers, years and α, σ, κ, λ, η of the English text are in the other one too."""
    for english, own in Translation.of("zh").texts.items():
        for kept in (r"\d{4}\.\d{5}", r"\b(?:19|20)\d{2}\b", r"[αβγζηκλμρστφ]"):
            assert set(re.findall(kept, english)) <= set(re.findall(kept, own)), (english, own)


def test_a_missing_and_a_stale_string_are_named(monkeypatch):
    translation, before = Translation.of("zh"), locales.problems("zh")
    gone = "How the levels are spread over the schedule."
    texts = {k: v for k, v in translation.texts.items() if k != gone} | {"no node says this": "无"}
    monkeypatch.setattr(
        Translation, "of", classmethod(lambda cls, language: cls(translation.names, texts))
    )
    new = [line for line in locales.problems("zh") if line not in before]
    assert [line.split(", ")[1] for line in new] == [
        f'texts: missing: "{gone}"',
        'texts: stale: "no node says this"',
    ]


def test_messages_show_the_syntax_of_vue_i18n_as_it_is():
    assert locales.message("|a − b| {x}") == "{'|'}a − b{'|'} {'{'}x{'}'}"


def test_a_name_of_one_node_goes_before_the_common_one():
    translation = Translation({"scale": "强度", "A.scale": "倍数"})
    assert (translation.name("scale", "A"), translation.name("scale", "B")) == ("倍数", "强度")
    assert translation.name("shift", "A") == "shift" and list(translation.missing) == [
        ("names", "shift")
    ]


def test_options_that_share_an_input_are_all_told():
    steps = locales.node_defs(Translation())["SamplingKitSteps"]["inputs"]
    assert steps["spacing_rho"]["tooltip"].startswith("ρ")
    shift = locales.node_defs(Translation())["SamplingKitNoiseSchedule"]["inputs"]["kind_sigma_max"]
    assert shift["name"] == "sigma_max" and shift["tooltip"]


# --------------------------------------------------------------------------- tutorial, blueprints

TUTORIAL = sorted((PACK / "example_workflows" / "api").glob("tutorial-*.json"))


def test_the_course_is_a_path_without_a_checkpoint():
    text = (PACK / "docs" / "course" / "index.md").read_text(encoding="utf-8")
    stems = [path.stem for path in TUTORIAL]
    assert [stem.split("-")[1] for stem in stems] == [str(i + 1) for i in range(len(stems))]
    assert len(stems) >= 5
    assert sorted(set(re.findall(r"tutorial-\d-[\w-]+(?=`)", text))) == stems
    for path in TUTORIAL:
        types = {n["class_type"] for n in json.loads(path.read_text(encoding="utf-8")).values()}
        assert "SamplingKitEmbeddedDenoiser" in types
        # a fit that ships is no checkpoint
        assert {t for t in types if "Load" in t} <= {"SamplingKitLoadFittedSolver"}


BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
PARTS = {"schedule", "guidance", "solver", "noise"}


def test_the_blueprints_are_there():
    names = ["Auto", "DDIM", "DDPM", "DPM++ 2M", "Euler", "Rectified Flow", "UniPC"]
    assert [p.stem for p in BLUEPRINTS] == names


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda p: p.stem)
def test_a_blueprint_is_one_node_that_opens_into_the_parts(path):
    """A malformed file here is an error message on every start of the page."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    (node,), (inside,) = saved["nodes"], saved["definitions"]["subgraphs"]
    assert node["type"] == inside["id"] and inside["name"] == node["title"] == path.stem
    sockets = [i["name"] for i in node["inputs"] if "widget" not in i]
    assert sorted(sockets) == ["latent_image", "model", "negative", "positive"]
    assert node["outputs"][0]["type"] == "LATENT"
    ids = {n["id"]: n["type"] for n in inside["nodes"]}
    kinds = {
        SCHEMAS[t].category.split("/")[-1] for t in ids.values() if t.startswith("SamplingKit")
    }
    if path.stem == "Auto":  # the parts are chosen when it runs
        assert [*ids.values()] == ["SamplingKitSample"]
    else:
        assert kinds >= PARTS and "SamplerCustomAdvanced" in ids.values()
    for link in inside["links"]:
        assert {link["origin_id"], link["target_id"]} <= {*ids, -10, -20}


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda p: p.stem)
def test_the_closed_node_holds_the_values_of_its_parts(path):
    """Where they disagree the frontend takes the closed node's, value by value in the order of its widgets."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    (node,), (inside,) = saved["nodes"], saved["definitions"]["subgraphs"]
    shown = [i["widget"]["name"] for i in node["inputs"] if "widget" in i]
    scale = "cfg" if path.stem == "Auto" else "scale"
    assert shown[:3] == ["steps", scale, "denoise"] and shown[-1] == "seed"
    assert "proxyWidgets" not in node["properties"]  # the older way, which counts them otherwise
    assert len(node["widgets_values"]) == len(shown) == len(node["widgets_values_named"])
    parts, links = ({e["id"]: e for e in inside[key]} for key in ("nodes", "links"))
    entries = {entry["name"]: entry for entry in inside["inputs"]}
    for name, value in zip(shown, node["widgets_values"], strict=True):
        (link,) = (links[i] for i in entries[name]["linkIds"])
        part = parts[link["target_id"]]
        widget = part["inputs"][link["target_slot"]]["widget"]["name"]
        assert widget == name
        assert value == node["widgets_values_named"][name] == part["widgets_values_named"][name]
    for part in parts.values():
        kept = part.get("widgets_values_named", {})
        assert [*kept.values()] == part.get("widgets_values", [])
        if schema := SCHEMAS.get(part["type"]):
            check_ranges(schema, kept)


def check_ranges(schema, values):
    """A value that the server refuses is an error in the user's first minute."""
    for item in (i for i in schema.inputs if i.id in values):
        low, high = item.extra.get("min"), item.extra.get("max")
        assert low is None or low <= values[item.id], (schema.node_id, item.id)
        assert high is None or values[item.id] <= high, (schema.node_id, item.id)


def test_the_folders_ship():
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
    for folder in ("locales/**/*", "subgraphs/*.json"):
        assert folder in text


def test_paths_are_where_the_host_looks():
    for language in ("en", *LANGUAGES, *PARTLY):
        assert json.loads((ROOT / language / "main.json").read_text(encoding="utf-8"))
    assert Path(help_pages.FOLDER).parts[-2:] == ("web", "docs")
