"""Translate REINVENT4's run types: staged and transfer learning, scoring, sampling."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

from chemkl.config.objective import Penalty
from chemkl.peers.reading import Section
from chemkl.peers.scoring import Place, plain, translate_scoring


class Job(NamedTuple):
    """A chemkl stage with its settings."""

    stage: str
    name: str
    settings: dict[str, Any]


IN_THE_FOLDER = "is written into the output folder (--out)"
ALWAYS = "is always written; see README.md"
OF_OTHERS = (
    "is for generators that build on given molecules, whose models are not read; the key generator "
    "of posttrain and sample does this with a prior"
)
NO_EFFECT = "has no effect on a model of whole molecules"
NOVELTY = "the bonus for novelty is the shaper rnd, for estimators with an advantage such as rloo"


def translate(config: Section, place: Place) -> list[Job]:
    """Translate a config of REINVENT4 to jobs, and note in the section what cannot be translated.

    Args:
        config: the whole config.
        place: returns a path for the written file.
    """
    run_type = config.take("run_type", str, "", required=True)
    if run_type not in RUN_TYPES:
        text = f"{run_type!r} cannot be translated; expected {', '.join(RUN_TYPES)} of REINVENT4"
        if run_type:  # otherwise it is a problem already
            config.problem("run_type", text)
        return []
    config.needless(
        tb_logdir=f"TensorBoard's log {ALWAYS}",
        json_out_config="every run writes its settings to manifest.json",
        use_cuda="the device is chosen automatically",
    )
    config.data.pop("version", None)
    text = "there is no remote monitor; use chemkl show and report"
    config.only("responder", None, text)
    parameters = config.table("parameters")
    if not parameters.data:
        config.problem("parameters", "required, but missing")
    jobs = RUN_TYPES[run_type](config, parameters, place)
    parameters.end()
    config.end()
    return jobs


def _trainer(config: Section) -> dict[str, Any]:
    """Translate the device to settings of the trainer; the first one is the default."""
    device = config.take("device", str, "")
    if device == "cpu":
        return {"trainer": {"accelerator": "cpu"}}
    number = re.fullmatch(r"cuda:(\d+)", device)
    if number and device != "cuda:0":
        return {"trainer": {"accelerator": "gpu", "devices": [int(number[1])]}}
    if device not in ("", "cuda", "cuda:0"):
        config.gap("device", f"unknown device {device!r}")
    return {}


def _seed(config: Section) -> dict[str, int]:
    seed = config.take("seed", int, None)
    return {} if seed is None else {"seed": seed}


def _drawing(parameters: Section) -> None:
    """Take out how sequences are drawn: chemkl has only one way."""
    parameters.needless(randomize_smiles=NO_EFFECT, isomeric_smiles=NO_EFFECT)
    parameters.only("temperature", 1.0, "samples are drawn at temperature 1")
    parameters.only("sample_strategy", "multinomial", "sequences are drawn at random")
    parameters.only("smiles_file", None, OF_OTHERS)


# ---- staged learning


def _staged_learning(config: Section, parameters: Section, place: Place) -> list[Job]:
    prior = parameters.take("prior_file", str, "", required=True)
    agent = parameters.take("agent_file", str, prior)
    parameters.needless(
        summary_csv_prefix=f"the trace {IN_THE_FOLDER}",
        tb_isim="chemkl evaluate measures diversity",
        distance_threshold=NO_EFFECT,
    )
    parameters.only("use_checkpoint", False, "the filter of an earlier run is not loaded")
    _drawing(parameters)
    text = f"{NOVELTY}, unlike dap; a soft penalty is diversity_filter.penalty"
    config.only("intrinsic_penalty", None, text)
    batch_size = parameters.take("batch_size", int, 100)
    drops = parameters.take("unique_sequences", bool, False)

    strategy = config.table("learning_strategy")
    strategy.only("type", "dap", "REINVENT4 has only dap, which is the estimator reinvent")
    common = {
        "prior": place(prior),
        **({} if agent == prior else {"agent": place(agent)}),
        "target": {"kind": "gibbs", "sigma": strategy.take("sigma", float, 128.0)},
        "estimator": {"kind": "reinvent", "duplicates": "drop"} if drops else "reinvent",
        "batch_size": batch_size,
        "learning_rate": strategy.take("rate", float, 1e-4),
        **_memory(config, place),
        **_seed(config),
        **_trainer(config),
    }
    strategy.end()
    for_all = _filter(config)
    stages: list[dict[str, Any]] = []
    for stage in config.tables("stage"):
        of_stage = _filter(stage)  # that of the whole config comes first, as in REINVENT4
        reward, until = translate_scoring(stage.table("scoring"), place), _end(stage, batch_size)
        stages.append({"reward": reward, "diversity_filter": for_all or of_stage, "until": until})
        stage.end()
    purge = parameters.take("purge_memories", bool, True)
    if not stages:
        config.problem("stage", "required: one [[stage]] or more")
        return []
    n_samples = sum(stage["until"]["samples"] for stage in stages)
    last = stages[-1]  # its reward is that of the run
    filters = {"diversity_filter": last["diversity_filter"]} if last["diversity_filter"] else {}
    settings = common | {"reward": last["reward"], **filters}
    settings |= {"budget": n_samples, "max_samples": n_samples}
    if len(stages) == 1:
        until = {key: value for key, value in last["until"].items() if key != "samples"}
        callbacks = {"callbacks": {"terminate": until}} if until else {}
        return [Job("posttrain", "posttrain", settings | callbacks)]
    settings["stages"] = [
        {key: stage[key] for key in ("reward", "diversity_filter") if stage[key] != last[key]}
        | {"until": stage["until"]}
        for stage in stages
    ]
    _keep_filters(settings["stages"], stages, parameters, purge=purge)
    if "memory" in common:
        text = "the memory is emptied when scoring or filter change; REINVENT4 keeps it"
        config.difference("inception", text)
    text = "max_steps ends a stage and the next one starts; in REINVENT4 it ends the whole run"
    config.difference("stage", text)
    return [Job("posttrain", "posttrain", settings)]


def _keep_filters(
    translated: Sequence[dict[str, Any]],
    stages: Sequence[dict[str, Any]],
    parameters: Section,
    *,
    purge: bool,
) -> None:
    """Set `keep_filter` for stages whose filter continues that of the stage before."""
    filters = [stage["diversity_filter"] for stage in stages]
    for before, now, settings in zip(filters, filters[1:], translated[1:], strict=False):
        if not purge and now and now == before:
            settings["keep_filter"] = True
        elif not purge and before and now:
            parameters.gap("purge_memories", "false: a filter with other settings starts empty")


def _end(stage: Section, batch_size: int) -> dict[str, Any]:
    """Translate what ends a stage: its steps, and perhaps its mean reward."""
    stage.needless(chkpt_file=f"the checkpoint {IN_THE_FOLDER}")
    by = stage.take("termination", str, "simple")
    if by.lower() not in ("simple", "null"):
        stage.gap("termination", f"{by!r}: a stage ends at max_score or after its steps")
    max_score, min_steps = stage.take("max_score", float, 1.0), stage.take("min_steps", int, 50)
    until = {"samples": max(batch_size * stage.take("max_steps", int, 1, required=True), 1)}
    if max_score < 1 and by.lower() != "null":
        # REINVENT4: after a step with a number above min_steps, counted from 0
        return {"mean_reward": max_score, "min_steps": min_steps + 2} | until
    return until


def _memory(config: Section, place: Place) -> dict[str, Any]:
    """Translate inception to a memory; nothing without it."""
    if "inception" not in config.data:
        return {}
    table = config.table("inception")
    file = table.take("smiles_file", str, "")
    table.needless(deduplicate="a memory holds each molecule once")
    size, rows = table.take("memory_size", int, 50), table.take("sample_size", int, 10)
    table.end()
    text = "replayed molecules get the reward of the filter now; in REINVENT4 their first reward"
    config.difference("inception", text)
    memory: dict[str, Any] = {"capacity": size, "rows": rows, "draw": "uniform", "selective": False}
    if file:
        memory["seed"] = {"path": place(file)}
        text = "each molecule costs a call of the budget; in REINVENT4 it is free"
        table.difference("smiles_file", text)
    return {"memory": memory}


def _filter(section: Section) -> dict[str, Any] | None:
    """Translate the diversity filter of the run or of a stage; None without one."""
    if "diversity_filter" not in section.data:
        return None
    table = section.table("diversity_filter")
    name = table.take("type", str, "", required=True)
    kind = FILTERS.get(plain(name))
    if kind is None:
        section.gap("diversity_filter", f"no filter {name!r} in chemkl")
        return None
    settings: dict[str, Any] = {"kind": kind}
    table.needless(debug="chemkl evaluate and report measure diversity")
    if "intrinsic_reward" in table.data:
        table.data.pop("learning_rate", None)  # of the intrinsic reward
    table.only("intrinsic_reward", None, NOVELTY)
    penalty = table.take("penalty_function", str, "Step").lower()
    if penalty not in get_args(Penalty):
        table.gap("penalty_function", f"no penalty {penalty!r} in chemkl")
    elif penalty != "step":
        settings["penalty"] = penalty
    unused = ["minsimilarity", "penalty_multiplier"]
    if kind == "same_smiles":
        settings |= {"bucket": 1, "min_score": 0.0}
        settings["floor"] = table.take("penalty_multiplier", float, 0.5)
        unused = ["minsimilarity", "bucket_size", "minscore"]
    else:
        settings["bucket"] = table.take("bucket_size", int, 25)
        settings["min_score"] = table.take("minscore", float, 0.4)
        settings["repeats"] = False
    if kind == "scaffold_similarity":
        dice = table.take("minsimilarity", float, 0.4)
        settings["distance"] = round(1 - dice / (2 - dice), 6)
        text = "Tanimoto of bits instead of Dice of counts of atom pairs, at the same limit"
        table.difference("minsimilarity", text)
    table.needless(**dict.fromkeys(unused, f"has no effect on the filter {name} of REINVENT4"))
    table.end()
    return settings


FILTERS = {
    "identicalmurckoscaffold": "murcko",
    "identicaltopologicalscaffold": "generic",
    "scaffoldsimilarity": "scaffold_similarity",
    "penalizesamesmiles": "same_smiles",
}
"""chemkl's diversity filters by their names in REINVENT4."""


# ---- the others


def _scoring(config: Section, parameters: Section, place: Place) -> list[Job]:
    file = parameters.take("smiles_file", str, "", required=True)
    column = parameters.take("smiles_column", str, "")
    parameters.needless(output_csv=f"the table {IN_THE_FOLDER}")
    if parameters.take("standardize_smiles", bool, True):
        text = "molecules are scored as they are; REINVENT4 standardises them first"
        parameters.difference("standardize_smiles", text)
    config.needless(seed="scoring is not random", device="scoring runs on the CPU")
    settings: dict[str, Any] = {"file": place(file), "format": "csv"}
    if column and file.lower().endswith((".csv", ".csv.gz")):
        settings["column"] = column
    settings["reward"] = translate_scoring(config.table("scoring"), place)
    return [Job("score", "score", settings)]


def _sampling(config: Section, parameters: Section, place: Place) -> list[Job]:
    parameters.needless(
        output_file=f"the table {IN_THE_FOLDER}",
        tb_logdir="chemkl evaluate describes samples",
        unique_molecules="repeats stay in the table; chemkl evaluate counts them",
    )
    _drawing(parameters)
    parameters.only("target_smiles_path", "", OF_OTHERS)
    parameters.data.pop("target_nll_file", None)  # of target_smiles_path
    config.only("filter", None, "samples are not filtered; use chemkl score afterwards")
    device = config.take("device", str, "")
    settings = {
        "policy": place(parameters.take("model_file", str, "", required=True)),
        "n": parameters.take("num_smiles", int, 1, required=True),
        **({"device": device} if device else {}),
        **_seed(config),
    }
    return [Job("sample", "sample", settings)]


def _transfer_learning(config: Section, parameters: Section, place: Place) -> list[Job]:
    parameters.needless(
        output_model_file=f"the model {IN_THE_FOLDER}",
        save_every_n_epochs="checkpoints are always written",
        num_refs="chemkl evaluate measures similarity",
        internal_diversity="chemkl evaluate measures diversity",
        tb_isim="chemkl evaluate measures diversity",
        standardize_smiles="chemkl prepare cleans every molecule",
        randomize_all_smiles="validation molecules stay as they are",
        isomeric_smiles="stereochemistry is kept",
        n_cpus=NO_EFFECT,
    )
    model = parameters.take("input_model_file", str, "", required=True)
    parameters.only("shuffle_each_epoch", True, "every epoch is shuffled")
    parameters.only("training_zero_epoch_start", False, "epochs are counted from 0")
    parameters.only("starting_epoch", 1, "epochs are counted from 0")
    parameters.only("ranking_loss_penalty", False, OF_OTHERS)
    parameters.only("pairs", None, OF_OTHERS)
    config.only("scheduler", None, "the rate rises, then falls along half a cosine")
    sources = {
        "prepare": parameters.take("smiles_file", str, "", required=True),
        "prepare-validation": parameters.take("validation_smiles_file", str, ""),
    }
    max_tokens = parameters.take("max_sequence_length", int, 128)
    whole = {"split": {"kind": "given"}, "max_tokens": max_tokens}
    jobs = [
        Job("prepare", name, {"source": {"kind": "file", "path": place(path)}, **whole})
        for name, path in sources.items()
        if path or name == "prepare"
    ]
    of_valid = {"valid_corpus": "${prepare-validation}"} if len(jobs) > 1 else {}
    pretrain = {
        "corpus": "${prepare}",
        "valid_split": "train" if of_valid else None,
        **of_valid,
        **({"init": place(model), "learning_rate": 1e-4} if model else {}),
        "randomise": parameters.take("randomize_smiles", bool, True),
        "epochs": parameters.take("num_epochs", int, 1, required=True),
        "batch_size": parameters.take("batch_size", int, 1, required=True),
        "samples_per_epoch": parameters.take("sample_batch_size", int, 100),
        "gradient_clip": parameters.take("clip_gradient_norm", float, 1.0),
        **_seed(config),
        **_trainer(config),
    }
    return [*jobs, Job("pretrain", "pretrain", pretrain)]


RUN_TYPES: dict[str, Callable[[Section, Section, Place], list[Job]]] = {
    "staged_learning": _staged_learning,
    "transfer_learning": _transfer_learning,
    "scoring": _scoring,
    "sampling": _sampling,
}
