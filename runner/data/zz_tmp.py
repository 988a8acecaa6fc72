import gzip, torch
from runner.schema import Options
from runner.dataset import ImageSet
class Config(Options):
    limit: int | None = None
def build(config, split):
    k = "train" if split == "train" else "t10k"
    b = gzip.open(f"/usr/share/datasets/fashion-mnist/{k}-images-idx3-ubyte.gz").read()[16:]
    l = gzip.open(f"/usr/share/datasets/fashion-mnist/{k}-labels-idx1-ubyte.gz").read()[8:]
    n = 10000 if split == "train" else 2000
    if config.limit: n = min(n, config.limit)
    im = torch.frombuffer(bytearray(b), dtype=torch.uint8).view(-1,1,28,28)[:n].clone()
    la = torch.frombuffer(bytearray(l), dtype=torch.uint8)[:n].long()
    return ImageSet(im, la, tuple("0123456789"), (0.286,), (0.353,))
