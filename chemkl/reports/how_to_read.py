"""How each section of the report is to be read: what a reader sees above its figures."""

SUMMARY = "What the figures below come to, in words."
TABLES = "Hover over a heading for its definition; all of them are written out at the end."
MEANS = (
    " A row is a method: the mean over its runs, and beneath it their standard deviation (n - 1)."
)
YIELD = (
    "Above: steeper is better; a curve that flattens finds nothing new for its calls, and one "
    "that ends early belongs to a run that ran out of samples, not of calls. Below: the best "
    "rewards so far."
)
NO_HIT = "No run has a hit: none with R ≥ {threshold:g}."
BEST = "The best rewards so far are all there is to show."
COLLAPSE = (
    "A window moves over the valid samples, repeats included. A policy that collapses repeats "
    "itself (the left curve falls) or keeps to one scaffold (the right one rises); beyond a "
    "dashed line, a limit of the run's own alarm, it counts as collapsed."
)
RANK = (
    "Left: a long, low curve means many scaffolds of like size, a steep one a few that hold most "
    "hits. Right: the same summed up; the lower, the more even. Acyclic molecules are left out."
)
ANCHORS = (
    "A dot is a distinct molecule, at most {dots:,} of a kind, drawn at random; every anchor is "
    "shown. Left: hits far to the left are good molecules that the prior finds unlikely. Above "
    "them, the first (grey) and the last (line) {window:,} valid samples of each run, or its "
    "halves where it is shorter: where the mass moved. Right: along the dashed line (slope 1) the "
    "policy keeps the hits in the proportions of the prior, as a Gibbs target asks for equal "
    "rewards; on a flat line (slope 0) it makes them all alike, as MARA asks. The full line is "
    "the least-squares fit; a policy that has collapsed has a small slope as well."
)
FAMILIES = (
    "A family is a generic scaffold: all atoms carbon, all bonds single. Ring: its share {start}; "
    "dot: its share among the last {window:,} valid samples of the run. Repeats count, samples "
    "without a family do not; a mean over the runs of the method. The families with the largest "
    "share at either end are shown."
)
MAP = "Molecules that are alike lie close; what a method covers, and what of the prior it left."
SCAFFOLDS = (
    "The Bemis-Murcko scaffolds with most hits (with most molecules where there is no hit), and "
    "the molecules with the highest R on each. The runs of a method are taken together, each "
    "molecule once. Late share: of the last {window:,} valid samples of each run, repeats "
    "included."
)
TOP = "Click on a heading to sort by it; type to search by SMILES, scaffold or run."
SETTINGS = "What each run was told to do, how it ended, and with which versions."


def smoothing(width: int, *, single: bool) -> str:
    """What the lines of the learning curves are.

    Args:
        width: of the running mean, in steps.
        single: whether a method has one run alone, whose own steps are drawn too.
    """
    if width == 1:
        return "Every step as it was."
    faint = "; faint lines: the steps themselves" if single else ""
    return f"Strong lines: centred running mean over {width} steps{faint}."
