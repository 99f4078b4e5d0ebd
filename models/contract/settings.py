"""Settings of models and training, without torch: who writes a spec can check it before anything starts.

What can never change what is made stands in fields named `run` and `gates`, which `identity` leaves out.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from models.contract.language_models import LanguageModelConfig
from models.contract.strict import Settings

APART = {"run", "gates"}


def identity(settings: BaseModel) -> dict[str, object]:
    """What can change what is made, as plain values: at any depth all fields but `run` and `gates`, and but paths.

    A path says where a thing lies; what lies there is told by whoever reads it. Keys of `LATER` are left out where
    they have their defaults: what was made before there were such keys keeps its fingerprint.
    """
    return {
        name: _plain(value)
        for name, value in settings
        if name not in APART and not isinstance(value, PathLike) and not is_later(settings, name, value)
    }


def is_later(settings: BaseModel, name: str, value: object) -> bool:
    """Whether a key came when there were lakes already, and has its default."""
    cls = type(settings)
    return name in getattr(cls, "LATER", ()) and value == cls.model_fields[name].get_default(call_default_factory=True)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


class TowersConfig(Settings):
    """Size and switches of the towers; where the paper speaks, preset paper follows it."""

    LATER: ClassVar[frozenset[str]] = frozenset({"event_types"})

    d_model: int = Field(default=128, gt=0)
    """Width of the transformer (paper: BERT-base's 768)."""
    layers: int = Field(default=2, ge=0)
    """Its layers (paper: 12)."""
    heads: int = Field(default=4, gt=0)
    """Its attention heads; they divide d_model."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the transformer's states that training drops."""
    embedding_dim: int = Field(default=64, gt=1)
    """Width of user_emb and item_emb (paper: 64)."""
    max_len: int = Field(default=100, gt=0)
    """Longest sequence; at least history_length and target_length."""
    user_tower: Literal["transformer", "pooling_mlp", "llm"] = "transformer"
    """pooling_mlp: the mean of the adapted content up to each position, and a perceptron. llm: a language model with
    adapters, at its own width, layers and heads, also where the item tower shares the user tower's weights."""
    llm: LanguageModelConfig | None = None
    """The language model of user_tower llm: model, revision, dtype, lora, gradient_checkpointing."""
    item_tower: Literal["shared_causal", "shared_self", "mlp", "content"] = "shared_causal"
    """shared_causal, the paper's variant 1: the user tower's weights, causal over the targets. shared_self, its variant
    2: the same weights, each item sees only itself. content, its variant 3: the projected content. mlp: own weights."""
    train_input: Literal["sequence", "single"] = "sequence"
    """single: each target trains alone, as at inference; shared_causal then trains as shared_self does."""
    pooling: Literal["last", "mean"] = "last"
    """A user's vector: a position's own output, or the mean of the outputs up to it."""
    content_residual: bool = False
    """Beyond the paper: adds a projection of the content, shared by both towers (users: its mean over the history so
    far), to the transformer's output, which then starts at zero."""
    id_residual: bool = False
    """Beyond the paper: adds a learned vector per item to the content of both towers; zero for new items."""
    item_bias: bool = False
    """Beyond the paper: adds a learned number per item to its logits; it takes the last column of the embeddings."""
    repeat_bias: bool = False
    """Beyond the paper: learns one number that is added to the logits of the items which the history holds already. It
    is no part of the embeddings. Not with pairs all_action and sampled negatives."""
    event_types: bool = True
    """Beyond the paper: where sequences.keep_event_types has kept them, learns a vector and a weight per event type for
    the user tower's input. false: the towers read items alone."""
    temperature: float = Field(default=0.07, gt=0)
    """The inner product of the unit vectors is divided by it."""
    learned_scale: bool = False
    """Trains 1 / temperature as well, up to 100."""

    @model_validator(mode="after")
    def _check_heads(self) -> "TowersConfig":
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _check_llm(self) -> "TowersConfig":
        if (self.user_tower == "llm") != (self.llm is not None):
            raise ValueError(f"user_tower is {self.user_tower}, llm is {'not ' if self.llm is None else ''}set")
        return self


class LossConfig(Settings):
    """The loss and its sampling; preset paper has the paper's."""

    LATER: ClassVar[frozenset[str]] = frozenset({"event_type_weights"})

    pairs: Literal["all_action", "next_item"] = "all_action"
    """all_action: sampled history positions with sampled targets. Beyond the paper next_item: every history position
    with the item that follows it, the last one with the first target, as SASRec trains; it wants sequences in which no
    item follows in two rows, and negatives other than in_batch."""
    num_anchors: int = Field(default=10, gt=0)
    """Sampled history positions per user, the loss's anchors (paper: 10)."""
    num_targets: int = Field(default=10, gt=0)
    """Sampled targets per user (paper: 10)."""
    alpha: float = Field(default=10.0, gt=1)
    """Recency weight log(alpha + i (beta - alpha) / (n - 1)) of position i of n (paper: 10)."""
    beta: float = Field(default=10000.0, gt=1)
    """See alpha (paper: 10000); equal ones weigh all positions the same, the paper's random sampling."""
    negatives: Literal["in_batch", "full_softmax", "sampled"] = "in_batch"
    """in_batch: the targets of the batch's other users, as in the paper. full_softmax: every item of the training
    snapshot. sampled: num_sampled of those, drawn anew in each step and weighted up to estimate the catalogue. The last
    two need items that go in alone, and leave the user's own targets out."""
    num_sampled: int = Field(default=1024, gt=0)
    """Items drawn per step, with negatives sampled."""
    mask_false_negatives: bool = False
    """Beyond the paper: another user's target is no negative where the anchor's own user has the same item among the
    sampled targets."""
    log_q: bool = False
    """Beyond the paper: subtracts log popularity (as target) from every candidate's logit."""

    event_type_weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Beyond the paper: how much a pair counts by the event type of its target, as {cart: 0.5, dislike: 0}; 1 where it
    is not named. Needs sequences.keep_event_types. With pairs next_item, events of the history are targets, too."""

    @model_validator(mode="after")
    def _check_pairs(self) -> "LossConfig":
        if self.pairs == "next_item" and self.negatives == "in_batch":
            raise ValueError("pairs next_item needs negatives full_softmax or sampled; negatives is in_batch")
        return self

    @model_validator(mode="after")
    def _check_log_q(self) -> "LossConfig":
        if self.log_q and self.negatives != "in_batch":
            raise ValueError(f"log_q corrects in-batch negatives; negatives is {self.negatives}")
        return self


def check_loss(towers: TowersConfig, loss: LossConfig) -> None:
    """Checks that loss and towers fit.

    Catalogue and sampled negatives are encoded without a sequence, so the item tower must train that way too. With a
    repeat bias, negatives must hold the history's own items often enough to learn from.

    Raises:
        ValueError: they do not fit.
    """
    if towers.repeat_bias and loss.pairs == "all_action" and loss.negatives == "sampled":
        raise ValueError(
            "towers.repeat_bias with loss.negatives sampled needs loss.pairs next_item: a history's own items are "
            "hardly ever drawn"
        )
    if loss.negatives != "in_batch" and towers.item_tower == "shared_causal" and towers.train_input == "sequence":
        raise ValueError(
            f"loss.negatives {loss.negatives} draws items that go in alone, but item_tower shared_causal trains "
            "on sequences: set train_input single, another item_tower, or negatives in_batch"
        )


class SequentialConfig(Settings):
    """Size, loss and training positions of the sequential baselines, which learn a vector by item id."""

    kind: Literal["sasrec", "hstu"] = "sasrec"
    """sasrec (models/baselines/sasrec.py) or hstu (models/baselines/hstu.py)."""
    d_model: int = Field(default=64, gt=0)
    """Width of the blocks."""
    layers: int = Field(default=2, ge=0)
    """Number of blocks."""
    heads: int = Field(default=1, gt=0)
    """Their attention heads; they divide d_model."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of the blocks' states that training drops."""
    max_len: int = Field(default=50, gt=0)
    """Longest input; of a longer one the most recent items count."""
    loss: Literal["bce", "cross_entropy", "sampled"] = "cross_entropy"
    """bce: binary cross-entropy with one uniformly drawn negative per position (SASRec's paper). cross_entropy: the
    softmax over every item of the training snapshot. sampled: the softmax over the positive and num_sampled of those
    items, drawn for each position (HSTU's experiments)."""
    num_sampled: int = Field(default=128, gt=0)
    """Items drawn per position, with loss sampled."""
    positions: Literal["all", "last"] = "all"
    """all: every item of history and targets predicts the next one, which wants snapshots of one row per user (of
    prefix rows, early items would train once per row). last: the history's last item predicts the first target, which
    wants a row per prefix."""
    repeat_bias: bool = False
    """As of TowersConfig; not with bce, whose negatives are never the row's own."""
    temperature: float = Field(default=0.05, gt=0)
    """hstu's inner products of unit vectors are divided by it; sasrec's plain ones are not."""
    time_buckets: int = Field(default=128, gt=0)
    """hstu's relative time bias has so many buckets and one more."""

    @model_validator(mode="after")
    def _check_heads(self) -> "SequentialConfig":
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _check_repeats(self) -> "SequentialConfig":
        if self.repeat_bias and self.loss == "bce":
            raise ValueError("repeat_bias needs the loss cross_entropy or sampled; it is bce")
        return self


class ALSConfig(Settings):
    """Size and weights of alternating least squares (models/baselines/als.py)."""

    d_model: int = Field(default=64, gt=0)
    """Number of factors."""
    alpha: float = Field(default=10.0, gt=0)
    """A pair that was seen counts 1 + alpha times as much as one that was not."""
    regularization: float = Field(default=0.05, gt=0)
    """Of the squared factors, per pair of the user or item."""
    iterations: int = Field(default=15, gt=0)
    """Turns of both sides; of these the best on the validation rows stays."""


class ValidationConfig(Settings):
    """Retrieval over all items, on the validation snapshot."""

    LATER: ClassVar[frozenset[str]] = frozenset({"metric"})

    metric: Literal["recall", "ndcg"] = "recall"
    """The figure that chooses the best state."""
    k: int = Field(default=50, gt=0)
    """Cut-off of recall and NDCG."""
    popularity_prior: float = Field(default=1.0, ge=0)
    """Weight of log popularity beside the logit when ranking: in-batch negatives teach lift over popularity, not
    probability, so 1 is right without the log-Q correction and 0 with it."""
    popularity_days: int = Field(default=56, gt=0)
    """Popularity is counted over the last so many days of the validation histories."""


class CVRConfig(Settings):
    """Size and switches of the conversion model."""

    hidden: tuple[int, ...] = (128,)
    """Widths of the layers before mid_emb."""
    mid_dim: int = Field(default=32, gt=0)
    """Width of mid_emb."""
    fusion: Literal["concat", "concat+product"] = "concat"
    """concat: the paper's. concat+product: the elementwise product of both embeddings joins in."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """On every layer before mid_emb."""
    batch_norm: bool = False
    """Normalises every layer before mid_emb over the batch, before its activation; scoring uses the training's running
    means. Rows count alike, whatever their weights."""


NO_URL = "?#\n\r\t"  # what a path may not have where Petastorm reads it: it takes paths for URLs


class StreamRunConfig(Settings):
    """Changes nothing of what is read."""

    verify_sha256: bool = True
    """Compares every file with the manifest's hash before it is read."""


class StreamConfig(Settings):
    """How a snapshot is read."""

    reader: Literal["petastorm", "arrow"] = "petastorm"
    """arrow: the small reference reader, over pyarrow alone."""
    shuffle_rows: int = Field(default=65536, gt=0)
    """Rows held for shuffling across row groups."""
    run: StreamRunConfig = StreamRunConfig()


class TrainRunConfig(Settings):
    """How safely and how fast a training runs; changes nothing of what it learns."""

    threads: int | None = Field(default=2, gt=0)
    """CPU threads of torch; null: its own choice."""
    log_every: int = Field(default=10, gt=0)
    """Steps between lines of metrics.jsonl."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """A killed training goes on from its last checkpoint, written when so many seconds have passed since the one
    before."""
    checkpoint_steps: int | None = Field(default=None, gt=0)
    """A checkpoint every so many steps besides."""
    rank_timeout: float = Field(default=600.0, gt=0)
    """Seconds that the ranks of a distributed training wait for each other, evaluations included."""


class TrainConfig(Settings):
    """Settings of the loop."""

    batch_size: int = Field(default=128, gt=1)
    """Rows per step, on each rank."""
    epochs: int = Field(default=5, gt=0)
    """Passes over the training snapshot; the learning rate's cosine ends with the last one."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop after this time, evaluations included, whatever the epochs say."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's, at its highest."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradients."""
    warmup_ratio: float = Field(default=0.05, ge=0, le=1)
    """Share of all steps that is a linear warm-up; then a cosine."""
    evaluate_every: int | None = Field(default=None, gt=0)
    """Steps between evaluations; null: once per epoch."""
    patience: int = Field(default=3, gt=0)
    """Stop after so many evaluations without a better one."""
    seed: int = Field(default=7, ge=0)
    """Of the initial weights, the order of the data and all sampling."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is a GPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; auto: bfloat16 on GPUs that have it, float32 elsewhere."""
    run: TrainRunConfig = TrainRunConfig()


class CVRTrainConfig(TrainConfig):
    """Settings of the loop where the conversion model trains."""

    batch_size: int = Field(default=512, gt=1)
    epochs: int = Field(default=10, gt=0)
    learning_rate: float = Field(default=3e-3, gt=0)


class RankerConfig(Settings):
    """The production-like ranker's trees, LightGBM's (models/evaluation/ranker.py); the same with and without
    embeddings."""

    max_iter: int = Field(default=200, gt=0)
    """Trees at most."""
    patience: int = Field(default=10, gt=0)
    """Stop when so many trees brought no lower validation loss."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Weight of each tree."""
    max_leaf_nodes: int = Field(default=31, gt=1)
    """Leaves per tree at most."""
    min_samples_leaf: int = Field(default=50, gt=0)
    """Samples per leaf at least."""
    l2_regularization: float = Field(default=1.0, ge=0)
    """Of the leaves' values."""
    max_bins: int = Field(default=64, gt=2, le=255)
    """Bins per feature."""
    max_features: float = Field(default=0.5, gt=0, le=1)
    """Share of the features that a tree may choose from, drawn by the seed."""
