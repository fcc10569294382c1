"""The default experiment: the cold baseline, then one network after the other, then the report.

    idle baseline -> network 1 -> push -> network 2 -> push -> ... -> report

Every step is a command that also works alone, in a process of its own. A network that fails does
not stop the others; a finished run is left alone, so that running again continues with what is
missing; a push that fails costs nothing but the push.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgejoule.dataset.versions.dagshub import token_from_environment
from edgejoule.dataset.versions.token_pipe import token_pipe
from edgejoule.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_WRONG,
    EdgejouleError,
    Interrupted,
    UsageError,
)
from edgejoule.knobs import Knobs
from edgejoule.plan import Network
from edgejoule.processes import PROJECT_ROOT, child_environment
from edgejoule.report.outlook import Whole, rest_s
from edgejoule.report.progress import duration
from edgejoule.report.text import printable, table
from edgejoule.steps import StepResult, run_step
from edgejoule.supervision import StopFlag

WORDS = "report.md"


@dataclass(frozen=True)
class Scripts:
    """The commands that a campaign runs."""

    measure: Path = PROJECT_ROOT / "measure_inference_power.py"
    idle: Path = PROJECT_ROOT / "measure_idling_power.py"
    data: Path = PROJECT_ROOT / "data_version.py"


@dataclass(frozen=True)
class Outcome:
    """How one step of the campaign ended; `reason` is empty if it succeeded."""

    what: str
    reason: str
    seconds: float


@dataclass
class Campaign:
    """What a campaign needs to know, and what came of it so far.

    Attributes:
        knobs: What is wanted.
        networks: What is measured, in order.
        stop: Raised by Ctrl-C or SIGTERM.
        sensor: What the preflight found; `none` skips the cold baseline.
        scripts: The commands.
        say: Where lines for people go.
        expected_s: How long each network is expected to take, by its name.
        outcomes: One per step that was tried.
        unpushed: Commands that repeat the pushes that failed.
        told_local: Whether it was said that simulated or random runs stay here.
    """

    knobs: Knobs
    networks: Sequence[Network]
    stop: StopFlag
    sensor: str = "auto"
    scripts: Scripts = field(default_factory=Scripts)
    say: Callable[[str], None] = print
    expected_s: Mapping[str, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    unpushed: list[str] = field(default_factory=list)
    told_local: bool = False

    @property
    def failed(self) -> list[Outcome]:
        """The steps that failed."""
        return [outcome for outcome in self.outcomes if outcome.reason]


def run_campaign(campaign: Campaign, *, verify: bool = False) -> int:
    """Do the whole experiment and return its exit code.

    Args:
        campaign: What to do.
        verify: Whether the dataset is verified at the end.

    Raises:
        Interrupted: By Ctrl-C or SIGTERM; every finished run is kept.
        UsageError: The dataset's folder cannot be made.
    """
    knobs = campaign.knobs
    try:
        knobs.result_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{knobs.result_dir} cannot be made ({error.strerror})", "set RESULT_DIR"
        ) from error
    mention_unfinished(campaign)
    take_idle(campaign)
    for position, network in enumerate(campaign.networks, 1):
        campaign.say(f"[{position}/{len(campaign.networks)}] {printable(network.spec)}")
        told = whole_of(campaign, position).to_environment()
        outcome = step(campaign, network.spec, measure_command(campaign, network), told)
        if not outcome.reason and knobs.push == "each":
            push(campaign, [network])
    if knobs.push == "end":
        push(campaign, campaign.networks)
    if verify:
        step(campaign, "verify", verify_command(campaign))
    return conclude(campaign)


def mention_unfinished(campaign: Campaign) -> None:
    """Say what an earlier start left unfinished, and what can be done with it."""
    dataset = campaign.knobs.result_dir
    left = [path for path in dataset.glob(".partial/*") if (path / "request.json").is_file()]
    if left:
        recover = as_typed([sys.executable, str(campaign.scripts.data), "recover", str(dataset)])
        campaign.say(
            f"{len(left)} unfinished in {dataset / '.partial'} from before; to read what was "
            f"measured: {recover}"
        )


def take_idle(campaign: Campaign) -> None:
    """Measure the cold baseline, unless it is there already or there is no sensor."""
    target = campaign.knobs.result_dir / "idling_power.json"
    if campaign.sensor == "none":
        campaign.say("No sensor: no idle baseline, no energy.")
    elif target.exists():
        campaign.say(f"{target} is there; remove it to measure the idle baseline again.")
    else:
        campaign.say(f"Idle baseline, {campaign.knobs.idle_duration_s:g} s")
        step(campaign, "idle baseline", idle_command(campaign))


def whole_of(campaign: Campaign, position: int) -> Whole:
    """Return what the command that measures a network is told of the others, for its live view.

    Args:
        campaign: What is done.
        position: Which network it is, from 1.
    """
    networks = campaign.networks
    expected = [_expected_s(campaign, network) for network in networks]
    took = {outcome.what: outcome.seconds for outcome in campaign.outcomes if not outcome.reason}
    finished = [
        (guess, took[network.spec])
        for network, guess in zip(networks[: position - 1], expected, strict=False)
        if network.spec in took and not network.there
    ]
    own_s = expected[position - 1]
    return Whole(
        position,
        len(networks),
        None if own_s is None else rest_s([own_s], finished),
        rest_s(expected[position:], finished),
    )


def _expected_s(campaign: Campaign, network: Network) -> float | None:
    """Return how long a network is expected to take, None where it was not estimated."""
    return 0.0 if network.there else campaign.expected_s.get(network.spec)


def step(
    campaign: Campaign,
    what: str,
    command: Sequence[str],
    extra: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one command, note how it ended, and say so if it failed.

    Args:
        campaign: What is done.
        what: The step, for people.
        command: The command.
        extra: Variables for its environment.

    Raises:
        Interrupted: The campaign or the command was interrupted.
    """
    result = _run(campaign, command, child_environment(dict(extra or {})))
    outcome = Outcome(what, result.reason, result.seconds)
    campaign.outcomes.append(outcome)
    if outcome.reason:
        campaign.say(f"FAILED: {printable(what)}: {printable(outcome.reason)}")
    return outcome


def _run(
    campaign: Campaign,
    command: Sequence[str],
    environment: dict[str, str],
    descriptors: Sequence[int] = (),
) -> StepResult:
    sys.stdout.flush()
    result = run_step(command, environment, campaign.stop, descriptors=descriptors)
    if campaign.stop.signum or result.code == EXIT_INTERRUPTED:
        raise Interrupted(
            "interrupted", "every finished run is kept; the same command continues with the rest"
        )
    return result


def idle_command(campaign: Campaign) -> list[str]:
    """Return the command of the cold baseline."""
    knobs = campaign.knobs
    return [
        *(sys.executable, str(campaign.scripts.idle)),
        *("--idle-duration", f"{knobs.idle_duration_s:g}"),
        *("--sensor", knobs.sensor, "--result-dir", str(knobs.result_dir)),
    ]


def measure_command(campaign: Campaign, network: Network) -> list[str]:
    """Return the command that measures one network."""
    knobs = campaign.knobs
    command = [
        *(sys.executable, str(campaign.scripts.measure)),
        *("--model", network.spec, "--backend", knobs.backend, "--dtype", knobs.dtype),
        *("--weights", knobs.weights, "--warmup", str(knobs.warmup), "--runs", str(knobs.runs)),
        *("--idle-duration", f"{knobs.run_idle_s:g}", "--sensor", knobs.sensor),
        *("--result-dir", str(knobs.result_dir)),
    ]
    optional = {
        "--clean-runs": knobs.clean_runs,
        "--clean-seconds": None if knobs.clean_runs else f"{knobs.clean_seconds:g}",
        "--optimization-level": knobs.optimization_level,
        "--min-block-size": knobs.min_block_size,
        "--repeats": knobs.repeats if knobs.repeats > 1 else None,
        "--wait-idle": knobs.wait_idle,
        "--input": knobs.input,
        "--calibration": knobs.calibration,
        "--memory-limit-gib": knobs.memory_limit_gib,
        "--energy": None if knobs.energy == "auto" else knobs.energy,
        "--replay-budget": knobs.replay_budget_s,
        "--check-attribution": knobs.check_attribution,
    }
    for flag, value in optional.items():
        if value is not None:
            command += [flag, str(value)]
    if network.input_shape is not None:
        command += ["--input-shape", *map(str, network.input_shape)]
    return [*command, "--cuda-graphs"] if knobs.cuda_graphs else command


def verify_command(campaign: Campaign) -> list[str]:
    """Return the command that verifies the dataset."""
    return [sys.executable, str(campaign.scripts.data), "verify", str(campaign.knobs.result_dir)]


def runs_of(dataset: Path, networks: Sequence[Network]) -> tuple[list[str], list[str]]:
    """Return the names of the networks' complete runs: those to share, those that stay here.

    What is simulated or has random weights is refused by a shared server, and rightly so.
    """
    share: list[str] = []
    keep: list[str] = []
    wanted = {network.spec for network in networks}
    for path in sorted(dataset.glob("[!.]*/run.json")):
        try:
            run: dict[str, Any] = json.loads(path.read_bytes())
            if run["config"]["model"] not in wanted or run["status"] != "complete":
                continue
            local = run["simulated"] or run["weights"] == "random"
        except (OSError, ValueError, KeyError, TypeError):
            continue
        (keep if local else share).append(path.parent.name)
    return share, keep


def push(campaign: Campaign, networks: Sequence[Network]) -> None:
    """Push the networks' runs; a failure is told with the command that repeats it."""
    share, keep = runs_of(campaign.knobs.result_dir, networks)
    if keep and not campaign.told_local:
        campaign.told_local = True
        campaign.say("Runs with simulated power or random weights stay here: nothing is pushed.")
    if not share:
        return
    command = push_command(campaign, share)
    # The one command that may have the token; it runs no model. A cloud's own keys are variables.
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with token_pipe(token_from_environment()) as (variables, descriptors):
        environment = child_environment({**keys, **variables})
        result = _run(campaign, command, environment, descriptors)
    if result.code != EXIT_DONE:
        again = as_typed(command)
        campaign.unpushed.append(again)
        campaign.say(f"Not pushed: {printable(result.reason)}\n  later: {printable(again)}")


def as_typed(command: Sequence[str]) -> str:
    """Return a command as one types it in the project's folder.

    An interpreter of the project's own (`.venv-demo/`) is named, so that the line works as it is.
    """
    own = Path(command[0])
    here = own.relative_to(PROJECT_ROOT) if own.is_relative_to(PROJECT_ROOT) else Path("python")
    return shlex.join([str(here), Path(command[1]).name, *command[2:]])


def push_command(campaign: Campaign, runs: Sequence[str]) -> list[str]:
    """Return the command that pushes these runs."""
    knobs = campaign.knobs
    command = [sys.executable, str(campaign.scripts.data), "push"]
    command += ["--dataset", str(knobs.result_dir), "--name", knobs.repository]
    if knobs.owner:
        command += ["--owner", knobs.owner]
    for run in runs:
        command += ["--run", run]
    if knobs.message:
        command += ["--commit", knobs.message]
    if knobs.create_repository:
        command.append("--create")
    return command


def conclude(campaign: Campaign) -> int:
    """Write the report, print the totals and what to type next, and return the exit code."""
    from edgejoule.report.everything import write_everything
    from edgejoule.report.terminal import totals_line
    from edgejoule.report.write import gather

    dataset = campaign.knobs.result_dir
    names = {network.spec for network in campaign.networks}
    campaign.say("")
    report = None
    if any(dataset.glob("[!.]*/run.json")):
        campaign.say("Writing the report")
        found = gather(dataset, series=True)
        try:
            report = write_everything(dataset, found)[0]
        except EdgejouleError as error:  # what was measured, and what to do next, is still said
            campaign.outcomes.append(Outcome("report", str(error), 0.0))
        for run in found.runs:
            if run.config.get("model") in names:
                campaign.say(totals_line(run))
    failed = campaign.failed
    spent = sum(outcome.seconds for outcome in campaign.outcomes)
    lost = {outcome.what for outcome in failed} & names
    done = len(names) - len(lost)
    campaign.say(f"{done} of {len(names)} networks done in {duration(spent)}.")
    if failed:
        rows = [[printable(item.what, 40), printable(item.reason)] for item in failed]
        campaign.say(table(["failed", "why"], rows, set()))
    share, _ = runs_of(dataset, campaign.networks)
    if campaign.knobs.push == "later" and share:
        campaign.unpushed.append(as_typed(push_command(campaign, share)))
    for again in campaign.unpushed:
        campaign.say(f"Not pushed; later: {printable(again)}")
    if report is not None:
        campaign.say(f"Report: {report} (open it in a browser); in words: {report.parent / WORDS}")
    campaign.say(f"Next: {next_command(campaign, report)}")
    return EXIT_WRONG if failed else EXIT_DONE


def next_command(campaign: Campaign, report: Path | None) -> str:
    """Return what to type next."""
    if campaign.failed:
        return "mend what failed and run the same command again; it continues with what is missing"
    if campaign.unpushed:
        return campaign.unpushed[-1]
    example = as_typed([sys.executable, str(campaign.scripts.measure), "--model", "your_net.onnx"])
    where = shlex.quote(str(report))
    return f"open {where} in a browser; then a model of your own: {example}"
