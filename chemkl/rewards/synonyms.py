"""Names that other programs, and people, have for the components: for who looks for one by them."""

_NAMES = {
    "activity": "qsar classifier bioactivity PredictiveProperty DRD2 GSK3B JNK3",
    "admet": "ADMETAI toxicity solubility hERG ChemProp BBB clearance",
    "alert_count": "alerts structural_alerts PAINS BRENK",
    "amide_bonds": "NumAmideBonds",
    "aliphatic_rings": "NumAliphaticRings AliphaticRingCount",
    "aromatic_rings": "NumAromaticRings AromaticRingCount",
    "contains_scaffold": "core scaffold ScaffoldPresence",
    "csp3_fraction": "Csp3 FractionCSP3 fsp3",
    "dice": "DiceSimilarity",
    "element_count": "AtomCount AtomCounter halogens",
    "exact_mass": "ExactMolWt MonoisotopicMass mass",
    "external_program": "ExternalProcess external subprocess command Maize Icolos",
    "forbidden_smarts": "CustomAlerts unwanted_smarts SubstructureFilters blacklist",
    "formal_charge": "charge NetCharge FormalCharge",
    "functional_group_count": "GroupCount FragmentCount",
    "graph_length": "GraphLength",
    "hba": "HBondAcceptors NumHBA NumHAcceptors num_hba_lipinski acceptors",
    "hbd": "HBondDonors NumHBD NumHDonors num_hbd_lipinski donors",
    "heavy_atoms": "NumHeavyAtoms HeavyAtomCount NumAtoms size",
    "hetero_atoms": "NumHeteroAtoms NumHeteroatoms",
    "isomer_score": "Isomer IsomerScoringFunction molecular_formula",
    "largest_ring": "LargestRingSize RingSize",
    "logp": "SlogP MolLogP cLogP ALogP WLogP CrippenLogP lipophilicity",
    "mol_wt": "MolecularWeight MW MolWt MWt weight ExactMW",
    "molar_refractivity": "MolMR MR",
    "molecular_volume": "MolVolume volume",
    "no_alerts": "CustomAlerts alerts structural_alerts PAINS BRENK",
    "npr1": "NPR PMI",
    "npr2": "NPR PMI",
    "onnx_model": "ONNX qsar QSARModel Qptuna",
    "penalized_logp": "plogp",
    "python_function": "function custom own lambda",
    "qed": "QEDScore drug_likeness druglikeness QuantitativeEstimateOfDrugLikeness",
    "rdkit_descriptor": "RDKitDescriptors descriptor RdkitScoringFunction",
    "reaction_filter": "ReactionFilter reaction",
    "required_smarts": "substructure smarts MatchingSubstructure substructure_match "
    "SMARTSScoringFunction pattern",
    "rings": "RingCount NumRings",
    "rotatable_bonds": "NumRotBond NumRotatableBonds RotatableBondCount nrotb",
    "sa_score": "SAScore SA SyntheticAccessibility synthesizability synthesisability",
    "saturated_rings": "NumSaturatedRings",
    "scaffold_match": "scaffold MurckoScaffold",
    "scaffold_similarity": "ScaffoldSimilarity ScaffoldTanimoto",
    "sklearn_model": "sklearn scikit_learn RandomForest svm pickle",
    "smarts_count": "SubstructureCount MatchCount",
    "sp_atoms": "numsp",
    "sp2_atoms": "numsp2",
    "sp3_atoms": "numsp3",
    "spiro_atoms": "NumSpiroAtoms",
    "spherocity": "shape globularity",
    "stereo_centres": "chirality NumAtomStereoCenters number_of_stereo_centers NumStereocenters "
    "chiral_centers stereocenters",
    "tanimoto": "TanimotoSimilarity TanimotoDistance similarity JaccardDistance "
    "MolecularSimilarity ROCSSimilarity fingerprint rediscovery",
    "tpsa": "PSA TopologicalPolarSurfaceArea PolarSurfaceArea",
    "tversky": "TverskySimilarity",
    "vina": "docking dock DockStream AutoDock QuickVina2 Glide smina",
}

SYNONYMS = {kind: tuple(names.split()) for kind, names in _NAMES.items()}
"""By kind, the names of REINVENT, Saturn, MolScore, GuacaMol and RDKit, and everyday ones.

A name may stand under two kinds; case, blanks and signs do not matter.
"""
