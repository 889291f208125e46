"""Descriptions of all keys, as `chemkl show config` prints them."""

import pytest
from pydantic import Field

from chemkl.config.base import Config
from chemkl.config.llm import LlmPosttrainConfig
from chemkl.config.pipeline import PipelineConfig
from chemkl.config.posttrain import PosttrainConfig
from chemkl.config.schema import Key, keys_of
from chemkl.stages.registry import STAGES
from chemkl.stages.show import CATALOGUES

MODELS = {name: stage.model for name, stage in STAGES.items()} | {"pipeline": PipelineConfig}


@pytest.mark.parametrize("name", MODELS)
def test_every_key_has_a_meaning_and_a_type_in_plain_words(name):
    for key in keys_of(MODELS[name], inside=True):
        assert key.meaning, key.name
        assert "Config" not in key.type, key
        assert key.default is not None


def test_keys_of_sections_lists_and_kinds_have_dotted_names():
    keys = {key.name: key for key in keys_of(PosttrainConfig, inside=True)}
    assert keys["budget"] == Key(
        "budget",
        "whole number ≥ 1",
        "10000",
        "Number of oracle calls: first scorings of a valid canonical SMILES. Repeats and invalid "
        "strings are free. The run ends with exactly this many, unless max_samples ends it "
        "earlier.",
    )
    assert keys["prior"].default == ""
    assert keys["target"].type == "filter | gibbs | mara"
    assert keys["estimator"].default == "rloo"
    assert keys["callbacks.collapse.top_share"].type == "number or null > 0 ≤ 1"
    assert keys["reward.components.0.role"].type == "scorer | filter | penalty"
    assert "reward.components.0.transform.low" not in keys  # chemkl show transforms has these
    of_text = {key.name: key for key in keys_of(LlmPosttrainConfig, inside=True)}
    assert of_text["adapter"].type == "lora or full"
    assert of_text["adapter.r"].meaning.startswith("(lora) Rank")


def test_each_field_is_listed_once():
    class Inner(Config):
        a: int
        """An a."""

    class Outer(Config):
        inner: Inner | None = None
        """A section."""
        many: dict[str, Inner] = Field(default_factory=dict)
        """Sections."""

    assert [key.name for key in keys_of(Outer, inside=True)] == [
        "inner",
        "inner.a",
        "many",
        "many.NAME.a",
    ]
    assert [key.name for key in keys_of(Outer)] == ["inner", "many"]


@pytest.mark.parametrize(
    ("what", "name"),
    [(what, None) for what in ("targets", "estimators", "shapers", "filters", "stages", "config")]
    + [("estimators", "f_dpg"), ("filters", "same_smiles"), ("stages", "sample")]
    + [("config", name) for name in (*STAGES, "reward", "pipeline")],
)
def test_every_list_can_be_shown(what, name):
    assert list(CATALOGUES[what](name))


@pytest.mark.parametrize(
    ("what", "name", "near"),
    [
        ("estimators", "rlo", "rloo"),
        ("filters", "murko", "murcko"),
        ("config", "postrain", "posttrain"),
        ("targets", "x", "mara"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(what, name, near):
    with pytest.raises(ValueError, match=f"{name}.*{near}"):
        list(CATALOGUES[what](name))
