"""The explorer of chapters 4 and 5: what detectors find, one beside the other."""

from functools import lru_cache

import cv2
from ipywidgets import Checkbox, FileUpload, FloatSlider, IntSlider
from matplotlib.figure import Figure

from retinalib.datasets.table import FaceDataset, decode_image
from retinalib.detect import Detector
from retinalib.faces import Faces
from retinalib.plots.style import draw_faces
from retinalib.widgets.explorer import Explorer, panels

LOWEST_SCORE = 0.05  # detections from here on are kept, so that the threshold needs no detection of its own


def detection_explorer(detectors: dict[str, Detector], dataset: FaceDataset) -> Explorer:
    """Shows what one or two detectors (name -> detector) find in a photo of the data set or an uploaded one (JPEG or PNG):
    truth in green, predictions and scores in blue. Raises ValueError for other numbers of detectors, or no photo."""
    if not 1 <= len(detectors) <= 2:
        raise ValueError(f"the explorer shows one or two detectors, got {len(detectors)}")
    if not len(dataset):
        raise ValueError("the data set holds no photo to look at")
    uploads, shown = [], {"upload": 0}  # which of them; 0: none

    @lru_cache(maxsize=64)
    def detected(name: str, number: int, nms: float) -> Faces:
        image = dataset[number][0] if number >= 0 else uploads[-number - 1]  # uploads count down from -1
        return detectors[name].detect(image, LOWEST_SCORE, nms, pyramid=True)

    def draw(photo: int, score: float, nms: float, landmarks: bool, truth: bool) -> tuple[Figure, str]:
        number = -shown["upload"] if shown["upload"] else photo - 1
        image, true = (uploads[-1], None) if shown["upload"] else dataset[number]
        height = 4.6 * min(1.4, max(0.5, image.shape[0] / image.shape[1]))
        figure, axes = panels([4.6] * len(detectors), height)
        counts = []
        for ax, name in zip(axes, detectors, strict=True):
            found = detected(name, number, nms)
            found = found[found.scores >= score]
            draw_faces(ax, image, true if truth else None, found, landmarks=landmarks)
            style = {"fontsize": 7, "color": "white", "backgroundcolor": "#1F5FE0AA", "va": "bottom"}
            for (x1, y1, *_), value in zip(found.boxes, found.scores, strict=True):
                ax.text(max(x1, 0), max(y1, 0), f"{value:.2f}", **style)
            ax.set_title(name, fontsize=9)
            counts.append(f"{name} finds {len(found)}")
        what = "your photo"
        if true is not None:
            what = f"{dataset.names[number].rpartition('/')[2]}, {len(true)} labelled face{'s' * (len(true) != 1)}"
        return figure, f"{what}: {', '.join(counts)} with a score of at least {score:.2f}"

    controls = {
        "photo": IntSlider(value=1, min=1, max=len(dataset), description="photo"),
        "score": FloatSlider(value=0.5, min=LOWEST_SCORE, max=0.99, step=0.01, description="score from"),
        "nms": FloatSlider(value=0.4, min=0.1, max=0.9, step=0.05, description="NMS: IoU"),
        "landmarks": Checkbox(value=True, description="landmarks", indent=False),
        "truth": Checkbox(value=True, description="truth", indent=False),
        "upload": FileUpload(accept=".jpg,.jpeg,.png", multiple=False, description="your photo"),
    }

    controls["photo"].observe(lambda _: shown.update(upload=0), "value")  # before the picture follows
    explorer = Explorer(controls, draw)

    def receive(change: dict) -> None:
        for file in change["new"]:
            try:
                image = decode_image(bytes(file["content"]), file["name"], honour_exif=True)
            except ValueError as error:
                return explorer.say(str(error))
            scale = min(1, 1280 / max(image.shape[:2]))  # pixels of the longer side
            size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
            uploads.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            shown["upload"] = len(uploads)
            explorer.update()

    controls["upload"].observe(receive, "value")
    return explorer
