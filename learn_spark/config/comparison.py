"""The config's section `comparison`: which systems stand side by side, and how they are measured."""

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from learn_spark.storage import Place
from models.contract.strict import Settings

Trained = Literal["towers", "sequential", "als", "notellm"]
Kind = Trained | Literal["prompt", "popularity", "last_item", "cooccurrence", "mean_content"]
TRAINED = get_args(Trained)


class SystemChanges(Settings):
    """What a config says of a system; what it leaves out is as shipped (learn_spark/systems/systems.yaml)."""

    like: str | None = None
    """Another system, shipped or defined: this one is as that, but for what stands beside."""
    title: str | None = None
    """What tables and charts call it."""
    paper: str = ""
    """Where its equations are from."""
    kind: Kind | None = None
    """towers, sequential, als and notellm are trained, prompt unless its model has `llm: {lora: null}`; not others."""
    based_on: Literal["config", "paper"] = "config"
    """config: the config's own towers with the changes below. paper: the paper's defaults with them."""
    content: Literal["config", "random"] = "config"
    """config: the config's content vectors. random: frozen random ones, which together with the id residual are id
    embeddings of normal initial values."""
    embedding: dict[str, object] = {}
    """Changes of the section `embedding`: another text encoder; `compare` makes its vectors."""
    model: dict[str, object] = {}
    """Changes of the towers' settings of this name, or the settings of another kind's model."""
    loss: dict[str, object] = {}
    """Changes of the towers' settings of this name."""
    train: dict[str, object] = {}
    """Changes of the towers' settings of this name."""
    popularity_prior: Annotated[float, Field(ge=0)] | None = None
    """Of log popularity when ranking; null: retrieval.popularity_prior for towers, else none."""
    fitted: bool = False
    """Of a trained system: that weight, and a number for what the history holds, are chosen on the validation rows
    after training, beginning with what is configured and learned. It shares the training of the system without."""

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
        if self.kind is None:
            return self
        given = [name for name in ("model", "loss", "train") if getattr(self, name)]
        if given and not self.is_trained and self.kind != "prompt":
            raise ValueError(f"{given[0]} is set, but a system of kind {self.kind} is not trained")
        if self.fitted and self.kind not in TRAINED:
            raise ValueError(f"fitted is set, but a system of kind {self.kind} has no vectors of its own")
        if self.train and self.kind == "als":
            raise ValueError("train is set, but a system of kind als has no steps: its settings are in model")
        if self.loss and self.kind != "towers":
            raise ValueError(f"loss is that of towers; kind is {self.kind}: its loss is in model")
        return self


class SystemSettings(SystemChanges):
    """A row of the comparison: what differs from the config's towers, or another model altogether."""

    title: str  # pyright: ignore[reportGeneralTypeIssues] - pydantic lets a subclass require a field
    kind: Kind  # pyright: ignore[reportGeneralTypeIssues] - likewise


class SampledSettings(Settings):
    """A second table: every system ranks a few items of a few rows; prompts need it."""

    rows: Annotated[int, Field(ge=0)] = 0
    """Test rows; 0: no such table."""
    candidates: Annotated[int, Field(ge=2)] = 20
    """The row's first target and so many others, drawn uniformly, less one."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Of the draws."""


class TestRowsSettings(Settings):
    """A table of your own instead of the test rows that windows or leave-one-out give: every system ranks these.

    All items of the catalogue are candidates. Ids are as in `interactions`. A training that has seen the targets is
    yours to prevent: `ingest.where` leaves lines of the test split out.
    """

    __test__: ClassVar[bool] = False  # pytest takes classes of such names for tests

    path: Place
    """A file .csv or .tsv (with a header), .json or .jsonl (an object per line), Parquet, a folder of Parquet files, or
    a Delta table."""
    where: str | None = None
    """Which rows, in Spark SQL, as "split = 'test'"; null: all."""
    user_id: str = "user_id"
    """The user's column."""
    history: str | None = None
    """The column of what the user had before, oldest first: a list of ids, or a text of them; null: the user's last
    events that the lake holds before windows.end."""
    target: str = "item_id"
    """The column of what is asked for: an id, a list, or a text of ids."""
    separator: Annotated[str, Field(min_length=1)] = " "
    """Between ids in a text."""


class ComparisonSettings(Settings):
    """`compare`: systems side by side on the validation rows of `sequences`, and with `--final` on the test rows."""

    systems: Annotated[list[str], Field(min_length=1)] = [
        *("learn", "mean_content", "popularity", "last_item", "cooccurrence", "sasrec", "hstu")
    ]
    """Names of shipped systems (learn_spark/systems/systems.yaml), or of `define`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [1]
    """Each trained system is trained once per seed."""
    ks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [10, 50]
    """Lengths of the lists."""
    filter_seen: bool = False
    """Items of the history are no candidates, and targets among them are left out."""
    cold_user_max: Annotated[int, Field(ge=0)] = 5
    """Users with so short a history are cold."""
    long_tail_max: Annotated[int, Field(ge=0)] = 10
    """Items seen so rarely in training are the long tail; never: cold."""
    resamples: Annotated[int, Field(ge=10)] = 1000
    """Resamples of users for the intervals."""
    sampled: SampledSettings = SampledSettings()
    test_rows: TestRowsSettings | None = None
    """Rows of a table of your own that are ranked instead; null: those of `sequences`."""
    define: dict[str, SystemChanges] = {}
    """Systems by name: changes of single settings of shipped ones, as {sasrec: {model: {dropout: 0.3}}}, or your own:
    {slow: {like: leader, title: Slow, train: {learning_rate: 0.0005}}}."""
    published: dict[str, dict[str, float]] = {}
    """Rows from papers to print beside, title: {recall_at_10: 0.146, …}."""
