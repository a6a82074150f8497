import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from egoloom.cli.main import run_verb
from egoloom.errors import UserError
from egoloom.report import write_report
from egoloom.report.figures import pareto_front
from egoloom.report.mixtures import mixture_rows
from egoloom.report.numbers import format_value, read_figure


@pytest.fixture
def run(tmp_path: Path) -> Path:
    metrics = {
        "source": "built-in <kitchen>",
        "num_clips": 24,
        "recognition": {
            "rgb_labels": {"top1": 0.375, "ece": 0.21},
            "student": {"top1": 0.5, "top1_ci95": [0.3125, 0.6875], "ece": 0.08, "num_clips": 24},
            "teacher": {"top1": {"value": 0.75, "low": 0.6, "high": 0.9}},
        },
        "exo2ego": {"prior_psnr_db": 13.37, "generated_psnr_db": float("nan")},
        "export": {"max_abs_diff": 2.5e-6, "latency_ms": 3.21},
        "num_generated_clips": 4,
        "augmentation": {
            "about": "3 labels, 2 seeds",
            "cells": [
                {"setting": "s", "treatment": "ego_only", "mean": 0.25, "ci95": None, "metrics": {}},
                {
                    "setting": "s",
                    "treatment": "generated",
                    "mean": 0.3125,
                    "ci95": [-0.25, 0.875],
                    "metrics": {"num_added": {"mean": 72.0}},
                },
                {"setting": "s", "treatment": "broken", "mean": "?"},
            ],
            "gains": [
                {"setting": "s", "treatment": "generated", "compared_with": other, "mean": mean, "ci95": limits}
                for other, mean, limits in (("raw_exo", 0.9, None), ("ego_only", 0.0625, [-0.1, 0.2]))
            ],
        },
        "seconds_per_stage": {"train": 30.0, "distill": 61.5, "total": 91.5},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "config.yaml").write_text("seed: 7\nname: <b>bold</b>\n")
    (tmp_path / "environment.json").write_text('{"python": "3.11"}')
    inputs = tmp_path / "report"
    for folder in ("reliability", "confusion", "history", "strips"):
        (inputs / folder).mkdir(parents=True)
    (inputs / "notes.json").write_text('["Simulated data", "Simulated data"]')
    bins = [{"confidence": 0.3, "accuracy": 0.2, "count": 4}, {"confidence": 0.9, "accuracy": 0.8, "count": 20}]
    (inputs / "reliability" / "student.json").write_text(json.dumps({"bins": bins, "ece": 0.1}))
    (inputs / "confusion" / "student.json").write_text(
        json.dumps({"matrix": [[3, 1], [0, 4]], "class_names": ["a", "b"]})
    )
    rows = [json.dumps({"step": step, "loss": 1 / (step + 1)}) for step in range(5)]
    (inputs / "history" / "student.jsonl").write_text("\n".join(rows) + '\n{"step": 5, "lo')
    cv2.imwrite(str(inputs / "strips" / "take.png"), np.full((8, 32, 3), 90, np.uint8))
    (inputs / "strips" / "strips.json").write_text('{"take.png": "exo | prior | generated | truth"}')
    return tmp_path


class Links(HTMLParser):
    """Collects whatever a browser would fetch, and the text of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset"} and not (value or "").startswith(("data:", "#")):
                self.fetched.append(f"{tag} {value}")
            if name == "id":
                self.ids.append(value or "")
        if tag in {"script", "iframe", "object", "link"}:
            self.fetched.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def parsed(path: Path) -> tuple[Links, str]:
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links, re.sub(r"\s+", " ", " ".join(links.text))


def test_report_shows_the_numbers_and_loads_nothing(run):
    path = write_report(run)
    assert path == run / "report.html"
    links, text = parsed(path)
    assert links.fetched == []
    assert "url(http" not in path.read_text()
    assert "@import" not in path.read_text()
    for shown in ("50.0 %", "31.2 % – 68.8 %", "37.5 %", "75.0 %", "60.0 % – 90.0 %", "13.4", "2.5e-06", "61.5 s"):
        assert shown in text, shown
    assert text.count("Simulated data") == 1
    assert "built-in <kitchen>" in text  # escaped in the source, literal for the reader
    assert "<b>bold</b>" in text


def test_a_browser_shows_the_page(run, tmp_path):
    """Chromium lays the page out: nothing is wider than the window, every picture is decoded, the numbers are there."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("Chromium is not installed")
    page = tmp_path / "measured.html"
    measure = """<script>addEventListener("load", () => { document.title = JSON.stringify({
        overflow: document.documentElement.scrollWidth - innerWidth,
        broken: [...document.images].filter(i => !i.naturalWidth).length,
        pictures: document.images.length}) })</script>"""
    page.write_text(write_report(run).read_text(encoding="utf-8").replace("</head>", measure + "</head>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(re.search(r"<title>(.*?)</title>", shown).group(1))
    assert found["overflow"] <= 0
    assert found["pictures"] >= 1
    assert found["broken"] == 0
    assert "50.0" in shown


def test_the_small_experiment_is_shown_as_small_with_gains_over_recorded_clips(run):
    _, text = parsed(write_report(run))
    assert "This is a small run: 3 labels, 2 seeds." in text
    # An interval over seeds is cut at what an accuracy can be; a gain is that over recorded clips alone.
    assert "+ generated ego clips 72 31.2 % 0.0 % – 87.5 % +6.2 -10.0 – +20.0" in text
    assert "Recorded ego clips alone – 25.0 % –" in text
    assert "broken" not in text


@pytest.mark.parametrize("damaged", [None, [], {"cells": 3}, {"cells": [3, {"mean": float("nan")}], "gains": [3]}])
def test_a_damaged_experiment_is_left_out(damaged):
    assert mixture_rows(damaged) == []


def test_svg_ids_are_unique_in_the_page(run):
    links, _ = parsed(write_report(run))
    assert len(links.ids) == len(set(links.ids)) > 10


def test_report_is_deterministic_but_for_its_date(run):
    def without_date(path):
        return re.sub(r"Written \d.*?UTC", "", path.read_text())

    assert without_date(write_report(run)) == without_date(write_report(run))


def test_absent_sections_are_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text('{"recognition": {"student": {"top1": 0.25}}}')
    _, text = parsed(write_report(tmp_path))
    assert "25.0 %" in text
    for absent in ("From exo to ego", "Calibration error", "On the device", "Where the time went", "Configuration"):
        assert absent not in text


def test_damaged_inputs_become_notices(run):
    (run / "metrics.json").write_text('{"recognition": ')
    (run / "report" / "reliability" / "student.json").write_text(
        '{"bins": [{"confidence": "x", "accuracy": 1, "count": 1}]}'
    )
    (run / "report" / "confusion" / "student.json").write_text('{"matrix": [[1, 2]]}')
    _, text = parsed(write_report(run))
    assert "metrics.json could not be read" in text


def test_not_a_run_folder(tmp_path):
    (tmp_path / "holiday.txt").write_text("sun")
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_verb_prints_the_path(run, capsys):
    run_verb(["report", str(run)])
    assert str(run / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    "section",
    [
        {"top1": {"value": 0.5, "low": 0.4, "high": 0.6}},
        {"top1": {"mean": 0.5, "ci95": [0.4, 0.6]}},
        {"top1": 0.5, "top1_ci": [0.4, 0.6]},
        {"top1": 0.5, "top1_low": 0.4, "top1_high": 0.6},
        {"top1": 0.5, "ci95": {"top1": [0.4, 0.6]}},
    ],
)
def test_intervals_in_every_spelling(section):
    figure = read_figure(section, "top1")
    assert figure is not None
    assert (figure.value, figure.low, figure.high) == (0.5, 0.4, 0.6)


def test_values_as_people_read_them():
    assert format_value("top1", 0.4567) == "45.7 %"
    assert format_value("ece", 0.0712) == "0.071"
    assert format_value("num_clips", 12345) == "12,345"
    assert format_value("max_abs_diff", 3e-6) == "3.0e-06"
    assert format_value("psnr", float("nan")) == "–"
    assert format_value("x", None) == "–"


def test_pareto_front_drops_what_is_slower_and_worse():
    rows = [
        {"name": "a", "latency_ms": 1, "top1": 0.3},
        {"name": "b", "latency_ms": 2, "top1": 0.2},
        {"name": "c", "latency_ms": 3, "top1": 0.5},
        {"name": "d", "latency_ms": 3, "top1": 0.4},
    ]
    assert [row["name"] for row in pareto_front(rows)] == ["a", "c"]
