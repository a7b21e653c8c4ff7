"""The report is one well-formed file that fetches nothing, escapes everything and hides no loss."""

import base64
from html.parser import HTMLParser
import math
from pathlib import Path
import re

from matplotlib.figure import Figure
import pytest

from surrogate.core.types import UserError
from surrogate.run.report import write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """Checks nesting while it reads, and keeps text and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of place"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def parse(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def summary(key="z500", **more):
    return {
        "experiment": "climate", "status": "complete", "steps": 3000, "seconds": 412.0, "parameters": 1234567,
        "devices": "1 x cpu", "mesh": {"data": 1},
        "throughput": {"samples_per_s": 41.2, "step_ms": 388.0, "input_wait_fraction": 0.004,
                       "model_flops_per_s": 1.1e11, "peak_memory_bytes": 2.0 * 2**30},
        "scores": {"test": {key: {"rmse": {"P1D": 8.0, "P3D": 30.0, "P5D": math.nan}}}},
        "baselines": {"persistence": {key: {"rmse": {"P1D": 16.0, "P3D": 20.0, "P5D": 40.0}}},
                      "climatology": {key: {"rmse": {"P1D": 50.0, "P3D": 50.0}}}},
    } | more  # fmt: skip


PROVENANCE = {
    "command": "python -m surrogate.train +experiment=climate",
    "git": {"revision": "0123abc"},
    "packages": {"jax": "0.10.2"},
    "data_files": [{"path": "year.nc", "bytes": 123456, "sha256": "ab" * 32}],
    "seeds": [],
}


def picture(path, caption=None):
    Figure(figsize=(1, 1)).savefig(path, metadata={"Description": caption} if caption else {})
    return path


def test_report_is_well_formed_and_says_it_all(tmp_path):
    plot = picture(tmp_path / "skill_rmse.png", "RMSE – µ, surrogate & baselines")
    path = write_report(tmp_path / "report.html", summary(), [{"step": 1, "loss": 0.25}], [plot], "a: 1\n", PROVENANCE)
    page = parse(path)
    for text in (
        "RMSE is not below both baselines", "the forecast is not finite at 5 days", "persistence", "climatology",
        "8.00 ✓", "30.0 ✗", "NaN ✗", "RMSE – µ, surrogate & baselines", "python -m surrogate.train +experiment=climate",
        "a: 1", "0123abc", "ab" * 32, "123,456", "0.10.2", "41.2 samples/s", "110 GFLOP/s", "2.00 GiB", "0.4 %",
        "6 min 52 s", "1,234,567", "0.250", "sg.load(", 'lead_time="P5D"',
    ):  # fmt: skip
        assert text in page.text, text
    assert "Seeds" not in page.text  # empty, so nothing to unfold
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert base64.b64decode(images[0].removeprefix("data:image/png;base64,")) == plot.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_best_of_each_column_is_bold_and_losses_are_marked(tmp_path):
    html = write_report(tmp_path / "r.html", summary(), [], [], "", {}).read_text(encoding="utf-8")
    assert '<td class="win"><b>8.00 ✓</b></td><td class="loss">30.0 ✗</td><td class="loss">NaN ✗</td>' in html
    assert "<td>16.0</td><td><b>20.0</b></td><td><b>40.0</b></td>" in html
    assert "<td>50.0</td><td>50.0</td><td>–</td>" in html  # climatology has no score at 5 days


def test_report_fetches_nothing_and_runs_nothing(tmp_path):
    page = parse(write_report(tmp_path / "r.html", summary(), [], [picture(tmp_path / "a.png")], "", PROVENANCE))
    assert not {"script", "link", "iframe", "object", "a", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href") or value.startswith("data:image/png;base64,"), (tag, name)
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)


def test_hostile_text_stays_text(tmp_path):
    values = summary(HOSTILE, experiment=HOSTILE, devices=HOSTILE, status=HOSTILE, units={HOSTILE: HOSTILE})
    values["mesh"] = {HOSTILE: 1}
    values["baselines"][HOSTILE] = {HOSTILE: {"rmse": {"P1D": 1.0}}}
    values["rollout"] = {"length": "P365D", "variables": {HOSTILE: {"first_nonfinite": "P12D"}}}
    plot = picture(tmp_path / "p.png", HOSTILE)
    hostile = {HOSTILE: HOSTILE, "files": [{HOSTILE: HOSTILE}], "list": [HOSTILE], "command": [HOSTILE]}
    path = write_report(tmp_path / "<script>" / "r.html", values, [], [plot], HOSTILE, hostile)
    page = parse(path)
    assert "script" not in page.tags
    assert "<script" not in path.read_text(encoding="utf-8")
    assert page.text.count("<script>alert(1)</script>") > 10


def test_report_of_a_run_without_scores_says_so(tmp_path):
    page = parse(write_report(tmp_path / "r.html", {"status": "failed"}, [], [], "", {}))
    assert "The run has no scores. The run is not complete (status: failed)." in page.text


def test_notes_are_shown_and_settings_only_once(tmp_path):
    values = summary(notes=["the free rollout ends with the forcings"])
    page = parse(write_report(tmp_path / "r.html", values, [], [], "a: 1", {"config": {"a": 1}}))
    assert "The free rollout ends with the forcings." in page.text
    assert page.text.count("a: 1") == 1
    assert "Config " not in page.text
    failed = parse(write_report(tmp_path / "f.html", {"notes": ["no test split was given"]}, [], [], "", {}))
    assert "No test split was given." in failed.text


def test_rollout_that_breaks_is_in_the_table(tmp_path):
    facts = {"length": "P365D", "variables": {"t": {"drift_per_year": -0.5, "first_nonfinite": "P12D"}, "u": {}}}
    page = parse(write_report(tmp_path / "r.html", summary(rollout=facts), [], [], "", {}))
    assert "Free rollout of 365 days" in page.text
    assert "from 12 days on ✗" in page.text
    assert "−0.500" in page.text


def test_pictures_must_be_pictures(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(UserError, match="is not a PNG"):
        write_report(tmp_path / "r.html", summary(), [], [tmp_path / "a.png"], "", {})
    with pytest.raises(UserError, match="cannot be read"):
        write_report(tmp_path / "r.html", summary(), [], [Path(tmp_path / "b.png")], "", {})
    assert not (tmp_path / "r.html").exists()


def test_a_picture_without_a_caption_is_named_after_its_file(tmp_path):
    plot = picture(tmp_path / "long_rollout.png")
    assert "Long rollout" in parse(write_report(tmp_path / "r.html", summary(), [], [plot], "", {})).text
