"""How fast the machine is: measured, and remembered."""

import dataclasses
import json
from pathlib import Path

import pytest

from llmstream_cli.cli import speed as machine_speed
from llmstream_cli.cli.speed import Probe, measure_speed, remembered_speed
from llmstream_cli.models.fit import ASSUMED_LAYER_SECONDS, Speed
from llmstream_cli.models.presets import PRESETS


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_speed, "_READ_BYTES", 1 << 22)  # small, and soon read
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    return tmp_path / "cache" / "speed.json"


def test_the_embedded_model_is_measured_and_remembered(model_path: Path) -> None:
    assert remembered_speed() is None
    speed = measure_speed(Probe(PRESETS["smollm2"], model_path))
    assert speed.bytes_per_second > 1e6
    assert speed.weights_per_second is not None
    assert speed.weights_per_second > 1e6
    assert 0 <= speed.layer_seconds < 60
    assert remembered_speed() == speed


def test_without_a_model_memory_alone_is_measured(place: Path) -> None:
    speed = measure_speed(None)
    assert speed.weights_per_second is None
    assert speed.layer_seconds == ASSUMED_LAYER_SECONDS
    assert remembered_speed() == speed
    assert list(place.parent.iterdir()) == [place]  # no part of it is left


def test_a_model_that_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert measure_speed(Probe(PRESETS["smollm2"], broken)).weights_per_second is None


def test_a_busy_machine_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, model_path: Path, place: Path
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (500.0, 0.0, 0.0))
    assert measure_speed(Probe(PRESETS["smollm2"], model_path)).weights_per_second is None
    assert not place.exists()


def test_a_folder_that_cannot_be_written_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "file" / "cache"))
    assert measure_speed(None).bytes_per_second > 0
    assert remembered_speed() is None


def test_another_machine_has_another_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_speed(None)
    monkeypatch.setattr(machine_speed, "default_threads", lambda: 77)
    assert remembered_speed() is None


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "null",
        "{}",
        "{",
        '{"machine": 1}',
        {"speed": None},
        {"speed": {"bytes_per_second": 1.0, "more": 1.0}},
        {"speed": {"bytes_per_second": "fast"}},
        {"speed": {"bytes_per_second": None}},
        {"speed": {"bytes_per_second": 0.0}},
        {"speed": {"bytes_per_second": 1.0, "weights_per_second": 0.0}},
    ],
)
def test_a_damaged_memory_is_none(place: Path, damage: str | dict[str, object]) -> None:
    measure_speed(None)
    content = json.loads(place.read_text())
    place.write_text(damage if isinstance(damage, str) else json.dumps(content | damage))
    assert remembered_speed() is None


@pytest.mark.parametrize("value", [-1.0, 1e999, "1", True])
def test_a_figure_that_is_none_is_not_believed(place: Path, value: object) -> None:
    measure_speed(None)
    content = json.loads(place.read_text())
    content["speed"]["layer_seconds"] = value
    place.write_text(json.dumps(content))
    assert remembered_speed() is None


def test_every_figure_is_remembered(place: Path) -> None:
    measure_speed(None)
    known = {field.name for field in dataclasses.fields(Speed)}
    assert json.loads(place.read_text())["speed"].keys() == known
