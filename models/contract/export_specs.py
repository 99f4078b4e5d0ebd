"""The specs of the exports: a release's models and vectors for servers."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.contract.spec import Spec
from models.contract.strict import Settings

PT2, ONNX = "pt2", "onnx"

Index = Literal["flat", "hnsw", "ivf", "none"]


class RetrievalWeights(Settings):
    """What a server adds to the inner product of user_emb and item_emb: the weights that ranked validation rows best.

    Attributes:
        repeat_bias: added for an item that the user's history holds.
        popularity_prior: factor of log(1 + purchases in the last `popularity_days` days).
    """

    repeat_bias: float
    popularity_prior: float
    popularity_days: int


class OnlineSpec(Spec):
    """The spec of `export-online`.

    Attributes:
        towers, cvr: model folders; one of them may be None.
        retrieval: copied into result.json; None if it was not measured.
        out_dir: gets user_tower, item_tower and cvr, each as .pt2 and .onnx, and result.json, which describes them and
            names the event types that user_tower reads, if any.
        formats: which of the two formats to write.
    """

    command: ClassVar[str] = "export-online"
    module: ClassVar[str] = "models.export.online_programs"
    help: ClassVar[str] = "write towers and conversion model as programs for a server"

    towers: Path | None = None
    cvr: Path | None = None
    retrieval: RetrievalWeights | None = None
    formats: tuple[Literal["pt2", "onnx"], ...] = (PT2, ONNX)

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.towers is None and self.cvr is None:
            raise ValueError("towers and cvr are both missing: name the folder of one, or of both")
        return self


class VectorsSpec(Spec):
    """The spec of `export-vectors`.

    Attributes:
        items: a snapshot with item_id, item_idx, item_emb, one row per item.
        users: a snapshot with user_emb: the queries with which losses of recall are measured.
        out_dir: gets items.parquet (item_id, item_idx, in the order of the vectors), vectors.f32, vectors.f16,
            vectors.i8 with its scales.f32 (little-endian, row by row), index.faiss, and result.json.
        index: `flat` (exact), `hnsw` (a graph), `ivf` (cells), or `none`. All rank by the inner product.
        k: results per query, for recall.
        threads: for the index and its search.
    """

    command: ClassVar[str] = "export-vectors"
    module: ClassVar[str] = "models.export.item_vectors"
    help: ClassVar[str] = "write item vectors for retrieval: an index, smaller copies"

    items: Path
    users: Path
    index: Index = "hnsw"
    k: int = Field(default=50, gt=0)
    threads: int = Field(default=2, gt=0)


class CodesSpec(Spec):
    """The spec of `export-codes`.

    Attributes:
        items: a snapshot with item_id, item_idx, item_codes, one row per item.
        codebook: the file of the codebook that the codes belong to.
        out_dir: gets items.parquet (item_id, item_idx, item_codes, tokens, sorted by tokens), trie.parquet (one row per
            node), codebook.json, and result.json.
    """

    command: ClassVar[str] = "export-codes"
    module: ClassVar[str] = "models.export.code_tokens"
    help: ClassVar[str] = "write item codes for generative rankers: tokens, a trie"

    items: Path
    codebook: Path
