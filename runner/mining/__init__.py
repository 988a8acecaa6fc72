"""Which samples an anchor is compared with: positives and hard negatives by their classes, and class distances."""
