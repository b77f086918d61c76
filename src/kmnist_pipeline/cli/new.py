"""Write the files of a new report or experiment, with their lines in conf/config.yaml.

  kmnist new report leaves --dataset leaves --models softmax,simple_cnn
  kmnist new experiment leaves_slow --like leaves_softmax optimizer.lr=0.01 trainer.epochs=80

A report gets an experiment for each model, a study of the learning rate of the first one, and a
page: `dvc repro report@leaves` makes it. An experiment has the values of another one, except for
those that are given. Nothing is written if a name exists already or a value is impossible.
"""

from argparse import ArgumentParser, Namespace

from kmnist_pipeline.cli.common import end_in_order, read_params, say


def add(parser: ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    report = kinds.add_parser("report", help="a report with its experiments and a study")
    report.add_argument("name", metavar="NAME", help="lower-case words joined by _")
    report.add_argument("--dataset", required=True, help="a dataset in conf/config.yaml")
    report.add_argument(
        "--models",
        default="softmax,simple_cnn",
        metavar="MODELS",
        help="files of conf/model/, separated by commas; default: %(default)s",
    )
    experiment = kinds.add_parser("experiment", help="an experiment like another one")
    experiment.add_argument("name", metavar="NAME", help="lower-case words joined by _")
    experiment.add_argument(
        "--like",
        required=True,
        nargs="+",
        metavar=("OTHER", "KEY=VALUE"),
        help="an experiment, and the values that differ, such as optimizer.lr=0.1",
    )


def run(chosen: Namespace) -> int:
    from kmnist_pipeline.commands import additions, new

    end_in_order()
    with additions.alone():
        if chosen.kind == "report":
            models = [model.strip() for model in chosen.models.split(",")]
            addition = new.report(chosen.name, chosen.dataset, models)
            report = chosen.name
        else:
            addition = new.experiment(chosen.name, *chosen.like)
        addition.write()
    for file in addition.files:
        say(f"written: {file}")
    if chosen.kind == "experiment":
        report = read_params()["experiments"][chosen.name]["report"]
    say(f"next: `dvc repro report@{report}`")
    return 0
