"""Review images on a page: accept what the model says, or correct it.

Shows one image at a time at http://127.0.0.1:5002, least confident first, with the model's answer
and the average image of its class. By default these are suspects, which are probable label errors:
models that have not seen these training images contradict their labels. With --new they are images
that `kmnist predict --review` has queued. The decisions go to reviews/DATASET.csv, for you to
commit; images that the dataset does not have go to data/reviewed/DATASET.npz, which DVC keeps.

  kmnist review --dataset digits
  kmnist predict scans/ --dataset digits --review && kmnist review --dataset digits --new

Keys: Enter accepts, 0 to 9 correct (more than ten classes: type the name), x excludes, z undoes,
arrows show the previous or next image. Then `dvc repro` trains with the decisions.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from kmnist_pipeline import ports
from kmnist_pipeline.cli import compose
from kmnist_pipeline.cli.common import end_in_order, read_params, say
from kmnist_pipeline.errors import UserError


def add(parser: ArgumentParser) -> None:
    parser.add_argument("--dataset", default="kmnist", help="default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--new", action="store_true", help="new images instead of suspects")
    which.add_argument(
        "--model",
        metavar="EXPERIMENT",
        help="the experiment whose out-of-fold predictions find the suspects",
    )
    parser.add_argument("--port", type=ports.number, default=5002, help="default: %(default)s")


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.repository.names import unknown
    from kmnist_pipeline.serving import queues
    from kmnist_pipeline.serving.reviewing import Decisions

    params, name = read_params(), chosen.dataset
    if name not in params["datasets"]:
        raise unknown(f"there is no dataset {name}", name, params["datasets"])
    shape = tuple(params["datasets"][name]["shape"])
    _settle(name, shape)  # if the server was killed before it did this
    if chosen.new:
        queue = queues.of_new(name, params)
    else:
        queue = queues.of_suspects(name, params, chosen.model)
    if not queue.items:
        raise UserError(f"there are no {queue.title}")
    decisions = Decisions(queue, shape)
    say(f"{queue.title}: {len(decisions.left())} of {len(queue.items)} left")

    from kmnist_pipeline.serving import review_page  # imports MLflow, which takes seconds

    end_in_order()
    review_page.serve(decisions, chosen.port)
    say(f"{len(decisions.left())} left; the decisions are in {decisions.file}")
    _settle(name, shape)
    say("`kmnist impact` lists the stages that they make stale; `dvc repro` runs them")
    return 0


def _settle(name: str, shape: tuple[int, ...]) -> None:
    """Let params.yaml name the first decisions and images, and give the images to DVC."""
    from kmnist_pipeline.evidence import paths
    from kmnist_pipeline.serving import kept, queues

    decisions, images = Path(paths.decisions(name)), Path(paths.reviewed(name))
    named = read_params()["reviews"][name].values()
    if any(file.exists() and str(file) not in named for file in (decisions, images)):
        compose.run(Namespace(check=False, show=None, overrides=[]))
    with queues.alone(name):
        if kept.keep(images, shape):
            say(f"{images} is in DVC's cache; commit {images}.dvc")
