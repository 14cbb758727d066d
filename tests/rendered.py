"""Small sets of rendered faces for tests that train."""

from retinalib.datasets import synthetic


def rendered(tmp_path_factory, images, seed, size):
    """The training and the test photos of ``images`` pictures of ``size`` pixels a side."""
    root = synthetic.make(tmp_path_factory.mktemp("faces"), images, seed=seed, size=size, progress=False)
    return synthetic.load(root, "train"), synthetic.load(root, "test")
