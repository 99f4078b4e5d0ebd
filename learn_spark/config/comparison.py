"""The config's section `comparison`: which systems stand side by side, and how they are measured."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from learn_spark.config.sections import Section

TRAINED = ("towers", "sequential", "notellm")


class SystemSettings(Section):
    """A row of the comparison: what differs from the config's towers, or another model altogether.

    Attributes:
        title: what tables and charts call it.
        paper: where its equations are from.
        kind: `towers`, `sequential` and `notellm` are trained, `prompt` unless its model has `llm: {lora: null}`; the
            others count.
        based_on: `config`, the config's own towers with the changes below; `paper`, the paper's defaults with them.
        content: `config`, the config's content vectors; `random`, frozen random ones, which together with the
            id residual are id embeddings of normal initial values.
        embedding: changes of the section `embedding`: another text encoder; `compare` makes its vectors.
        model, loss, train: changes of the settings of these names.
        prior_weight: of log popularity when ranking; null: retrieval.popularity_weight for towers, else none.
    """

    title: str
    paper: str = ""
    kind: Literal[
        "towers", "sequential", "notellm", "prompt", "popularity", "last_item", "cooccurrence", "mean_content"
    ]
    based_on: Literal["config", "paper"] = "config"
    content: Literal["config", "random"] = "config"
    embedding: dict[str, object] = {}
    model: dict[str, object] = {}
    loss: dict[str, object] = {}
    train: dict[str, object] = {}
    prior_weight: Annotated[float, Field(ge=0)] | None = None

    @property
    def is_trained(self) -> bool:
        """Whether its figures depend on a training's seed."""
        return self.kind in TRAINED or (self.kind == "prompt" and self._has_adapters)

    @property
    def reads_texts(self) -> bool:
        """Whether it needs the items' texts."""
        return self.kind in ("notellm", "prompt")

    @property
    def _has_adapters(self) -> bool:
        llm = self.model.get("llm", {})
        return not isinstance(llm, dict) or llm.get("lora", {}) is not None

    @model_validator(mode="after")
    def _changes_what_it_has(self) -> Self:
        given = [name for name in ("model", "loss", "train") if getattr(self, name)]
        if given and not self.is_trained and self.kind != "prompt":
            raise ValueError(f"{given[0]} is set, but a system of kind {self.kind} is not trained")
        if self.loss and self.kind != "towers":
            raise ValueError(f"loss is that of towers; kind is {self.kind}: its loss is in model")
        return self


class SampledSettings(Section):
    rows: Annotated[int, Field(ge=0)]
    candidates: Annotated[int, Field(ge=2)]
    seed: Annotated[int, Field(ge=0)]


class ComparisonSettings(Section):
    systems: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    ks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    keep_seen: bool
    cold_user_max: Annotated[int, Field(ge=0)]
    long_tail_max: Annotated[int, Field(ge=0)]
    bootstrap: Annotated[int, Field(ge=10)]
    sampled: SampledSettings
    define: dict[str, SystemSettings]
    published: dict[str, dict[str, float]]
