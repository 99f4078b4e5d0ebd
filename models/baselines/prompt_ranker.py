"""Recommendation as a prompt: the history in words, and the likelihood of each candidate's text after it.

As in LLMRank (Hou et al., ECIR 2024, arXiv 2305.08845) the history is an ordered list and a few candidates are ranked;
as in TALLRec (Bao et al., RecSys 2023, arXiv 2305.00447) adapters are trained on such prompts. Differences: a
candidate's score is the log-likelihood of its text after the prompt (LLMRank lets the model write a ranking, TALLRec
compares "Yes" with "No"; P5, arXiv 2203.13366, generates ids); the training loss covers only the next item's text;
there is one template.

Shapes: B rows, S sampled rows, C candidates per row, H history length, L tokens, V vocabulary, D width,
P tokens of the answers.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract.failures import BadInput
from models.contract.language_models import PromptConfig
from models.data.item_texts import ItemTexts
from models.encoder.encoder import expanded
from models.encoder.language_model import LanguageModel
from models.encoder.tokens import continuation, first_tokens, padded
from models.metrics.sampled_candidates import SampledCandidates


class PromptRanker(nn.Module):
    """Scores candidates by the likelihood of their texts after a prompt.

    Args:
        config: the language model and the template.
        texts: the items' texts.
        num_items: the items are 0 .. num_items - 1; one without a text counts as "".

    Raises:
        BadInput: the longest prompt does not fit into the model's positions.
    """

    def __init__(self, config: PromptConfig, texts: ItemTexts, num_items: int) -> None:
        super().__init__()
        self.language = LanguageModel(config.llm, has_head=True)
        self.config = config.model_copy(update={"llm": self.language.config})
        self.texts, self.num_items = texts, num_items
        tokenizer = self.language.tokenizer
        self.heading = first_tokens(tokenizer, [config.heading], self.language.longest)[0]
        self.bullet, self.question = (continuation(tokenizer, text) for text in ("\n- ", f"\n{config.question}\n- "))
        self.end = continuation(tokenizer, "\n")
        # All texts are tokenised here: two threads must not use a tokenizer at the same time.
        self.items = [continuation(tokenizer, text, config.max_tokens) for text in texts.of(np.arange(num_items))]
        longest = max(map(len, self.items), default=0)
        needed = len(self.heading) + config.history * (len(self.bullet) + longest) + len(self.question) + longest
        if needed + len(self.end) > self.language.longest:
            raise BadInput(
                f"history {config.history} with texts of {longest} tokens needs {needed + len(self.end)} positions,"
                f" but {config.llm.model} has {self.language.longest}: set model.history or model.max_tokens lower"
            )

    def prompt(self, hist_items_H: np.ndarray, hist_len: int) -> list[int]:
        """Token ids of a history's prompt, up to where the next item's text begins."""
        recent = hist_items_H[max(0, hist_len - self.config.history) : hist_len]
        return [*self.heading, *(i for item in recent for i in (*self.bullet, *self.items[item])), *self.question]

    def answer(self, item: int) -> list[int]:
        """Token ids of an item's text and of the line end after it."""
        return [*self.items[item], *self.end]

    @torch.inference_mode()
    def scores(self, prompt: Sequence[int], item_C: np.ndarray) -> tuple[np.ndarray, int]:
        """The candidates' scores, float64 [C], and the number of tokens read. The prompt is read once for them all."""
        self.eval()
        device = self.language.model.device
        read = self.language.model(input_ids=torch.tensor([prompt], device=device), use_cache=True)
        answers = [self.answer(item) for item in item_C]
        ids_CL, length_C = (x.to(device) for x in padded(answers, self.language.tokenizer.pad_id))
        after_CLV = self.language.model(
            input_ids=ids_CL, past_key_values=expanded(read.past_key_values, len(answers)), use_cache=True
        ).logits
        logits_CLV = torch.cat([read.logits[:, -1:].expand(len(answers), 1, -1), after_CLV[:, :-1]], dim=1)
        likelihood_C = answer_likelihoods(logits_CLV, ids_CL, length_C)
        if self.config.score == "mean":
            likelihood_C = likelihood_C / length_C
        return likelihood_C.double().cpu().numpy(), len(prompt) + int(length_C.sum())

    def sampled_scores(self, rows: Mapping[str, np.ndarray], sampled: SampledCandidates) -> tuple[np.ndarray, int]:
        """The sampled candidates' scores, float64 [S, C], and the number of tokens that the model read for them.

        Args:
            rows: hist_items and hist_len of the split from which `sampled` was drawn.
            sampled: rows and candidates.
        """
        scores_SC, num_tokens = np.zeros(sampled.item_SC.shape), 0
        for place, row in enumerate(sampled.row_S):
            prompt = self.prompt(rows["hist_items"][row], int(rows["hist_len"][row]))
            scores_SC[place], tokens = self.scores(prompt, sampled.item_SC[place])
            num_tokens += tokens
        return scores_SC, num_tokens

    def forward(self, ids_BL: Tensor, first_B: Tensor, length_B: Tensor) -> Tensor:
        """The mean negative log-likelihood of the answers' tokens, a scalar.

        Args:
            ids_BL: each prompt followed by its answer, right-padded.
            first_B: where the answers begin.
            length_B: number of ids of prompt and answer together.
        """
        state_BLD = self.language.model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        place_L = torch.arange(ids_BL.shape[1] - 1, device=ids_BL.device)
        is_before_BL = (place_L >= first_B[:, None] - 1) & (place_L < length_B[:, None] - 1)
        head = cast(nn.Module, self.language.model.get_output_embeddings())  # every causal model has one
        logits_PV = head(state_BLD[:, :-1][is_before_BL])
        return F.cross_entropy(logits_PV.float(), ids_BL[:, 1:][is_before_BL])


def answer_likelihoods(logits_CLV: Tensor, ids_CL: Tensor, length_C: Tensor) -> Tensor:
    """The log-likelihood of each answer's first `length_C` ids, float32 [C].

    Args:
        logits_CLV: the logits for the token at position l, given all tokens before it.
        ids_CL: the answers' ids, right-padded.
        length_C: number of ids of each answer.
    """
    log_CL = -F.cross_entropy(logits_CLV.float().transpose(1, 2), ids_CL, reduction="none")
    is_real_CL = torch.arange(ids_CL.shape[1], device=ids_CL.device) < length_C[:, None]
    return log_CL.masked_fill(~is_real_CL, 0.0).sum(1)
