"""Components under the names that other programs and people have for them."""

import pytest

from chemkl.config import InputError
from chemkl.rewards import RewardModel
from chemkl.rewards.catalogue import rewards
from chemkl.rewards.registry import COMPONENTS
from chemkl.rewards.synonyms import SYNONYMS


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("substructure", "required_smarts"),
        ("smarts", "required_smarts"),
        ("MatchingSubstructure", "required_smarts"),
        ("matching_substructure", "required_smarts"),
        ("CustomAlerts", "no_alerts"),
        ("custom_alerts", "forbidden_smarts"),
        ("unwanted_substructures", "forbidden_smarts"),
        ("TanimotoSimilarity", "tanimoto"),
        ("TanimotoDistance", "tanimoto"),
        ("jaccard_distance", "tanimoto"),
        ("similarity", "tanimoto"),
        ("MolecularWeight", "mol_wt"),
        ("MW", "mol_wt"),
        ("TPSA", "tpsa"),
        ("SlogP", "logp"),
        ("GroupCount", "functional_group_count"),
        ("Qed", "qed"),
        ("qedd", "qed"),
        ("drug-likeness", "qed"),
        ("SAScore", "sa_score"),
        ("HBondAcceptors", "hba"),
        ("HBondDonors", "hbd"),
        ("NumHBD", "hbd"),
        ("NumRotBond", "rotatable_bonds"),
        ("NumRings", "rings"),
        ("RingCount", "rings"),
        ("NumAromaticRings", "aromatic_rings"),
        ("NumAliphaticRings", "aliphatic_rings"),
        ("LargestRingSize", "largest_ring"),
        ("NumHeavyAtoms", "heavy_atoms"),
        ("NumHeteroAtoms", "hetero_atoms"),
        ("NumAtomStereoCenters", "stereo_centres"),
        ("Csp3", "csp3_fraction"),
        ("numsp2", "sp2_atoms"),
        ("GraphLength", "graph_length"),
        ("MolVolume", "molecular_volume"),
        ("PMI", "npr1"),
        ("ReactionFilter", "reaction_filter"),
        ("ExternalProcess", "external_program"),
        ("DockStream", "vina"),
        ("docking", "vina"),
        ("ROCSSimilarity", "tanimoto"),
    ],
)
def test_an_unknown_kind_names_the_component_that_was_meant(name, meant):
    with pytest.raises(InputError) as caught:
        RewardModel.from_config({"components": [{"kind": name}]})
    message = str(caught.value)
    hint, _, meaning = message.partition("? ")
    assert f"unknown component {name!r}; did you mean " in hint
    assert repr(meant) in hint
    assert COMPONENTS[meant].meaning in meaning
    assert message.endswith(f") chemkl show rewards lists all {len(COMPONENTS)}")
    assert len(message.splitlines()) == 1


def test_a_kind_like_nothing_sends_the_user_to_the_list():
    with pytest.raises(InputError, match=r"unknown component 'zzz'\. chemkl show rewards lists"):
        list(rewards("zzz"))


def test_every_other_name_is_of_a_component_and_none_is_a_component_itself():
    assert set(SYNONYMS) <= set(COMPONENTS)
    assert not {name for names in SYNONYMS.values() for name in names} & set(COMPONENTS)
