"""`predict_power.py`: learn runtime, power and energy from a dataset, and predict networks."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cli.data_options import add_verb, dataset_argument
from edgejoule.errors import UsageError, run_command

if TYPE_CHECKING:
    from edgejoule.prediction.fitting import Training
    from edgejoule.prediction.source import Source

_DESCRIPTION = """\
Learn how long layers take and what power networks draw from a dataset, and predict networks that
nobody measured. A model is for one configuration: board, backend, dtype, power mode.
docs/Prediction.md says how good it is, and where it is bad.
"""
_EPILOG = """\
examples:
  predict_power.py score raw_data                 how good it is on networks that were left out
  predict_power.py fit raw_data -o model.npz      learn from all networks
  predict_power.py predict model.npz net.onnx     layers, latency, energy, with an interval
  predict_power.py predict model.npz raw_data/resnet18      beside what was measured
  predict_power.py show model.npz                 what the model was learnt from

fit and score need scikit-learn; predict and show do not.
exit codes: 0 done; 1 the data are wrong; 2 usage
"""
_FILTERS = {
    "backend": ("--backend", "backend", "NAME"),
    "dtype": ("--dtype", "dtype", "TYPE"),
    "board": ("--board", "board", "ID"),
    "device": ("--device", "device", "DEVICE"),
    "processor": ("--processor", "processor", "NAME"),
    "power_mode": ("--mode", "power mode", "NAME"),
}


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog=prog or "predict_power.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    fit = add_verb(verbs, "fit", "learn a model from a dataset",
                   "Learn a model from all networks of one configuration.", _fit)  # fmt: skip
    _source_arguments(fit)
    fit.add_argument(
        "-o", "--output", type=Path, default=Path("model.npz"), metavar="FILE",
        help="the model, .npz or .json (default: %(default)s)",
    )  # fmt: skip
    score = add_verb(verbs, "score", "how good predictions are on networks left out",
                     "Leave one network out after the other, predict it from all others, and say "
                     "how far\nthat is off, beside simpler models; then the same with whole "
                     "families left out.", _score)  # fmt: skip
    _source_arguments(score)
    score.add_argument(
        "--family", action="append", default=[], metavar="A,B,...", dest="families",
        help="networks that leave together (default: names that begin with the same letters)",
    )  # fmt: skip
    score.add_argument("--no-families", action="store_true", help="leave out single networks only")
    score.add_argument(
        "--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N",
        help="processes to fit in (default: one per CPU, at most 8)",
    )  # fmt: skip
    score.add_argument("--json", action="store_true", help="print one JSON object")
    predict = add_verb(verbs, "predict", "predict a network",
                       "Predict the layers and the totals of a network.", _predict)  # fmt: skip
    predict.add_argument("model", type=Path, metavar="MODEL", help="made by fit")
    predict.add_argument(
        "network", type=Path, metavar="NETWORK", help="x.onnx, an engine.json, or a run's folder"
    )
    predict.add_argument("--batch", type=int, metavar="N", help="batch (default: its own)")
    predict.add_argument(
        "--input-shape",
        type=int,
        nargs="+",
        metavar="N",
        help="shape of an ONNX file's first input",
    )
    predict.add_argument(
        "--with", dest="which", default="trees", metavar="NAME",
        help="mean, flops, 'flops by type', roofline, published or trees (default: %(default)s)",
    )  # fmt: skip
    predict.add_argument("--json", action="store_true", help="print one JSON object")
    show = add_verb(verbs, "show", "what a model is and was learnt from",
                    "Show what a model is for and what it was learnt from.", _show)  # fmt: skip
    show.add_argument("model", type=Path, metavar="MODEL", help="made by fit")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    dataset_argument(parser)
    for name, (option, word, metavar) in _FILTERS.items():
        parser.add_argument(
            option, dest=name, metavar=metavar, help=f"only runs of this {word} (none: without)"
        )
    parser.add_argument(
        "--run", action="append", default=[], metavar="RUN", dest="runs",
        help="only this run; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--allow-simulated", action="store_true",
        help="learn simulated power, too; every output says so",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="of folds and trees (default: %(default)s)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(lambda: arguments.command(arguments), debug=arguments.debug)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _load(arguments: argparse.Namespace) -> tuple[Source, Training]:
    """Read the runs that the arguments choose."""
    from importlib.util import find_spec

    if find_spec("sklearn") is None:
        raise UsageError("fit and score need scikit-learn", "pip install 'edgejoule[prediction]'")
    if not 0 <= arguments.seed < 2**31:
        raise UsageError(f"--seed {arguments.seed} is out of range", "give 0 to 2147483647")
    from edgejoule.prediction.fitting import training_of
    from edgejoule.prediction.source import load_source

    filters = {name: getattr(arguments, name) for name in _FILTERS if getattr(arguments, name)}
    source = load_source(
        arguments.dataset,
        filters,
        arguments.runs,
        allow_simulated=arguments.allow_simulated,
        say=_say,
    )
    return source, training_of(source.rows, source.runs)


def _fit(arguments: argparse.Namespace) -> int:
    from edgejoule.prediction.build import build_model
    from edgejoule.prediction.model_file import check_suffix, save_model
    from edgejoule.prediction.text import model_text

    check_suffix(arguments.output)
    _check_replaced(arguments.output)
    source, training = _load(arguments)
    _say(f"fitting {len(source.rows)} layers of {len(training.names())} networks")
    model = build_model(source, training, arguments.seed)
    save_model(arguments.output, model)
    print(model_text(model))
    print(f"\n{arguments.output}\nnext: predict_power.py predict {arguments.output} NETWORK")
    return 0


def _check_replaced(path: Path) -> None:
    """Refuse to write over a file that is no model.

    Raises:
        UsageError: It is something else.
    """
    from edgejoule.prediction.model_file import load_model

    if not path.exists():
        return
    try:
        load_model(path)
    except UsageError as error:
        raise UsageError(
            f"{path} is there and is no model that this version reads",
            "move it away, or give another -o",
        ) from error


def _score(arguments: argparse.Namespace) -> int:
    from edgejoule.prediction.scoring import families_of, hold_out, score
    from edgejoule.prediction.text import score_text

    source, training = _load(arguments)
    names = training.names()
    ways = [("one network left out", [[name] for name in names])]
    given = [family.split(",") for family in arguments.families]
    families = families_of(names, given)
    notes = list(source.notes)
    if not arguments.no_families and len(families) < 3:
        notes.append(f"{len(families)} families are too few to leave one out")
    elif not arguments.no_families and len(families) < len(names):
        ways.append(("one family of networks left out", families))
    scores = []
    for title, groups in ways:
        _say(f"{title}: {len(groups)} fits")
        held_out = hold_out(training, groups, arguments.seed, jobs=arguments.jobs, say=_say)
        scores.append({"title": title, **score(training, held_out)})
    document: dict[str, Any] = {
        "configuration": source.configuration,
        "versions": source.versions,
        "dataset": source.dataset,
        "rail": source.rail,
        "simulated": source.simulated,
        "networks": names,
        "layers": len(source.rows),
        "seed": arguments.seed,
        "notes": notes,
        "scores": scores,
    }
    print(
        json.dumps(document, indent=2, sort_keys=True) if arguments.json else score_text(document)
    )
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from edgejoule.prediction.answer import answer
    from edgejoule.prediction.describe import describe
    from edgejoule.prediction.model_file import load_model
    from edgejoule.prediction.text import answer_text

    shape = arguments.input_shape
    if any(size is not None and size < 1 for size in [arguments.batch, *(shape or [])]):
        raise UsageError("a batch and a shape are of numbers above zero")
    model = load_model(arguments.model)
    network = describe(arguments.network, model, arguments.batch, shape)
    found = answer(model, network, arguments.which)
    print(json.dumps(found, indent=2, sort_keys=True) if arguments.json else answer_text(found))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from edgejoule.prediction.model_file import load_model
    from edgejoule.prediction.text import model_text

    model = load_model(arguments.model)
    if arguments.json:
        print(json.dumps({k: v for k, v in model.items() if k != "predictor"}, indent=2))
    else:
        print(model_text(model))
    return 0
