"""Settings of the systems that train a language model, without torch."""

from typing import Literal

from pydantic import Field

from models.contract.strict import Settings


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al., ICLR 2022, arXiv 2106.09685): W x + (alpha / rank) B A x, B zero at the start.

    Attributes:
        rank, alpha, dropout: of the adapters; dropout on their input.
        targets: names of the linear layers that get one; null: every linear layer but the output's.
    """

    rank: int = Field(8, gt=0)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] | None = None


class LanguageModelConfig(Settings):
    """A causal language model and what is trained of it.

    Attributes:
        model: a local folder or a hub name.
        revision: a hub name's commit.
        dtype: of the frozen weights; adapters and whatever else is trained are float32.
        digest: sha256 over the model's files; null where nobody has looked yet. A model that is saved holds it, and
            is refused on top of other files.
        lora: the adapters; null: nothing of the model is trained.
        gradient_checkpointing: training keeps each layer's input alone and computes the rest again in the backward
            pass: a third more time, a fraction of the memory.
    """

    model: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    digest: str | None = None
    lora: LoraConfig | None = LoraConfig()
    gradient_checkpointing: bool = True


class NoteLLMConfig(Settings):
    """Item-to-item contrastive training of a text encoder (models/baselines/notellm.py).

    Attributes:
        llm: the language model.
        max_tokens: of an item's text; longer ones are cut.
        instruction: stands between the text and the compression token.
        out_dim: width of an item's vector.
        related: at most so many items count as related to an item, those of the highest co-occurrence.
        min_score, max_score: related items have at least and at most this co-occurrence (null: no upper bound; the
            paper has both, as what goes together too often says little).
        log_scale: initial value of the learned log of the similarities' factor.
    """

    llm: LanguageModelConfig
    max_tokens: int = Field(64, gt=0)
    instruction: str = "\nCompress this item into one word:"
    out_dim: int = Field(64, gt=0)
    related: int = Field(10, gt=0)
    min_score: float = Field(0.0, ge=0)
    max_score: float | None = Field(None, gt=0)
    log_scale: float = 3.0


class PromptConfig(Settings):
    """Recommendation as a prompt (models/baselines/prompt_ranker.py).

    Attributes:
        llm: the language model; without adapters it is asked as it is.
        history: the last so many items of a history are written down.
        max_tokens: of an item's text; longer ones are cut.
        heading, question: what stands before the history, and between it and the candidate.
        score: `mean`, the candidate's log-likelihood a token; `sum`, of all its tokens.
        train_rows: at most so many training rows an epoch.
        candidates, validation_rows: of the sampled candidates that choose the best state (`SampledConfig`).
    """

    llm: LanguageModelConfig
    history: int = Field(20, gt=0)
    max_tokens: int = Field(32, gt=0)
    heading: str = "A customer bought, in this order:"
    question: str = "The next thing that this customer buys:"
    score: Literal["mean", "sum"] = "mean"
    train_rows: int = Field(20_000, gt=0)
    candidates: int = Field(20, gt=1)
    validation_rows: int = Field(200, gt=0)
