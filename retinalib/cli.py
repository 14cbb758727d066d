"""The command ``retinalib``: find faces, train and compare networks, check data sets, run the notebooks.

What goes wrong is said in one sentence, with exit code 2 if nothing was done, and 1 if something was found wrong on the way."""

import json
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
from tqdm import tqdm

from retinalib.datasets import wflw
from retinalib.datasets.describe import description, faults, load_listed, official_lists
from retinalib.datasets.photos import find_photos, picture_names
from retinalib.datasets.table import read_image
from retinalib.faces import Faces
from retinalib.files import write_bytes, write_text

_FOLDER = click.Path(path_type=Path, file_okay=False)
_COUNT, _FROM_ZERO, _SHARE = click.IntRange(min=1), click.IntRange(min=0), click.FloatRange(0, 1)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_DEVICE = click.option("--device", help="cpu, cuda or mps; by default a GPU if there is one.")
_NORMALISATION = click.option(
    "--normalisation", type=click.Choice(["imagenet", "reference"]), help="Of weights that do not say what they learned with."
)
_EPOCHS = click.option("--epochs", type=_COUNT, help="By default those of the profile.")
_PROFILE = click.option("--profile", default="standard", type=click.Choice(["quick", "standard", "shipped", "full"]))
_WORKBOOK_PROFILE = click.option("--profile", default="standard", type=click.Choice(["quick", "standard", "full"]))
_DATA_ROOT = click.option("--data-root", help="Folder of the data set, by default below data/.")
_DATASET = click.option("--dataset", default="synthetic", help="synthetic, wflw (98 landmarks), wider (5).")


def _sentence(error: Warning | Exception | str) -> str:
    return " ".join(str(error).split())


class _Group(click.Group):
    """Says in a sentence what the library raises, or warns of."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_: click.echo(f"note: {_sentence(message)}", err=True)
                return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise click.UsageError(_sentence(error)) from error


class _SeveralValues(click.Command):
    """Options that can be repeated also take several values at once: ``--seeds 0 1 2``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeated = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        words, option = [], None
        for word, following in zip(args, [*args[1:], "--"], strict=True):
            if word.startswith("-"):
                option = word if word in repeated and not following.startswith("-") else None
            if word != option:
                words += [option, word] if option else [word]
        return super().parse_args(ctx, words)


@contextmanager
def _training(device: str | None) -> Iterator[None]:
    """Refuses a device that can't be used, and says in a sentence why a training ended early."""
    from retinalib.model import pick_device
    from retinalib.runs import Stopped

    if device:
        pick_device(device)
    try:
        yield
    except (FloatingPointError, Stopped) as error:
        raise click.ClickException(_sentence(error)) from error


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}
)
def main() -> None:
    """RetinaFace with 98 landmarks: finds faces and measures their pupils."""


@main.command()
@click.argument("folder", type=_FOLDER)
@_DATASET
@_DATA_ROOT
@_PROFILE
@_EPOCHS
@_DEVICE
@click.option("--start-from", help="Weights to begin with, as far as they fit: a shipped name, a run folder or a file.")
@click.option("--se-reduction", type=_COUNT, help="SE blocks with this reduction; without: no SE.")
@click.option("--seed", default=0, type=_FROM_ZERO, help="Of weights, order and crops.")
@click.option("--data-seed", default=0, type=_FROM_ZERO, help="Of rendered faces.")
@click.option("--workers", default=1, type=_FROM_ZERO, help="Processes that make the crops.")
def train(folder: Path, profile: str, device: str | None, start_from: str | None, workers: int, **options: Any) -> None:
    """Trains the run in FOLDER, or goes on with it; in N processes under torchrun --nproc-per-node=N -m retinalib.train."""
    from retinalib.config import PROFILES
    from retinalib.train import process_group, train
    from retinalib.workspace import open_dataset

    with _training(device), process_group(device) as first:
        place = options["dataset"], options["data_root"], profile, options["data_seed"]
        sets = [open_dataset(*place, split) for split in ("train", "validation")]
        wishes = (options[name] for name in ("se_reduction", "seed", "epochs"))
        config = PROFILES[profile].train_config(*wishes, schema=sets[0].schema)
        history = train(replace(config, start_from=start_from), *sets, folder, device, workers)
        if first:
            click.echo(history.tail(1).to_string(index=False))


@main.command(cls=_SeveralValues)
@_DATASET
@_DATA_ROOT
@_PROFILE
@_EPOCHS
@_DEVICE
@click.option("--arms", multiple=True, default=["no-se", "se16"], help="Of ablation.ARMS; the first is the baseline.")
@click.option("--seeds", multiple=True, type=_FROM_ZERO, help="By default as many as the profile has.")
@click.option("--runs", type=_FOLDER, help="Where runs are kept, by default data/runs.")
@click.option("--processes", type=_COUNT, help="Runs side by side on a CPU, by default one a core.")
@click.option("--out", type=_FOLDER, help="Folder for the tables, by default they are only printed.")
def ablation(**options: Any) -> None:
    """Trains and measures arms with several seeds, and compares them.

    Finished runs are reused: one arm or one seed a job, then a last call with all of them puts the tables together."""
    from retinalib.ablation import report

    with _training(options["device"]):
        report(**options)


@main.command()
@_DATASET
@_DATA_ROOT
@_PROFILE
@click.option("--checkpoint", help="A shipped name, a run folder or a file; by default the first of retinalib checkpoints.")
@click.option("--given-boxes", is_flag=True, help="Landmarks in the labelled boxes, by WFLW's subsets, as in publications.")
@_DEVICE
def evaluate(checkpoint: str | None, given_boxes: bool, device: str | None, **place: str | None) -> None:
    """Measures a detector on a data set's test photos, with smaller copies of large ones; low and high: 95 % over photos."""
    from retinalib.ablation import measure
    from retinalib.detect import load_detector
    from retinalib.studies import protocols
    from retinalib.workspace import PROJECT, open_dataset

    detector = load_detector(checkpoint, device)
    if given_boxes and place["dataset"] == "wflw":  # the list's own boxes, not WIDER FACE's
        photos = wflw.load(PROJECT / (place["data_root"] or "data/wflw"), "test")
    else:
        photos = open_dataset(**place, seed=0, split="test")
    if given_boxes:
        table = protocols.by_subset(protocols.in_given_boxes(detector, photos))
    else:
        table = protocols.end_to_end(*measure(detector, photos, pyramid=True)[:2], photos.names)
    click.echo(table.round(4).to_string())


@main.command()
@click.argument("checkpoint")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--what", default="detector", type=click.Choice(["detector", "network", "looks"]))
@click.option("--score-threshold", default=0.5, type=_SHARE, help="Fixed in the file.")
@click.option("--nms-threshold", default=0.4, type=_SHARE, help="Fixed in the file.")
@_NORMALISATION
def export(checkpoint: str, out: Path, what: str, normalisation: str | None, **thresholds: float) -> None:
    """Writes a CHECKPOINT (a shipped name, a run folder or a file) to OUT.onnx: detector, network or second looks."""
    from retinalib.detect import load_detector

    model = load_detector(checkpoint, "cpu", normalisation).model
    try:
        from retinalib.export import OUTPUTS, export

        written = export(model, out, what, **thresholds)
    except ImportError as error:
        raise click.UsageError(f"{_sentence(error)}: exporting needs ONNX, pip install -e '.[export]'") from error
    given = "patches (N, rows, columns, 3)" if what == "looks" else "images (B, H, W, 3)"
    for path in written:
        click.echo(f"{path}: {given} uint8 RGB to {', '.join(OUTPUTS[what])}")
    if what != "looks":
        click.echo("Faces are those of one look at the photo's own size: no pyramid, no second look.")


@main.command()
@click.argument("notebooks", nargs=-1)
@_WORKBOOK_PROFILE
def workbook(notebooks: tuple[str, ...], profile: str) -> None:
    """Runs the NOTEBOOKS whose names begin so, such as 01 05, by default all: in place, or at another profile into build/."""
    from retinalib.workbook import make

    make(notebooks, profile)


@main.command("wflw")
@click.argument("root", type=_FOLDER)
@_WORKBOOK_PROFILE
def report_on_wflw(root: Path, profile: str) -> None:
    """From WFLW's archives in ROOT, such as data/wflw, to a report: extracts them, checks the lists, says how long the training
    will take, and runs chapters 1, 2, 4, 5 and 6, which train and measure.

    Notebooks go to build/wflw-PROFILE, figures to figures/wflw-PROFILE. Interrupted, it goes on. What the check finds is said,
    and the data set's policy deals with it (see data/README.md)."""
    from retinalib.workbook import forecast, make

    root = root.resolve()
    extract.callback("wflw", root)
    with suppress(SystemExit):
        check.callback(root)
    click.echo(forecast("wflw", root, profile))
    make(("01", "02", "04", "05", "06"), profile, "wflw", root)


@main.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO…", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=_FOLDER, help="Folder for the pictures, faces.csv and faces.json.")
@click.option("--checkpoint", help="A shipped name, a run folder or a file; by default the first of retinalib checkpoints.")
@click.option("--score-threshold", default=0.5, type=_SHARE, help="Least score of a face.")
@click.option("--all-turns", is_flag=True, help="Look at each photo also turned by 90, 180 and 270 degrees.")
@_NORMALISATION
@_DEVICE
def detect(photos: tuple[Path, ...], out: Path, checkpoint: str | None, score_threshold: float, **options: Any) -> None:
    """Finds the faces of photos, or of all photos below a folder.

    Writes each photo with its faces drawn in, faces.csv (a row per face: box, score, and with 98 landmarks what the pupils say)
    and faces.json (landmarks as well). A photo that can't be read or written is named, and the others go on."""
    paths = find_photos(photos)
    from retinalib.detect import find_checkpoint, load_detector  # torch takes seconds to load, and a wrong path should not
    from retinalib.plots.style import annotated
    from retinalib.plots.tables import face_records, face_table

    detector = load_detector(find_checkpoint(checkpoint), options["device"], options["normalisation"])
    turns = (0, 90, 180, 270) if options["all_turns"] else (0,)
    schema = detector.model.config.schema
    rows, records, names = [], [], picture_names(paths)
    try:
        for path in tqdm(paths, desc="detecting", unit="photo", disable=None):
            try:
                image = read_image(path, honour_exif=True)
                faces = detector.detect(image, score_threshold, turns=turns)
                write_bytes(out / names[path], annotated(image, faces))
            except (OSError, ValueError) as error:
                with tqdm.external_write_mode():
                    click.echo(f"left out: {_sentence(error)}", err=True)
                continue
            photo, picture = map(click.format_filename, (path, names[path]))  # a name may be no UTF-8
            rows += face_table(faces).assign(photo=photo, picture=picture).to_dict("records")
            size = {"height": image.shape[0], "width": image.shape[1]}
            records.append({"photo": photo, "picture": picture, **size, "faces": face_records(faces)})
    finally:
        if records or not sys.exception():  # interrupted, what was found is kept, and with nothing an earlier result
            table = pd.DataFrame(rows, columns=["photo", "picture", *face_table(Faces.empty(schema))])
            write_text(out / "faces.csv", table.round(4).to_csv(index=False))
            about = {"checkpoint": checkpoint or find_checkpoint().stem, "score_threshold": score_threshold}
            about |= {"schema": schema.name, "photos": records}
            write_text(out / "faces.json", json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False))
            click.echo(f"photos: {len(records)}, faces: {len(table)}, written to {out}")
    if failed := len(paths) - len(records):
        click.echo(f"photos left out: {failed} of {len(paths)}", err=True)
        sys.exit(1)


@main.command()
@click.argument("video")
@click.option("--out", required=True, type=_FOLDER, help="Folder for trace.csv, blinks.csv, trace.png and trace.json.")
@click.option("--checkpoint", help="A shipped name, a run folder or a file; by default the first of retinalib checkpoints.")
@click.option("--every", default=10, type=_COUNT, help="Frames from one detection to the next; second looks follow in between.")
@click.option("--gap", default=1.0, type=click.FloatRange(min=0), help="Seconds for which a lost face keeps its number.")
@click.option("--min-cutoff", default=0.5, type=_POSITIVE, help="One-Euro filter: Hz, of a face at rest.")
@click.option("--beta", default=64.0, type=click.FloatRange(min=0), help="One-Euro filter: Hz for each face size a second.")
@click.option("--annotated", is_flag=True, help="Write annotated.mp4, too, of a video file.")
@_DEVICE
def track(video: str, out: Path, checkpoint: str | None, device: str | None, annotated: bool, **options: Any) -> None:
    """Follows the faces of VIDEO, a file, a stream's address or a camera's number, and measures their pupils in each frame.

    trace.csv has a row per frame and face. Interrupted, it goes on where it was; of a camera or stream, Ctrl-C ends it."""
    from retinalib.datasets.video import Video
    from retinalib.detect import find_checkpoint, load_detector
    from retinalib.tracking import Tracker, write_trace
    from retinalib.tracking.one_euro import OneEuro

    smoothing, name = OneEuro(options["min_cutoff"], options["beta"]), checkpoint or find_checkpoint().stem
    tracker = Tracker(load_detector(name, device), options["every"], options["gap"], smoothing)
    source = Video(video)
    if not source.file:
        signal.signal(signal.SIGINT, lambda *_: source.close())
    done = write_trace(source, tracker, out, annotated, name)
    said = ", ".join(f"{name} {value:g}" for name, value in done["parameters"].items())
    click.echo(f"frames: {done['frames']}, faces: {done['faces']}, blinks: {done['blinks']}, written to {out} ({said})")


@main.command()
def checkpoints() -> None:
    """Lists the checkpoints that come with the project, the default first, and which faces each learned from."""
    from retinalib.checkpoint import load_model
    from retinalib.detect import CHECKPOINTS, available_detectors

    for name in available_detectors():
        config = load_model(CHECKPOINTS / f"{name}.pt").config
        se = f"SE with reduction {config.se_reduction}" if config.se_reduction else "no SE"
        known = config.trained_on
        faces = f"faces of {known.smallest:.0f} to {known.largest:.0f} px, ±{known.turns:.0f}°"
        click.echo(f"{name:16} {config.backbone}, {config.schema.name}, {se}, {faces}")


@main.group(cls=_Group)
def datasets() -> None:
    """Extracts, checks or describes a data set."""


@datasets.command()
@click.argument("root", type=_FOLDER)
def check(root: Path) -> None:
    """Reads the lists in ROOT (WFLW's or WIDER FACE's layout) and every photo they name; says what is wrong by file and line.

    Exit code 1 if anything is: what stops the reading, what is set aside, and what is repaired (see data/README.md)."""
    tables, wrong = {}, []
    for path, read, images in official_lists(root):
        try:
            tables[path] = read(path)
        except ValueError as error:
            wrong.append(_sentence(error))
            continue
        photos = tables[path]["image"].nunique() + len(tables[path].attrs.get("no_faces", []))
        wrong += [f"{path}, {_sentence(said)}" for said in faults(tables[path], images)]
        click.echo(f"{path.stem}: photos {photos:,}, faces {len(tables[path]):,}")
    train, test = (tables.get(root / wflw.LISTS.format(split=split)) for split in ("train", "test"))
    if train is not None and test is not None:
        shared = sorted(set(train["image"]) & set(test["image"]))
        wrong += [f"{name} is in the train and in the test list" for name in shared]
    for sentence in wrong:
        click.echo(sentence, err=True)
    if wrong:
        click.echo(f"things wrong: {len(wrong):,}", err=True)
        sys.exit(1)
    click.echo("nothing wrong")


@datasets.command()
@click.argument("root", type=_FOLDER)
@click.option("--split", default="train", type=click.Choice(["train", "test"]))
def describe(root: Path, split: str) -> None:
    """Prints what the data set in ROOT holds (WFLW's or WIDER FACE's layout): faces, sizes, attributes, and what is odd.

    WIDER FACE's validation is its "test", since its test has no public truth."""
    click.echo(description(load_listed(root, split)).to_string(header=False))


@datasets.command()
@click.argument("root", type=_FOLDER)
@click.option("--out", required=True, type=_FOLDER, help="Folder for audit.csv, worst.png and duplicates.csv.")
@click.option("--checkpoint", help="A shipped name, a run folder or a file; by default the first of retinalib checkpoints.")
@_DEVICE
def audit(root: Path, out: Path, checkpoint: str | None, device: str | None) -> None:
    """Lists the faces in ROOT (WFLW's or WIDER FACE's layout) whose landmarks a network disputes most, and photos that are
    there twice. Labels, green on the contact sheet, are audited if the network has the same landmarks."""
    from retinalib.detect import load_detector
    from retinalib.plots.audit import write_audit

    said = write_audit(root, load_detector(checkpoint, device), out)
    click.echo(f"{said}, written to {out}")


@datasets.command("stand-in")
@click.argument("root", type=_FOLDER)
@click.option("--dataset", default="wflw", type=click.Choice(["wflw", "wider"]))
@click.option("--photos", type=click.IntRange(min=20), help="By default as many as the data set has.")
def stand_in(root: Path, **options: Any) -> None:
    """Writes archives and lists of WFLW's or WIDER FACE's size into ROOT, of rendered faces and copies: to test scale only."""
    from retinalib.rendered.stand_in import make

    click.echo(f"archives and lists are in {make(root, **options)}")


@datasets.command()
@click.argument("dataset", type=click.Choice(["wflw", "wider"]))
@click.argument("root", type=_FOLDER)
def extract(dataset: str, root: Path) -> None:
    """Extracts the official archives that lie in ROOT, such as data/wflw, and counts their faces."""
    from retinalib.datasets.archives import prepare

    counts = prepare(dataset, root)
    click.echo("complete: " + ", ".join(f"{count:,} {split} faces" for split, count in counts.items()))
