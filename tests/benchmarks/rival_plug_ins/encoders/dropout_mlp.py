"""32-128 with dropout 0.2: the part of the rivals' MLP below its last layer."""

from torch import Tensor, nn

from runner.schema import Options

KIND = "records"


class Config(Options):
    """Nothing to choose."""


def build(config: Config, inputs: int) -> nn.Module:
    return DropoutMlp()


class DropoutMlp(nn.Module):
    width = 128

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, vectors_BD: Tensor) -> Tensor:
        features: Tensor = self.body(vectors_BD)
        return features
