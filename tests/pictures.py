"""Small sets of rendered faces for tests that train."""

from retinalib.rendered import load, make


def rendered_faces(tmp_path_factory, images, seed, size):
    """The training and the test photos of ``images`` pictures of ``size`` pixels a side."""
    root = make(tmp_path_factory.mktemp("faces"), images, seed=seed, size=size, progress=False)
    return load(root, "train"), load(root, "test")
