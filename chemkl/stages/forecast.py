"""The forecast stage: estimate from samples of the prior what a posttrain config asks for."""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pyarrow as pa

from chemkl.config import InputError, complaints
from chemkl.config.evaluate import ForecastConfig
from chemkl.display import Bar
from chemkl.evaluation import forecast_targets as targets
from chemkl.policies import (
    ConstrainedPolicy,
    SequenceModel,
    check_device,
    freeze,
    load_policy,
)
from chemkl.policies.base import stream
from chemkl.results import write_json, write_parquet
from chemkl.rewards import RewardModel
from chemkl.stages import posttrain
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.stages.runs import run_names, trace_inputs
from chemkl.training.filters import build_filter
from chemkl.training.generators import AnyGenerator, build_constraint, read_parts
from chemkl.training.ledger import Ledger

TABLE = "forecast.parquet"
JSON = "forecast.json"
SAMPLES = "samples.parquet"


run = STAGES["forecast"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Check reward, models, taus, device and the runs to compare with, without sampling."""
    yield from posttrain.problems(view)
    taus, most = view.get("taus") or (), RewardModel.MOST
    too_high = ", ".join(f"{tau:g}" for tau in taus if tau > most)
    too_low = ", ".join(f"{tau:g}" for tau in taus if tau <= 0)
    fix = f"Choose rewards above 0 and at most {most:g}."
    lines = [f"taus: {too_high}: no reward is that high, so nothing would be a hit. {fix}"]
    yield "taus", lines if too_high else []
    lines = [
        f"taus: {too_low}: all rewards are that high, so everything would be a hit, invalid "
        f"strings too. {fix}"
    ]
    yield "taus", lines if too_low else []
    yield "", complaints((_check_one_part, view.get("generator")))
    yield "device", complaints((check_device, view.get("device")))
    if view.config is not None:
        runs = view.existing(view.get("runs"))
        yield "runs", complaints((targets.read_runs, runs, view.get("prior"), view.get("reward")))


def _check_one_part(generator: AnyGenerator) -> None:
    n = len(read_parts(generator))
    if n > 1:
        text = f"{n} parts, each with its own target: forecast them one at a time"
        raise InputError(f"generator.{generator.key}: {text}")


def work(config: ForecastConfig, start: Start) -> None:
    """Write ``forecast.parquet``, ``forecast.json`` and the samples; print the forecast."""
    out_dir = start.out
    if config.stages is not None:
        n = len(config.stages)
        start.say(f"forecasts the last of {n} stages, by whose reward the run is evaluated")
    config = config.in_stages[-1]
    run_data = targets.read_runs(config.runs, config.prior, config.reward)
    names = run_names(config.runs)
    with start.claim({"prior": config.prior, **trace_inputs(config.runs)}) as manifest:
        samples, n_calls = _draw(config)
        columns = samples[targets.SAMPLES_SCHEMA.names]
        write_parquet(
            out_dir / SAMPLES,
            pa.Table.from_pandas(columns, schema=targets.SAMPLES_SCHEMA, preserve_index=False),
        )
        points = targets.points_of(samples)
        forecast = targets.forecast_targets(config, points)
        runs = targets.compare(dict(zip(names, run_data, strict=True)), points, config)
        forecast = replace(forecast, sentences=[*forecast.sentences, *targets.run_sentences(runs)])
        counts = {"samples": len(samples), "valid": int(samples["valid"].sum()), "calls": n_calls}
        write_parquet(
            out_dir / TABLE, pa.Table.from_pylist(forecast.rows, schema=targets.FORECAST_SCHEMA)
        )
        write_json(out_dir / JSON, {**counts, **forecast.plain(), "runs": runs})
        manifest.finish(results=counts)
    for part in targets.page(forecast, runs, counts, min_ess=config.min_ess):
        start.console.print(part, highlight=False, markup=False)  # [nH] is not markup


def _draw(config: ForecastConfig) -> tuple[pd.DataFrame, int]:
    """Sample from the prior and score; return the rows and the number of oracle calls."""
    base = freeze(load_policy(config.prior, key="prior"))
    prior: SequenceModel = base
    names: list[str] = []
    if config.generator is not None:
        constraint = build_constraint(config.generator, base, config.seed)
        prior, names = ConstrainedPolicy(base, constraint), constraint.names
    prior.to(config.device)
    ledger = Ledger(RewardModel.from_config(config.reward), build_filter(None), config.n, names)
    frames = []
    with Bar("sampling the prior", config.n, shown=config.callbacks.progress_bar) as bar:
        for step, start in enumerate(range(0, config.n, config.sample_batch)):
            n = min(config.sample_batch, config.n - start)
            rollout = prior.sample(n, stream(config.seed, step, purpose="forecast"))
            rows = ledger.enter(step, rollout)
            rows["logp_ref"] = rollout.logp.cpu().numpy().astype(float)
            frames.append(rows)
            bar.advance(n)
    return pd.concat(frames, ignore_index=True), ledger.n_calls
