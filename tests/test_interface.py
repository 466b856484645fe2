"""Saved workflows keep opening: the nodes are what the snapshot says, and how they differ from a frozen version is
written in CHANGELOG.md and breaks nothing."""

import copy
import json

import pytest
from click.testing import CliRunner

from sampling_kit.dev import interface as kept
from sampling_kit.headless.cli import main
from sampling_kit.headless.context import Context, use
from sampling_kit.nodes import NODES
from sampling_kit.nodes.host.alone import io

NOW = kept.interface()
FROZEN = {version: kept.frozen(version) for version in kept.versions()}
SINCE = {version: kept.changes(nodes, NOW) for version, nodes in FROZEN.items()}
CHANGELOG = (kept.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
NEXT = """
A saved workflow relies on this. If it is meant:
1. python -m sampling_kit.dev.sync writes the snapshot, and names in CHANGELOG.md what is new and breaks nothing;
2. what breaks old workflows: rather keep it (a new input is optional and comes last; a value, a node stays), or
   migrate them, name them in CHANGELOG.md, and enter the test that shows it in dev/interface.py, MIGRATED.
"""


def lines(changes):
    return "\n".join(map(str, changes)) + NEXT


# ------------------------------------------------------------------------------- the nodes as they are


def test_the_snapshot_is_the_nodes():
    committed = kept.CURRENT.read_text(encoding="utf-8")
    changed = kept.changes(json.loads(committed), NOW)
    assert not changed, "the nodes differ from the snapshot:\n" + lines(changed)
    assert committed == kept.text(NOW), "order or layout of the snapshot" + NEXT


def test_the_changelog_names_every_change_since_the_last_frozen_version():
    version = kept.versions()[-1]
    silent = kept.unnamed(SINCE[version], CHANGELOG, version)
    assert not silent, f"no entry above {version} in CHANGELOG.md names:\n" + lines(silent)


@pytest.mark.parametrize("version", FROZEN)
def test_nothing_breaks_the_workflows_of_a_frozen_version(version):
    broken = [c for c in SINCE[version] if c.breaks and c.name not in kept.MIGRATED]
    assert not broken, f"workflows saved with {version} break:\n" + lines(broken)


def test_what_is_migrated_breaks_and_has_its_test():
    breaking = {change.name for since in SINCE.values() for change in since if change.breaks}
    assert set(kept.MIGRATED) <= breaking
    for test in kept.MIGRATED.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (kept.ROOT / "tests" / file).read_text(encoding="utf-8")


OLD = [(version, name) for version in FROZEN for name in kept.workflows(version)]


@pytest.mark.some(12)
@pytest.mark.parametrize(("version", "name"), OLD, ids=lambda part: part)
def test_the_workflows_of_a_frozen_version_are_valid(tmp_path, version, name):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(kept.workflows(version)[name]), encoding="utf-8")
    checked = CliRunner().invoke(main, ["check", str(path)])
    assert checked.exit_code == 0, checked.output


def test_there_is_a_frozen_version_with_its_workflows():
    assert "0.1.0" in FROZEN and len(OLD) >= 30
    assert set(FROZEN["0.1.0"]) >= {"SamplingKitSteps", "SamplingKitDDIM", "SamplingKitGuider"}


# ------------------------------------------------------------------------------------- what it holds


def test_folders_do_not_show_in_it(tmp_path):
    """What lies in models/ is not the interface; each input that is left out for it does follow it."""
    tiny = kept.ROOT / "embedded" / "diffusers" / "tiny-cogvideox"
    models = tmp_path / "models"
    (models / "diffusers").mkdir(parents=True)
    (models / "diffusers" / "mine").symlink_to(tiny, target_is_directory=True)
    for kind in ("diffusion_models", "solvers"):
        (models / kind).mkdir()
        (models / kind / "mine.safetensors").write_bytes(b"")

    def raw():
        infos = {n.define_schema().node_id: io.object_info(n)["input"] for n in NODES}
        return {name: read(infos, *name.split(".")) for name in kept.FROM_FOLDERS}

    def read(infos, node, input):
        return next(group[input] for group in infos[node].values() if input in group)

    before = raw()
    with use(Context(tmp_path, tmp_path, tmp_path, "cpu", None, {}, None, models=models)):
        assert kept.interface() == NOW
        after = raw()
    assert {name for name in after if after[name] == before[name]} == set()


def test_every_node_and_every_input_is_in_it():
    assert list(NOW) == sorted(node.define_schema().node_id for node in NODES)
    for node in NODES:
        schema = node.define_schema()
        top = [
            path for path in NOW[schema.node_id]["inputs"] if "[" not in path and "." not in path
        ]
        assert sorted(top) == sorted(item.id for item in schema.inputs)
        assert NOW[schema.node_id]["outputs"] == [output.io_type for output in schema.outputs]
    spacing = NOW["SamplingKitSteps"]["inputs"]
    assert spacing["spacing[karras].rho"][1]["default"] == 7
    assert "tooltip" not in json.dumps(NOW)


def test_the_text_is_the_interface_a_line_per_input():
    written = kept.text(NOW)
    assert json.loads(written) == NOW
    inputs = sum(len(node["inputs"]) for node in NOW.values())
    assert sum('": ["' in line for line in written.splitlines()) >= inputs


# ------------------------------------------------------------------------------------- what it notices

NODE = "SamplingKitSteps"


def put(inputs, path, spec, last=True):
    """The inputs with one more, last or first."""
    return {**inputs, path: spec} if last else {path: spec, **inputs}


def fact(path, **facts):
    def change(node):
        for name, value in facts.items():
            node["inputs"][path][1].pop(name, None)
            if value is not None:
                node["inputs"][path][1][name] = value

    return change


def inputs(change):
    def changed(node):
        node["inputs"] = change(node["inputs"])

    return changed


EXTRA = ["INT", {"optional": True, "default": 1}]
CASES = {
    # name: (what is done to Steps, what the change is called, whether it breaks)
    "an input goes": (inputs(lambda i: {k: v for k, v in i.items() if k != "denoise"}), "denoise", True),
    "another type": (inputs(lambda i: {**i, "steps": ["FLOAT", i["steps"][1]]}), "steps", True),
    "more types": (inputs(lambda i: {**i, "noise_schedule": ["NOISE_SCHEDULE,MODEL", {}]}), "noise_schedule", False),
    "a lower maximum": (fact("steps", max=50), "steps", True),
    "a higher maximum": (fact("steps", max=10**6), "steps", False),
    "no minimum": (fact("steps", min=None), "steps", False),
    "a higher minimum": (fact("steps", min=2), "steps", True),
    "another default of a required input": (fact("steps", default=21), "steps", False),
    "a value goes": (fact("final", options=["zero"]), "final", True),
    "a value comes": (fact("final", options=["zero", "sigma_min", "x"]), "final", False),
    "values in another order": (fact("final", options=["sigma_min", "zero"]), "final", False),
    "a step of the arrows": (fact("denoise", step=0.5), "denoise", False),
    "hidden among the advanced": (fact("steps", advanced=True), "steps", False),
    "a widget more behind": (fact("steps", control_after_generate=True), "steps", True),
    "an optional input at the end": (inputs(lambda i: put(i, "extra", EXTRA)), "extra", False),
    "a required input": (inputs(lambda i: put(i, "extra", ["INT", {"default": 1}])), "extra", True),
    "a required input of a choice": (inputs(lambda i: put(i, "spacing[karras].extra", ["INT", {}])), "spacing[karras].extra", True),
    "an output at the end": (lambda n: n.update(outputs=["SIGMAS", "INT"]), "outputs", False),
    "an output before": (lambda n: n.update(outputs=["INT", "SIGMAS"]), "outputs", True),
    "no output": (lambda n: n.update(outputs=[]), "outputs", True),
    "an output node": (lambda n: n.update(output_node=True), "", False),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_noticed(case):
    change, name, breaks = CASES[case]
    new = copy.deepcopy(NOW)
    change(new[NODE])
    (found,) = kept.changes(NOW, new)
    assert (found.node, found.input, found.breaks) == (NODE, name, breaks), found
    assert found.name in str(found)


def test_a_moved_input_breaks_what_is_saved_by_position():
    new = copy.deepcopy(NOW)
    new[NODE]["inputs"] = put(new[NODE]["inputs"], "extra", EXTRA, last=False)
    assert [c.breaks for c in kept.changes(NOW, new)] == [False, True]
    held = list(NOW[NODE]["inputs"].items())
    at = [path for path, _ in held].index("denoise")
    new[NODE]["inputs"] = dict([held[at], *held[:at], *held[at + 1 :]])
    (found,) = kept.changes(NOW, new)
    assert found.breaks and "go to the end" in found.text


def test_a_choice_with_inputs_of_its_own_may_come():
    new = copy.deepcopy(NOW)
    held = new[NODE]["inputs"]
    held["spacing"][1]["options"].append("mine")
    held["spacing[mine].power"] = ["FLOAT", {"default": 1.0}]
    assert [c.breaks for c in kept.changes(NOW, new)] == [False, False]


def test_a_new_widget_inside_of_a_choice_moves_those_behind_the_choice():
    """The editor saves widgets as a list: what was saved for the next one would go to the new one."""
    new = copy.deepcopy(NOW)
    inputs = new[NODE]["inputs"]
    at = list(inputs).index("spacing[karras].rho") + 1
    held = list(inputs.items())
    new[NODE]["inputs"] = dict([*held[:at], ("spacing[karras].more", EXTRA), *held[at:]])
    assert [c.breaks for c in kept.changes(NOW, new)] == [False, True]


def test_the_default_of_what_a_prompt_may_leave_out_is_part_of_it():
    new = copy.deepcopy(NOW)
    new["SamplingKitDDIM"]["inputs"]["eta"][1]["default"] = 0.5
    (found,) = kept.changes(NOW, new)
    assert found.breaks and "0.0 → 0.5" in found.text


def test_nodes_come_and_go():
    new = copy.deepcopy(NOW)
    del new[NODE]
    new["SamplingKitNew"] = NOW[NODE]
    gone, added = kept.changes(NOW, new)
    assert (gone.name, gone.breaks, added.name, added.breaks) == (
        NODE,
        True,
        "SamplingKitNew",
        False,
    )


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("- `SamplingKitSteps`: denoise may be 2", True),
        ("- SamplingKitSteps has a longer\n  text about **denoise**.", True),
        ("- `SamplingKitSteps`: something", False),
        ("- `SamplingKitStepsToo`: denoise", False),
        ("- `SamplingKitSteps`: something\n- denoise", False),
        ("\n## 1.0\n- `SamplingKitSteps`: denoise", False),
    ],
)
def test_an_entry_of_the_changelog_names_node_and_input(entry, named):
    change = kept.Change(NODE, "denoise", "max", False)
    log = f"# Changelog\n\n## Unreleased\n\n{entry}\n\n## 1.0\n\n- `SamplingKitSteps`: denoise\n"
    assert kept.unnamed([change], log, "1.0") == ([] if named else [change])


def test_versions_are_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    for name in ("0.10.0", "0.9.1", "current", "workflows-0.9.1"):
        (tmp_path / f"{name}.json").write_text("{}", encoding="utf-8")
    assert kept.versions() == ["0.9.1", "0.10.0"]
    kept.freeze("1.0")
    assert kept.frozen("1.0") == NOW and "ddim-eta" in kept.workflows("1.0")
