"""Settings of the systems that train a language model, without torch."""

from typing import Literal

from pydantic import Field

from models.contract.strict import Settings


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al., ICLR 2022, arXiv 2106.09685): W x + (alpha / rank) B A x, B zero at the start."""

    rank: int = Field(default=8, gt=0)
    """Rank of A and B."""
    alpha: float = Field(default=16.0, gt=0)
    """Their weight, times the rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """On the adapters' input."""
    targets: tuple[str, ...] | None = None
    """Names of the linear layers that get one; null: every linear layer but the output's."""


class LanguageModelConfig(Settings):
    """A causal language model and what is trained of it."""

    model: str
    """A local folder or a hub name."""
    revision: str | None = None
    """A hub name's commit."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen weights; adapters and whatever else is trained are float32."""
    digest: str | None = None
    """sha256 over the model's files; null where nobody has looked yet. A model that is saved holds it, and is refused
    on top of other files."""
    lora: LoraConfig | None = LoraConfig()
    """The adapters; null: nothing of the model is trained."""
    gradient_checkpointing: bool = True
    """Training keeps each layer's input alone and computes the rest again in the backward pass: a third more time, a
    fraction of the memory."""


class NoteLLMConfig(Settings):
    """Item-to-item contrastive training of a text encoder (models/baselines/notellm.py)."""

    llm: LanguageModelConfig
    """The language model."""
    max_tokens: int = Field(default=64, gt=0)
    """Of an item's text; longer ones are cut."""
    instruction: str = "\nCompress this item into one word:"
    """Stands between the text and the compression token."""
    embedding_dim: int = Field(default=64, gt=0)
    """Width of an item's vector."""
    related: int = Field(default=10, gt=0)
    """At most so many items count as related to an item, those of the highest co-occurrence."""
    min_score: float = Field(default=0.0, ge=0)
    """Related items have at least this co-occurrence."""
    max_score: float | None = Field(default=None, gt=0)
    """And at most this one; null: no bound. The paper has both, as what goes together too often says little."""
    log_scale: float = 3.0
    """Initial value of the learned log of the similarities' factor."""


class PromptConfig(Settings):
    """Recommendation as a prompt (models/baselines/prompt_ranker.py)."""

    llm: LanguageModelConfig
    """The language model; without adapters it is asked as it is."""
    history: int = Field(default=20, gt=0)
    """The last so many items of a history are written down."""
    max_tokens: int = Field(default=32, gt=0)
    """Of an item's text; longer ones are cut."""
    heading: str = "A customer bought, in this order:"
    """Stands before the history."""
    question: str = "The next thing that this customer buys:"
    """Stands between the history and the candidate."""
    score: Literal["mean", "sum"] = "mean"
    """mean: the candidate's log-likelihood per token. sum: of all its tokens."""
    train_rows: int = Field(default=20_000, gt=0)
    """Training rows per epoch at most."""
    candidates: int = Field(default=20, gt=1)
    """Of the sampled candidates that choose the best state (`SampledConfig`)."""
    validation_rows: int = Field(default=200, gt=0)
    """Rows of those."""
