"""Settings: limits, text form, presets, and how a name and flags become one configuration."""

from __future__ import annotations

import dataclasses

import gguf
import pytest

from xquant_gguf import memory
from xquant_gguf.config import PRESETS, UNSET, XQuantConfig, kv_names, parse_threshold, resolve_kv
from xquant_gguf.errors import ConfigError
from xquant_gguf.gguf_header import ModelInfo
from xquant_gguf.stock import STOCK, StockKV

UNIFORM = XQuantConfig(k_alloc="uniform", v_fit="minmax")
SMOL = ModelInfo("smol.gguf", 1, "llama", 30, 8192, (3,) * 30, 64, 64, plain=True)


def test_default_text_names_every_setting() -> None:
    assert XQuantConfig().to_text() == (
        "k_bits=2,v_bits=2,k_layers=-1,v_layers=-1,k_alloc=range,k_metric=queries,v_fit=unbiased,"
        "v_rot=hadamard,"
        "k_1bit_from=-1,v_1bit_from=-1,k_share_from=-1,v_share_from=-1,"
        "window=128,sink=4,k_eta1=0.28,k_eta2=0.045,k_eta3=0,k_eta4=0,"
        "v_eta1=0.166666667,v_eta2=0.045,v_eta3=0,v_eta4=0,k_meta=q8,v_meta=q8,"
        "follower=minmax,max_ubatch=256,swa=f16"
    )


@pytest.mark.parametrize("value, text", [(0.5, "0.5"), (0.0, "0.0"), (1e-7, "0.0000001"), (4, "4")])
def test_a_fraction_is_written_with_a_dot_and_no_exponent(value: float, text: str) -> None:
    written = UNIFORM.replace(k_share_from=value).to_text().split("k_share_from=")[1].split(",")[0]
    assert ("." in written) == ("." in text)
    assert "e" not in written
    assert float(written) == pytest.approx(float(text))


@pytest.mark.parametrize(
    "setting, value",
    [
        ("k_bits", 0), ("k_bits", 8.5), ("k_bits", float("nan")), ("k_bits", "2"),
        ("v_bits", 2.0), ("v_bits", 5), ("v_bits", True),
        ("k_share_from", 3), ("v_share_from", 15), ("k_share_from", -1), ("v_share_from", 1.0),
        ("v_share_from", -0.1), ("k_share_from", float("nan")), ("k_1bit_from", -2),
        ("v_1bit_from", "half"), ("k_1bit_from", True),
        ("k_eta1", -0.01), ("k_eta2", 0.51), ("v_eta3", float("nan")), ("v_eta4", "0.1"),
        ("window", 0), ("window", 100), ("window", -32), ("window", 64.0),
        ("max_ubatch", 16), ("max_ubatch", 33), ("sink", -1), ("sink", 1.5),
        ("k_meta", "f32"), ("v_meta", None), ("follower", "mean"), ("k_alloc", "best"),
        ("k_metric", "keys"), ("k_metric", True),
        ("v_fit", "ls"), ("v_rot", True), ("k_layers", ""), ("k_layers", "*"), ("v_layers", 2),
        ("swa", "full"), ("swa", False),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_name_value_and_remedy(setting: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        XQuantConfig(**{setting: value})  # type: ignore[arg-type]
    assert setting in caught.value.rule
    assert caught.value.value == repr(value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"k_bits": 1, "v_bits": 4}, {"k_bits": 0.5}, {"k_bits": 8}, {"k_layers": "2/1.5/4.5"},
        {"v_layers": "2/1*"},
        {"k_share_from": 0, "v_share_from": 16}, {"v_1bit_from": 15}, {"k_share_from": 0.99},
        {"k_eta1": 0.5, "v_eta2": 0}, {"window": 32, "max_ubatch": 32},
        {"sink": 0}, {"k_meta": "f16", "follower": "ls"}, {"swa": "packed", "v_layers": "2/1*"},
    ],
)  # fmt: skip
def test_the_limits_themselves_are_allowed(settings: dict[str, object]) -> None:
    shares = any("share" in name for name in settings)
    config = UNIFORM.replace(**settings) if shares else XQuantConfig(**settings)  # type: ignore[arg-type]
    for name, value in settings.items():
        assert getattr(config, name) == value


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"k_share_from": 0}, "k_alloc='uniform'"), ({"k_1bit_from": 3}, "k_alloc='uniform'"),
        ({"v_share_from": 0.5}, "v_fit='minmax'"), ({"k_alloc": "uniform", "k_bits": 1.5}, "use 2"),
        ({"k_alloc": "uniform", "k_layers": "2/2.5"}, "use 2"), ({"v_layers": "1/x"}, "correct"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        XQuantConfig(**settings)  # type: ignore[arg-type]
    assert named in caught.value.remedy


def test_a_config_cannot_be_changed_and_replace_makes_another() -> None:
    config = XQuantConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.k_bits = 3  # type: ignore[misc]
    assert config.replace(k_bits=3).k_bits == 3
    assert config.k_bits == 2
    with pytest.raises(ConfigError, match="k_bit;"):
        config.replace(k_bit=3)
    with pytest.raises(ConfigError, match="v_bits"):
        config.replace(v_bits=9)


def test_presets_hold_what_the_paper_and_the_readme_say() -> None:
    names = ("kivi2", "asymkv1.5", "xquant-paper", "xquant")
    kivi, asym, paper, xquant = (PRESETS[name] for name in names)
    assert isinstance(paper, XQuantConfig)
    assert isinstance(kivi, XQuantConfig)
    assert isinstance(asym, XQuantConfig)
    assert isinstance(xquant, XQuantConfig)
    assert PRESETS["f16"] == STOCK["f16"]
    assert PRESETS["balanced"] == XQuantConfig()
    for plain in (kivi, asym):
        etas = [getattr(plain, f"{side}_eta{bits}") for side in "kv" for bits in range(1, 5)]
        assert etas == [0.0] * 8
        assert (plain.k_share_from, plain.v_share_from, plain.sink) == (None, None, 0)
    assert (kivi.k_bits, kivi.v_bits, asym.k_bits, asym.v_bits) == (2, 2, 2, 1)
    for of in (xquant, paper):
        assert (of.v_eta1, of.k_eta2, of.v_share_from) == (1 / 6, 0.045, 0.5)
        assert (of.k_alloc, of.v_fit, of.v_rot) == ("uniform", "minmax", "none")
    for published in (kivi, asym, paper, xquant):
        assert published.k_metric == "none"
    for name in ("lossless", "quality", "balanced", "small", "tiny"):
        ours = PRESETS[name]
        assert isinstance(ours, XQuantConfig)
        assert ours.k_metric == "queries"
    assert (paper.sink, paper.follower) == (0, "minmax")
    assert paper.replace(sink=4, follower="ls") == xquant
    with pytest.raises(TypeError):
        PRESETS["mine"] = XQuantConfig()  # type: ignore[index]


@pytest.mark.parametrize(
    "name, bits",
    [
        ("kivi2", 2), ("asymkv1.5", 1.5), ("xquant", 1 + 11 / 30), ("xquant-paper", 1 + 11 / 30),
        ("lossless", 4.25), ("quality", 2.5), ("balanced", 2), ("small", 94 / 60),
        ("tiny", 1.25),
    ],
)  # fmt: skip
def test_code_bits_of_presets(name: str, bits: float) -> None:
    config = PRESETS[name]
    assert isinstance(config, XQuantConfig)
    layers = range(SMOL.n_layers)
    mean = sum(memory.code_bits(config, s, i, 30) for s in "kv" for i in layers) / 60
    assert mean == pytest.approx(bits)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_kv("ballanced")
    for name in kv_names():
        assert name in caught.value.remedy
    assert "did you mean balanced?" in caught.value.remedy
    assert caught.value.value == "'ballanced'"


def test_flags_replace_single_settings_of_a_preset() -> None:
    assert resolve_kv("balanced", k_bits=3, v_bits=UNSET) == XQuantConfig(k_bits=3)
    assert resolve_kv("xquant", v_share_from=None) == PRESETS["xquant"].replace(v_share_from=None)  # type: ignore[union-attr]
    own = XQuantConfig(window=64)
    assert resolve_kv(own) is own
    assert resolve_kv(own, sink=0) == XQuantConfig(window=64, sink=0)
    with pytest.raises(ConfigError, match="even"):
        resolve_kv("xquant", k_share_from=7)


@pytest.mark.parametrize("kv", ["f16", "q8_0", STOCK["q4_0"]])
def test_flags_need_a_packed_cache(kv: str | StockKV) -> None:
    assert isinstance(resolve_kv(kv), StockKV)
    with pytest.raises(ConfigError, match="k_bits=2"):
        resolve_kv(kv, k_bits=2)


def test_kv_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="kv is a preset name"):
        resolve_kv(8)  # type: ignore[arg-type]


def test_thresholds_from_the_command_line() -> None:
    assert [parse_threshold(t) for t in ("never", "-1", "16", "0.5")] == [None, None, 16, 0.5]
    assert isinstance(parse_threshold("0"), int)
    with pytest.raises(ConfigError, match="'half'"):
        parse_threshold("half")


@pytest.mark.parametrize(
    "name, code, true",
    [("f32", 32, 32), ("f16", 16, 16), ("q8_0", 8, 8.5), ("q5_1", 5, 6), ("q4_0", 4, 4.5)],
)
def test_bits_of_stock_types(name: str, code: float, true: float) -> None:
    assert (STOCK[name].code_bits, STOCK[name].true_bits) == (code, true)


def test_stock_numbers_match_the_gguf_package() -> None:
    for kv in STOCK.values():
        kind = gguf.GGMLQuantizationType[kv.name.upper()]
        assert kind.value == kv.ggml_type
        assert gguf.GGML_QUANT_SIZES[kind] == (kv.block, kv.block_bytes)


def test_f16_bytes_of_a_known_model() -> None:
    assert memory.f16_bytes(SMOL, 8192) == 188_743_680


def test_a_packed_cache_is_estimated_smaller_than_f16() -> None:
    share = memory.packed_bytes(SMOL, XQuantConfig(), 8192) / memory.f16_bytes(SMOL, 8192)
    assert 0.15 < share < 0.25
