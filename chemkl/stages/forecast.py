"""The forecast stage: what a posttrain config asks for, before anything is trained."""

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
from chemkl.stages.evaluate import run_names, trace_inputs
from chemkl.stages.registry import STAGES, View
from chemkl.stages.runner import Start
from chemkl.training.filters import build_filter
from chemkl.training.generators import AnyGenerator, build_constraint, read_parts
from chemkl.training.ledger import Ledger

TABLE = "forecast.parquet"
JSON = "forecast.json"
SAMPLES = "samples.parquet"


run = STAGES["forecast"].run


def problems(view: View) -> Iterator[tuple[str, list[str]]]:
    """Look into reward, models, taus, device and the runs to compare with; nothing is sampled."""
    yield from posttrain.problems(view)
    taus, most = view.get("taus") or (), RewardModel.MOST
    too_high = ", ".join(f"{tau:g}" for tau in taus if tau > most)
    too_low = ", ".join(f"{tau:g}" for tau in taus if tau <= 0)
    fix = f"Take rewards above 0 and at most {most:g}."
    lines = []
    if too_high:
        lines.append(f"taus: {too_high}: no reward is that high, so nothing would be a hit. {fix}")
    if too_low:
        lines.append(
            f"taus: {too_low}: all rewards are that high, so everything would be a hit, invalid "
            f"strings too. {fix}"
        )
    yield "taus", lines
    yield "", complaints((_check_one_part, view.get("generator")))
    yield "device", complaints((check_device, view.get("device")))
    if view.config is not None:
        runs = view.there(view.get("runs"))
        yield "runs", complaints((targets.read_runs, runs, view.get("prior"), view.get("reward")))


def _check_one_part(generator: AnyGenerator) -> None:
    n = len(read_parts(generator))
    if n > 1:
        text = f"{n} parts, each with a target of its own: forecast them one at a time"
        raise InputError(f"generator.{generator.key}: {text}")


def work(config: ForecastConfig, start: Start) -> None:
    """Write ``forecast.parquet``, ``forecast.json`` and the samples; print what was found."""
    out_dir = start.out
    if config.stages is not None:
        start.say(f"forecasts the last of {len(config.stages)} stages, by which the run is judged")
    config = config.in_stages[-1]
    trained = targets.read_runs(config.runs, config.prior, config.reward)
    names = run_names(config.runs)
    with start.claim({"prior": config.prior, **trace_inputs(config.runs)}) as manifest:
        samples, n_calls = _draw(config)
        kept = samples[targets.SAMPLES_SCHEMA.names]
        table = pa.Table.from_pandas(kept, schema=targets.SAMPLES_SCHEMA, preserve_index=False)
        write_parquet(out_dir / SAMPLES, table)
        points = targets.points_of(samples)
        forecast = targets.forecast_targets(config, points)
        runs = targets.compare(dict(zip(names, trained, strict=True)), points, config)
        forecast = replace(forecast, sentences=[*forecast.sentences, *targets.run_sentences(runs)])
        counts = {"samples": len(samples), "valid": int(samples["valid"].sum()), "calls": n_calls}
        write_parquet(
            out_dir / TABLE, pa.Table.from_pylist(forecast.rows, schema=targets.FORECAST_SCHEMA)
        )
        write_json(out_dir / JSON, {**counts, **forecast.plain(), "runs": runs})
        manifest.finish(results=counts)
    for part in targets.page(forecast, runs, counts, min_ess=config.min_ess):
        start.console.print(part, highlight=False, markup=False)  # [nH] is no markup


def _draw(config: ForecastConfig) -> tuple[pd.DataFrame, int]:
    """Draw from the prior and score; return the rows, and how many oracle calls they took."""
    whole = freeze(load_policy(config.prior))
    prior: SequenceModel = whole
    names: list[str] = []
    if config.generator is not None:
        constraint = build_constraint(config.generator, whole, config.seed)
        prior, names = ConstrainedPolicy(whole, constraint), constraint.names
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
