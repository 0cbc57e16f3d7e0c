"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8 x 8 pixels."""

import numpy as np

from normjax.data.source import MemorySource, Subset
from normjax.data.splits import stratified_split


def load_digits(split: str, seed: int) -> Subset:
    """One side of a stratified 80/20 split by the seed.

    Args:
      split: ``train`` or ``test``.
      seed: decides the split.

    References:
      Alpaydin, Kaynak, `Optical Recognition of Handwritten Digits
      <https://archive.ics.uci.edu/dataset/80>`_, 1998.
    """
    from sklearn.datasets import load_digits as load

    digits = load()
    # 17 grey levels, 0 to 16, spread over a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    source = MemorySource(f"digits ({split})", [str(name) for name in digits.target_names], images, digits.target)
    train, test = stratified_split(digits.target, share=0.2, seed=seed)
    return Subset(source, train if split == "train" else test)
