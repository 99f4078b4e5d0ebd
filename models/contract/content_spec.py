"""The spec of `measure-content`, which compares templates, layers and poolings that turn item texts into vectors."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from models.contract.evaluation_specs import RankerSpec
from models.contract.spec import Spec
from models.contract.strict import Settings

VECTORS = "vectors"  # subfolder of out_dir for the variants' content matrices


class ContentVariant(Settings):
    """One way to make a content vector.

    Attributes:
        template: name of the text's template.
        layer: the layer whose states are pooled, counted from 1.
        pooling: how the tokens' states become one vector.
    """

    template: str
    layer: int = Field(ge=1)
    pooling: Literal["mean", "last", "cls"]

    @property
    def name(self) -> str:
        """The name of the variant's figures and of its matrix."""
        return f"{self.template}-{self.layer}-{self.pooling}"


class ContentSpec(Spec):
    """The spec of `measure-content`. Items are numbered 1, 2, … within the sample; all snapshots use these numbers.

    Attributes:
        texts: snapshot with the columns item_idx and, per template, one of its name with the item's text.
        templates, layers, poolings: each combination of them is a variant.
        base: the variant that gains are relative to; it is measured as well.
        model, max_tokens, dtype, device, batch_tokens: settings of the encoder; `model` is a folder. Device auto: cuda
            if there is a GPU.
        rows: snapshot of the rows to retrieve for (user_id, hist_items, hist_ts, hist_len, tar_items): those of
            validation, never of test.
        known_items, purchases, candidates, popularity_days: as in `SystemsSpec`.
        metric: the figure that orders the variants, recall_at_K or ndcg_at_K.
        ks: lengths of the ranked lists.
        ranker: the ranker's rows (without embeddings) and trees, to measure the base and the variants on the front of
            metric and seconds with; None: no ranker is trained.
        content_width: number of main axes of the content that the ranker gets.
        resamples, seed: of the bootstrap over users.
        threads: torch threads.
        out_dir: gets result.json, and in `vectors` a content matrix per variant.
    """

    command: ClassVar[str] = "measure-content"
    module: ClassVar[str] = "models.evaluation.measure_content"
    help: ClassVar[str] = "measure layers, poolings and templates of the text encoder side by side"

    texts: Path
    templates: tuple[str, ...] = Field(min_length=1)
    layers: tuple[int, ...] = Field(min_length=1)
    poolings: tuple[Literal["mean", "last", "cls"], ...] = Field(min_length=1)
    base: ContentVariant
    model: Path
    max_tokens: int = Field(gt=0)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_tokens: int = Field(default=4096, gt=0)
    rows: Path
    known_items: Path | None = None
    purchases: Path | None = None
    candidates: Literal["known", "catalogue"]
    popularity_days: int = Field(default=28, gt=0)
    metric: str = Field(pattern=r"^(recall|ndcg)_at_[1-9][0-9]*$")
    ks: tuple[int, ...] = Field(min_length=1)
    ranker: RankerSpec | None = None
    content_width: int = Field(default=64, gt=0)
    resamples: int = Field(default=1000, gt=0)
    seed: int = Field(default=1, ge=0)
    threads: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _check_metric(self) -> "ContentSpec":
        if int(self.metric.rpartition("_")[2]) not in self.ks:
            raise ValueError(f"metric {self.metric} is none of the lists' lengths {self.ks}")
        return self

    @property
    def variants(self) -> tuple[ContentVariant, ...]:
        """All variants, the base first."""
        others = (
            ContentVariant(template=template, layer=layer, pooling=pooling)
            for template in self.templates
            for layer in self.layers
            for pooling in self.poolings
        )
        return tuple(dict.fromkeys([self.base, *others]))

    def matrix(self, variant: ContentVariant) -> Path:
        """The folder of a variant's content matrix."""
        return self.out_dir / VECTORS / variant.name
