"""Heads that map features to the space in which a loss compares them.

Shapes: B samples, D features.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class LayerNormProjection(nn.Module):
    """Three linear layers with layer norm between them: the LayerNormNet of CLEAN (Yu et al. 2023).

    Linear, layer norm, dropout, ReLU; the same again; linear. (Dropout and ReLU may change places: they commute.)
    """

    def __init__(self, inputs: int, hidden: int = 512, outputs: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.fc1, self.ln1 = nn.Linear(inputs, hidden), nn.LayerNorm(hidden)
        self.fc2, self.ln2 = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.fc3 = nn.Linear(hidden, outputs)
        self.dropout = nn.Dropout(dropout)
        self.width = outputs

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, outputs), not normalised."""
        x = F.relu(self.dropout(self.ln1(self.fc1(features_BD))))
        x = F.relu(self.dropout(self.ln2(self.fc2(x))))
        projected: Tensor = self.fc3(x)
        return projected
