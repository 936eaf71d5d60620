"""What to try next, and what has mattered: the only module that uses optuna.

A trial's suggestion follows from the seed, its number and the trials before it, and from nothing else: a
search that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

from textlora.errors import ResourceError
from textlora.extras import OPTUNA
from textlora.trials import Trial
from textlora.tuning.space import Choice, Dimension, Rate, Space

# Trials drawn at random before the search looks at results; the default is one of them.
RANDOM_TRIALS = 6
STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}


def check_optuna() -> None:
    """Refuse to begin without the package.

    Raises:
        ResourceError: optuna is missing or too old.
    """
    if OPTUNA.obstacle:
        raise ResourceError(f"tune needs optuna: {OPTUNA.obstacle}.", hint=OPTUNA.command)


def suggest(
    space: Space, trials: Sequence[Trial], *, seed: int, number: int, attempt: int = 0, sign: int = 1
) -> dict[str, Any]:
    """Return what to draw for each dimension of trial ``number``, by the tree-structured Parzen estimator.

    Source: Bergstra, Bardenet, Bengio and Kégl 2011, "Algorithms for hyper-parameter optimization".

    Args:
        space: the ranges.
        trials: all that have ended.
        seed: of the search.
        number: of the trial.
        attempt: another one gives another suggestion.
        sign: 1 where more of the value is better, -1 where less is.
    """
    import optuna

    own = int.from_bytes(hashlib.blake2b(f"{seed} {number} {attempt}".encode(), digest_size=4).digest())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=own, n_startup_trials=RANDOM_TRIALS, multivariate=True)
    study = _study(space, trials, sampler, sign)
    return dict(study.ask(_distributions(space)).params)


def importance(space: Space, trials: Sequence[Trial], *, seed: int, sign: int = 1) -> dict[str, float]:
    """Return which share of the differences between complete trials each setting explains, the largest first.

    By functional analysis of variance over a random forest (Hutter, Hoos and Leyton-Brown 2014); empty where
    there are too few trials, or all are equal.
    """
    import optuna

    complete = [trial for trial in trials if trial.state == "complete"]
    if len({trial.value for trial in complete}) < 2 or len(space.dimensions) < 2:  # noqa: PLR2004 - nothing differs
        return {}
    study = _study(space, complete, None, sign)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _study(space: Space, trials: Sequence[Trial], sampler: Any, sign: int) -> Any:
    """Return a study in memory with all trials in it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="maximize" if sign > 0 else "minimize")
    for trial in trials:
        study.add_trial(_frozen(space, trial))
    return study


def _frozen(space: Space, trial: Trial) -> Any:
    """Return a trial as optuna knows it: a pruned one is told by what it had reached."""
    import optuna

    params = {one.setting: one.drawn(trial.settings[one.setting]) for one in space.dimensions}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[STATES[trial.state]],
        value=trial.value if trial.state != "failed" else None,
        params=params,
        distributions=_distributions(space),
        intermediate_values={round(100 * share): value for share, value in trial.curve},
    )


def _distributions(space: Space) -> dict[str, Any]:
    return {one.setting: _distribution(one) for one in space.dimensions}


def _distribution(one: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(one, Rate):
        return FloatDistribution(one.low, one.high, log=True)
    if isinstance(one, Choice):
        return CategoricalDistribution(one.options)
    return IntDistribution(one.low, one.high)
