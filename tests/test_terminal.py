"""What strangers wrote reaches the terminal as text only."""

from __future__ import annotations

import ast
import io
import json
import logging
import unicodedata
import warnings
from pathlib import Path

import pytest
import trees
from click.testing import CliRunner

from sampling_kit.headless import bars, terminal_text
from sampling_kit.headless.cli import main
from sampling_kit.headless.reproduce import Verdict
from sampling_kit.schedulers.printable import STAND_IN, one_line, printable

PACK = Path(__file__).resolve().parents[1]
#: Window title, clipboard, cursor up and a forged line, C1, carriage return, marks of direction, tags, half a pair.
NASTY = "a\x1b]0;title\x07\x1b]52;c;eA==\x1b\\\x1b[2A\x9b31m\rError: forged\u202egnp.exe\u2066\u200f\U000e0041\ud800\x7f\x00"


def harmless(text: str) -> bool:
    return all(c in "\n\t" or c.isprintable() for c in text)


def test_every_character_that_does_something_is_replaced():
    for code in range(0x110000):
        char = chr(code)
        shown = printable(char)
        assert harmless(shown), hex(code)
        if unicodedata.category(char)[0] in "LMNPS" or char in " \n\t":
            assert shown == char, hex(code)


def test_a_line_stays_a_line():
    assert one_line("a\nError: b\tc\r\nd") == "a Error: b c d"
    assert printable("日本 é\n\tx") == "日本 é\n\tx"
    assert printable("a\rb") == f"a{STAND_IN}b" and printable("a\r\nb") == "a\nb"
    assert printable("नी\u200dx") == "नीx" and printable("1\u00a0MB") == "1 MB"
    assert harmless(printable(NASTY)) and "\x1b" not in one_line(NASTY)


def test_messages_of_several_lines_cannot_pose_as_others(capsys):
    terminal_text.say_error("first\nError: second\n       third")
    assert capsys.readouterr().err == "Error: first\n       Error: second\n       third\n"
    terminal_text.say(NASTY)
    assert harmless(capsys.readouterr().out)


@pytest.fixture
def call():
    def run(*args: object):
        return CliRunner().invoke(main, list(map(str, args)))

    return run


def written(path: Path, graph: object) -> Path:
    path.write_text(json.dumps(graph))
    return path


def test_titles_texts_and_errors_of_a_workflow(tmp_path, call, monkeypatch):
    show = {
        "class_type": "PreviewAny",
        "inputs": {"source": {"__value__": NASTY + "\nError: forged"}},
        "_meta": {"title": NASTY + "\nError: forged"},
    }
    monkeypatch.chdir(tmp_path)
    ran = call("run", written(tmp_path / "a.json", {"1": show}))
    assert ran.exit_code == 0, ran.output
    assert "forged" in ran.stderr and harmless(ran.stderr)
    assert not any(line.startswith("Error") for line in ran.stderr.splitlines())
    wrong = {NASTY: {"class_type": NASTY, "inputs": {}, "_meta": {"title": NASTY}}}
    refused = call("check", written(tmp_path / "b.json", wrong))
    assert refused.exit_code == 2 and harmless(refused.stderr)
    assert refused.stderr.count("\n") == 1
    named = call("run", written(tmp_path / "c.json", {"1": show}), "--set", "x.y=1")
    assert named.exit_code == 2 and harmless(named.stderr)


def test_a_report_of_verify():
    verdict = Verdict(
        9, False, False, {f"plan\n{NASTY}": ({"a": 1}, NASTY + "\nfile.png: reproduces")}
    )
    assert str(verdict).count("\n") == 1 and harmless(str(verdict))


def test_bars(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    with bars.node_bars(lambda node: NASTY) as report:
        report("1", 1, 2)
    with bars.stage_bars() as begin:
        begin(NASTY)(1, NASTY)
    assert "forged" in shown.getvalue()
    assert "\x1b]" not in shown.getvalue() and "\u202e" not in shown.getvalue()


def test_what_libraries_log_and_warn_of(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(logging.getLogger("strange"), "propagate", False)
    with terminal_text.foreign_text_made_plain():
        logging.getLogger("strange").warning("%s", NASTY)
        assert harmless(warnings.formatwarning(NASTY, UserWarning, "f", 1))
    assert "forged" in shown.getvalue() and harmless(shown.getvalue())
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        terminal_text.print_traceback(type(error), error, error.__traceback__)
    assert harmless(shown.getvalue())


def test_nothing_else_of_the_command_prints():
    offences = []
    for file in sorted((PACK / "headless").rglob("*.py")):
        if file.name == "terminal_text.py":
            continue
        for node in trees.nodes(file):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "click.echo", "click.secho", "click.style", "tqdm.write") or (
                called.startswith(("sys.stdout.", "sys.stderr."))
                and not called.endswith(("isatty", "fileno", "flush"))
            ):
                offences.append(f"{file.relative_to(PACK)}:{node.lineno} calls {called}")
    assert not offences, "\n".join(offences)
