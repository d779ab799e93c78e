"""What fits a machine, and how fast it would be."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.models.fit import (
    MIN_TOKENS_PER_SECOND,
    Assessment,
    Fit,
    Speed,
    assess,
    recommend,
    speed_from,
)
from llmstream_cli.models.presets import PRESETS

GB = 1_000_000_000
SMOLLM2, QWEN, MISTRAL = PRESETS["smollm2"], PRESETS["qwen3-4b"], PRESETS["mistral"]
LAPTOP = Speed(bytes_per_second=40e9, layer_seconds=150e-6, weights_per_second=80e9)


# ---- speed ----------------------------------------------------------------------------------


def test_a_token_reads_all_weights_once() -> None:
    speed = Speed(bytes_per_second=10e9, layer_seconds=0.0)
    assert speed.tokens_per_second(MISTRAL) == pytest.approx(10 / 4.37)


def test_multiplying_can_take_longer_than_reading() -> None:
    speed = Speed(bytes_per_second=1000e9, layer_seconds=0.0, weights_per_second=7.24e9)
    assert speed.tokens_per_second(MISTRAL) == pytest.approx(1.0)


def test_layers_cost_what_weights_do_not() -> None:
    speed = Speed(bytes_per_second=float("inf"), layer_seconds=1e-3)
    assert speed.tokens_per_second(MISTRAL) == pytest.approx(1000 / 32)


def test_measured_models_are_estimated_within_a_third() -> None:
    """Two threads of an EPYC: random weights in the shape of TinyLlama, and of 3 billion.

    Memory was read at 36 GB/s; the embedded model (98 MB) wrote 138 tokens a second and read 460.
    """
    speed = speed_from(
        SMOLLM2,
        size_bytes=98_362_432,
        bytes_per_second=36e9,
        decode_tokens_per_second=138.0,
        prefill_tokens_per_second=460.0,
    )
    for size_bytes, num_parameters, layers, measured in (
        (670_892_672, 1_100_000_000, 22, 53.4),
        (1_169_777_280, 1_100_000_000, 22, 35.2),
        (1_961_618_720, 3_150_000_000, 28, 19.3),
    ):
        model = QWEN._replace(
            size_bytes=size_bytes,
            num_parameters=num_parameters,
            kv=QWEN.kv._replace(layers=layers),
        )
        assert speed.tokens_per_second(model) == pytest.approx(measured, rel=1 / 3)


@given(
    bandwidth=st.floats(1e9, 1e12),
    decode=st.floats(0.1, 1000),
    prefill=st.floats(0.1, 100_000),
)
def test_what_was_measured_is_estimated_again(
    bandwidth: float, decode: float, prefill: float
) -> None:
    """Or more, where the model was slower than the memory and the multiplications explain."""
    speed = speed_from(
        SMOLLM2,
        size_bytes=SMOLLM2.size_bytes,
        bytes_per_second=bandwidth,
        decode_tokens_per_second=decode,
        prefill_tokens_per_second=prefill,
    )
    assert speed.layer_seconds >= 0
    estimate = speed.tokens_per_second(SMOLLM2)
    if speed.layer_seconds > 0:
        assert estimate == pytest.approx(decode)
    else:
        assert estimate <= decode * (1 + 1e-9)


# ---- memory and disk ------------------------------------------------------------------------


def assessed(
    name: str, *, total: int = 16, available: int = 12, disk: int = 100, present: bool = False
) -> Assessment:
    return assess(
        PRESETS[name],
        total_memory=total * GB,
        available_memory=available * GB,
        free_disk=disk * GB,
        speed=LAPTOP,
        present=present,
    )


@pytest.mark.parametrize(
    ("total", "available", "fit"),
    [
        (16, 12, Fit.YES),
        (8, 7, Fit.YES),
        (8, 6, Fit.TIGHT),  # 5.6 GB, and a tenth of the machine is for others
        (8, 1, Fit.TIGHT),
        (6, 6, Fit.NO),
        (4, 3, Fit.NO),
    ],
)
def test_fit(total: int, available: int, fit: Fit) -> None:
    assert assessed("mistral", total=total, available=available).fit is fit


def test_the_disk_needs_room_for_what_is_not_there() -> None:
    assert assessed("mistral", disk=5).fits_disk
    assert not assessed("mistral", disk=4).fits_disk
    assert assessed("mistral", disk=4, present=True).fits_disk


def test_a_repacked_model_takes_the_disk_twice() -> None:
    assert not assessed("puffin", disk=1).fits_disk
    assert assessed("puffin", disk=2).fits_disk


# ---- the recommendation ---------------------------------------------------------------------


def test_the_best_of_those_that_fit_is_recommended() -> None:
    assert recommend(map(assessed, PRESETS)) is QWEN
    small = [assessed(name, total=4, available=3) for name in PRESETS]
    best = recommend(small)
    assert best is not None
    assert best.quality < QWEN.quality
    assert best.memory_bytes() < 3 * GB


def test_a_slow_model_is_not_recommended() -> None:
    slow = dataclasses.replace(assessed("qwen3-4b"), tokens_per_second=MIN_TOKENS_PER_SECOND - 0.1)
    assert recommend([slow, assessed("puffin")]) is PRESETS["puffin"]
    fast_enough = dataclasses.replace(slow, tokens_per_second=MIN_TOKENS_PER_SECOND)
    assert recommend([fast_enough, assessed("puffin")]) is QWEN


def test_an_unknown_speed_is_no_reason_against_a_model() -> None:
    unknown = assess(
        QWEN,
        total_memory=16 * GB,
        available_memory=12 * GB,
        free_disk=100 * GB,
        speed=None,
        present=False,
    )
    assert unknown.tokens_per_second is None
    assert recommend([unknown]) is QWEN


def test_no_model_is_recommended_where_none_will_do() -> None:
    assert recommend([]) is None
    assert recommend([assessed("mistral", total=8, available=2)]) is None
    assert recommend([assessed("mistral", disk=1)]) is None
