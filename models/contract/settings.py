"""Settings of models and training, without torch: who writes a spec can check it before anything starts."""

from typing import Literal

from pydantic import Field, model_validator

from models.contract.language_models import LanguageModelConfig
from models.contract.strict import Settings


class TowersConfig(Settings):
    """Size and switches of the towers; the defaults follow the paper where it speaks.

    Attributes:
        d_model, layers, heads, dropout: the transformer's.
        out_dim: width of user_emb and item_emb.
        max_len: longest sequence (histories and targets).
        user_tower: `transformer`; `pooling_mlp`, the mean of the adapted content up to each position and a
            perceptron; or `llm`, a language model with adapters, at its own width, layers and heads. Also where the
            item tower shares the user tower's weights.
        llm: the language model of `llm`.
        item_tower: `shared_causal` (the user tower's weights, causal over the target sequence),
            `shared_self` (the same weights, each item sees only itself), `mlp` (own weights),
            `content` (the projected content embedding itself).
        train_input: `sequence`, targets train as their sequence (see item_tower); `single`, each goes in alone,
            as at inference: `shared_causal` then trains as `shared_self` does.
        pooling: `last`, a position's own output; `mean`, the mean of the outputs up to it.
        content_residual: add an orthogonally initialised projection of the content, shared by both
            towers (users: its mean over the history so far), to the transformer's output, which then
            starts at zero. Beyond the paper.
        id_residual: add a learned vector by item, zero for items not trained on, to the content of both
            towers. Beyond the paper.
        item_bias: add a learned number by item to its logits; it takes the last of the embeddings' out_dim
            columns. Beyond the paper.
        repeat_bias: learn one number that is added to the logits of the items which the history holds already; it is
            no part of the embeddings. Not with pairs all_action and sampled negatives. Beyond the paper.
        temperature: the inner product of the unit vectors is divided by it.
        learned_scale: train 1 / temperature as well (at most 100).
    """

    d_model: int = Field(128, gt=0)
    layers: int = Field(2, ge=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    out_dim: int = Field(64, gt=1)
    max_len: int = Field(100, gt=0)
    user_tower: Literal["transformer", "pooling_mlp", "llm"] = "transformer"
    llm: LanguageModelConfig | None = None
    item_tower: Literal["shared_causal", "shared_self", "mlp", "content"] = "shared_causal"
    train_input: Literal["sequence", "single"] = "sequence"
    pooling: Literal["last", "mean"] = "last"
    content_residual: bool = False
    id_residual: bool = False
    item_bias: bool = False
    repeat_bias: bool = False
    temperature: float = Field(0.07, gt=0)
    learned_scale: bool = False

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
    """Settings of the all-action loss; the defaults are the paper's.

    Attributes:
        pairs: `all_action`, sampled history positions with sampled targets (the paper's); `next_item`, every history
            position with the item that follows it, the last one with the first target, as SASRec trains. That wants
            snapshots in which no item follows in two rows, and negatives other than in_batch. Beyond the paper.
        num_hist: sampled history positions (anchors) of a user.
        num_targets: sampled targets of a user.
        alpha, beta: recency weight log(alpha + i (beta - alpha) / (n - 1)) of position i of n; equal ones weigh
            all positions the same, which is the paper's random sampling.
        negatives: `in_batch`, the batch's other users' targets (the paper's); `catalogue`, every item of the
            training snapshot; `sampled`, num_sampled of those drawn anew each step, weighted up to estimate
            the catalogue. The last two need items that go in alone, and leave the user's own targets out.
        num_sampled: drawn items of a step, with `sampled`.
        mask_false_negatives: another user's target leaves an anchor's denominator if the item is also
            among the anchor's own user's sampled targets. Beyond the paper.
        log_q: subtract log popularity (as target) from every candidate's logit. Beyond the paper.
    """

    pairs: Literal["all_action", "next_item"] = "all_action"
    num_hist: int = Field(10, gt=0)
    num_targets: int = Field(10, gt=0)
    alpha: float = Field(10.0, gt=1)
    beta: float = Field(10000.0, gt=1)
    negatives: Literal["in_batch", "catalogue", "sampled"] = "in_batch"
    num_sampled: int = Field(1024, gt=0)
    mask_false_negatives: bool = False
    log_q: bool = False

    @model_validator(mode="after")
    def _check_pairs(self) -> "LossConfig":
        if self.pairs == "next_item" and self.negatives == "in_batch":
            raise ValueError("pairs next_item needs negatives catalogue or sampled; negatives is in_batch")
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
    """Size, loss and training positions of the sequential baselines, which learn a vector by item id.

    Attributes:
        kind: `sasrec` (models/baselines/sasrec.py) or `hstu` (models/baselines/hstu.py).
        d_model, layers, heads, dropout: the blocks'.
        max_len: longest input; of a longer one the most recent items count.
        loss: `bce`, binary cross-entropy with one uniformly drawn negative a position (SASRec's paper);
            `cross_entropy`, the softmax over every item of the training snapshot; `sampled`, the softmax over
            the positive and num_sampled of those items, drawn for each position (HSTU's experiments).
        num_sampled: drawn items of a position, with `sampled`.
        positions: `all`, every item of history and targets predicts the next one, which wants snapshots of one
            row a user (of prefix rows, early items would train once a row); `last`, the history's last item
            predicts the first target, which wants a row a prefix.
        repeat_bias: as of TowersConfig; not with bce, whose negatives are never the row's own.
        temperature: hstu's inner products of unit vectors are divided by it; sasrec's plain ones are not.
        time_buckets: hstu's relative time bias has so many buckets and one more.
    """

    kind: Literal["sasrec", "hstu"] = "sasrec"
    d_model: int = Field(64, gt=0)
    layers: int = Field(2, ge=0)
    heads: int = Field(1, gt=0)
    dropout: float = Field(0.2, ge=0, lt=1)
    max_len: int = Field(50, gt=0)
    loss: Literal["bce", "cross_entropy", "sampled"] = "cross_entropy"
    num_sampled: int = Field(128, gt=0)
    positions: Literal["all", "last"] = "all"
    repeat_bias: bool = False
    temperature: float = Field(0.05, gt=0)
    time_buckets: int = Field(128, gt=0)

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


class ValidationConfig(Settings):
    """Retrieval over all items, on the validation snapshot.

    Attributes:
        k: cut-off of recall and NDCG.
        prior_weight: weight of log popularity added to the logit when ranking; in-batch negatives teach
            lift over popularity, not probability, so 1 is right without the log-Q correction and 0 with it.
        prior_days: popularity is counted over the last so many days of the validation histories.
    """

    k: int = Field(50, gt=0)
    prior_weight: float = Field(0.0, ge=0)
    prior_days: int = Field(28, gt=0)


class CVRConfig(Settings):
    """Size and switches of the conversion model.

    Attributes:
        hidden: widths of the hidden layers before mid_emb.
        mid_dim: width of mid_emb.
        fusion: `concat` (the paper's), or `concat+product`: the elementwise product joins in.
        dropout: on every hidden layer before mid_emb.
        batch_norm: normalise every hidden layer before mid_emb over the batch, before its activation; scoring uses
            the training's running means. Rows count alike, whatever their weights.
    """

    hidden: tuple[int, ...] = (128,)
    mid_dim: int = Field(32, gt=0)
    fusion: Literal["concat", "concat+product"] = "concat"
    dropout: float = Field(0.1, ge=0, lt=1)
    batch_norm: bool = False


class StreamConfig(Settings):
    """How a snapshot is read.

    Attributes:
        reader: `petastorm`, or `arrow` (the same interface over pyarrow alone).
        shuffle_rows: rows held for shuffling across row groups.
        verify_sha256: check the files against the manifest's hashes before training.
    """

    reader: Literal["petastorm", "arrow"] = "petastorm"
    shuffle_rows: int = Field(65536, gt=0)
    verify_sha256: bool = True


# Of a training's settings those that change where, how fast or how safely it runs, never what it learns.
NOT_LEARNED = {"threads", "checkpoint_seconds", "checkpoint_steps", "rank_timeout"}


class TrainConfig(Settings):
    """Settings of the loop.

    Attributes:
        batch_size: rows of a step, on each rank.
        epochs: passes over the training snapshot; the learning rate's cosine ends with the last one.
        max_seconds: stop after this time, whatever the epochs (evaluation included).
        learning_rate, weight_decay, clip_norm: AdamW and the gradients' largest norm.
        warmup_share: share of all steps that is linear warm-up before the cosine.
        evaluate_every: steps between evaluations; by default once an epoch.
        patience: stop after so many evaluations without a better metric.
        log_every: steps between lines of metrics.jsonl.
        seed: of the initial weights, the order of the data and all sampling.
        threads: torch threads; by default torch's own choice.
        device: `auto` is cuda where there is a GPU.
        precision: of the matrix products (autocast); `auto` is bfloat16 on GPUs that have it, float32 elsewhere.
        checkpoint_seconds, checkpoint_steps: a killed training goes on from a checkpoint, written when so many
            seconds have passed since the last one, and besides, if given, every so many steps.
        rank_timeout: seconds that the ranks of a distributed training wait for each other (evaluation included).
    """

    batch_size: int = Field(128, gt=1)
    epochs: int = Field(10, gt=0)
    max_seconds: float | None = Field(None, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    warmup_share: float = Field(0.05, ge=0, le=1)
    evaluate_every: int | None = Field(None, gt=0)
    patience: int = Field(3, gt=0)
    log_every: int = Field(10, gt=0)
    seed: int = Field(1, ge=0)
    threads: int | None = Field(None, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_seconds: float = Field(60.0, ge=0)
    checkpoint_steps: int | None = Field(None, gt=0)
    rank_timeout: float = Field(600.0, gt=0)


class RankerConfig(Settings):
    """The production-like ranker's trees (models/evaluation/ranker.py); the same with and without embeddings.

    Attributes:
        max_iter, patience: at most so many trees; stop when so many brought no lower validation loss.
        learning_rate, max_leaf_nodes, min_samples_leaf, l2_regularization, max_bins: of the trees.
        max_features: share of the features that a split may choose from, drawn by the seed.
    """

    max_iter: int = Field(200, gt=0)
    patience: int = Field(10, gt=0)
    learning_rate: float = Field(0.1, gt=0)
    max_leaf_nodes: int = Field(31, gt=1)
    min_samples_leaf: int = Field(50, gt=0)
    l2_regularization: float = Field(1.0, ge=0)
    max_bins: int = Field(64, gt=2, le=255)
    max_features: float = Field(0.5, gt=0, le=1)
