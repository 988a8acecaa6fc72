"""Latent semantic analysis: tf-idf of a text's tokens, taken to a few dimensions by a truncated SVD of training texts.

Source: Deerwester et al. 1990, "Indexing by Latent Semantic Analysis". What `fit` finds is where training begins, and
where it stays if a method freezes the encoder. The weights are scikit-learn's: 1 + log n for a token found n times,
smoothed inverse document frequencies, texts of unit length.

Shapes: B texts, N training texts, L tokens, V vocabulary, E width.
"""

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.encoders.bag_of_tokens import TokenDropout, count_tokens
from runner.schema import Options

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

KIND = "records"


class Config(Options):
    width: int = Field(default=400, ge=1)
    """Width of the features; dimensions beyond the rank of the training texts are 0."""

    fewest_texts: int = Field(default=2, ge=1)
    """A token found in fewer training texts counts for nothing."""

    token_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the tokens that training leaves out, where the encoder is trained."""


class Lsa(nn.Module):
    """The sum of the embeddings of a text's tokens, weighted by tf-idf: random ones until `fit` is called."""

    idf: Tensor
    """(V,)"""

    def __init__(self, config: Config, vocabulary: int) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.register_buffer("idf", torch.ones(vocabulary))
        self.leave_out = TokenDropout(config.token_dropout)
        self.embedding = nn.EmbeddingBag(vocabulary, config.width, mode="sum", padding_idx=0)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """(B, width) features of int64 token ids, 0 for padding."""
        tokens_BL, count_BL = count_tokens(self.leave_out(tokens_BL))
        weight_BL = (1 + count_BL.log()) / count_BL * self.idf[tokens_BL] * (tokens_BL > 0)
        length_B1 = (weight_BL.square() * count_BL).sum(dim=1, keepdim=True).sqrt()
        # A text of unknown tokens only has no length; its features are 0.
        features: Tensor = self.embedding(tokens_BL, per_sample_weights=weight_BL / length_B1.clamp(min=1e-12))
        return features

    @torch.no_grad()
    def fit(self, *columns_NL: Tensor) -> None:
        """Take the frequencies and the largest dimensions of these texts, whichever column they stand in."""
        import numpy as np  # heavy, as scikit-learn is, and only needed here
        from scipy.sparse import vstack
        from sklearn.decomposition import TruncatedSVD
        from sklearn.preprocessing import normalize

        vocabulary = len(self.idf)
        counts = vstack([_weigh(tokens_NL, vocabulary) for tokens_NL in columns_NL]).tocsr()
        found_V = np.bincount(counts.indices, minlength=vocabulary)
        idf_V = np.log((1 + counts.shape[0]) / (1 + found_V)) + 1
        idf_V[found_V < self.config.fewest_texts] = 0
        tfidf = normalize(counts.multiply(idf_V).tocsr())
        svd = TruncatedSVD(min(self.width, *tfidf.shape), random_state=0).fit(tfidf)
        self.idf.copy_(torch.from_numpy(idf_V))
        self.embedding.weight.zero_()
        # By the root of the width, so that a feature is about 1 and not the whole vector.
        self.embedding.weight[:, : len(svd.components_)] = torch.from_numpy(svd.components_.T.copy()) * self.width**0.5


def _weigh(tokens_NL: Tensor, vocabulary: int) -> "csr_matrix":
    """(N, V): 1 + log n of every token of each text, in float64."""
    from scipy.sparse import csr_matrix

    tokens_NL, count_NL = count_tokens(tokens_NL)
    count_NL = count_NL.double()
    text_K, place_K = tokens_NL.nonzero(as_tuple=True)
    weight_K = ((1 + count_NL.log()) / count_NL)[text_K, place_K]
    # Equal places add up: n times the n-th part.
    return csr_matrix(
        (weight_K.numpy(), (text_K.numpy(), tokens_NL[text_K, place_K].numpy())), (len(tokens_NL), vocabulary)
    )


def build(config: Config, vocabulary: int) -> Lsa:
    """With random embeddings; a method with training texts at hand calls `fit`."""
    return Lsa(config, vocabulary)
