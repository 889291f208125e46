"""Molecules and what the tasks of the two benchmarks pay for them.

The values come from guacamol 0.5.5: standard_benchmarks.py and what it imports, run by itself
under RDKit 2026.09.1 on the canonical SMILES. The oracles of PyTDC 1.1.15 gave the same numbers for
every task of PMO.
"""

GOLDEN = {
    "celecoxib_rediscovery": {
        "Cc1ccc(-c2cc(C(F)(F)F)nn2-c2ccc(S(N)(=O)=O)cc2)cc1": 1.0,
        "CC(=O)N(C)Cc1ccc(-c2ccc(S(N)(=O)=O)cc2F)cc1": 0.3571429,
        "Cc1cccc(NS(=O)(=O)c2ccc(C(F)(F)F)cc2)n1": 0.3913043,
    },
    "troglitazone_rediscovery": {
        "Cc1c(C)c2c(c(C)c1O)CCC(C)(COc1ccc(CC3SC(=O)NC3=O)cc1)O2": 1.0,
        "Cc1cccnc1Oc1ccc(CC2SC(=O)NC2=O)cc1": 0.4190476,
    },
    "thiothixene_rediscovery": {
        "CN1CCN(CCC=C2c3ccccc3Sc3ccc(S(=O)(=O)N(C)C)cc32)CC1": 1.0,
        "CN1CCCN(S(=O)(=O)c2ccc3ccccc3c2)CC1": 0.3942308,
    },
    "aripiprazole_similarity": {
        "O=C1CCc2ccc(OCCCCN3CCN(c4cccc(Cl)c4Cl)CC3)cc2N1": 1.0,
        "O=C1COc2cc(CN3CCN(c4ccccc4)CC3)ccc2N1": 0.4827586,
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1": 0.3645084,
    },
    "albuterol_similarity": {
        "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1": 1.0,
        "CC(=O)c1cccc2cc(C(O)CNC(C)(C)C)oc12": 0.6078431,
        "COC(=O)C(c1ccccc1O)C1(C)CCCCN1": 0.5603865,
    },
    "mestranol_similarity": {
        "C#C[C@]1(O)CC[C@H]2[C@@H]3CCc4cc(OC)ccc4[C@H]3CC[C@@]21C": 1.0,
        "CC12CCC3c4cc(C#N)c(O)cc4CCC3C1CCC2O": 0.5657765,
        "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1": 0.2413088,
    },
    "isomers_c11h24": {
        "CCCCCCCCCCC": 1.0,
        "CC(C)CC(C)CC(C)(C)C": 1.0,
        "CCCCCCCCCC(C)C": 0.2986947,
        "CCC(C)NC(=O)NC(CCSC)C(=O)OC": 0.2635971,
    },
    "isomers_c7h8n2o2": {
        "NC(=O)Nc1ccc(O)cc1": 1.0,
        "NNC(=O)c1ccc(O)cc1": 1.0,
        "COc1ccc([N+](=O)[O-])cc1N": 0.8824969,
        "O=c1[nH][nH]c(=S)n1-c1ccc(Br)cc1": 0.4843246,
    },
    "isomers_c9h10n2o2pf2cl": {
        "NCCOP(Cl)c1cc(F)c(F)cc1C(N)=O": 1.0,
        "CCN(C(=O)c1ccc(Cl)cc1)P(=O)(F)F": 0.8290291,
        "CC(O)(C(=O)Nc1ccccc1Cl)C(F)(F)F": 0.720273,
    },
    "median1": {
        "CC12CCC(CC1=O)C2(C)C": 0.4,
        "CC1CCC(C(C)C)C(=O)C1": 0.3288851,
        "CC12CCC(C(O)C1)C2(C)C": 0.3016637,
    },
    "median2": {
        "CN1CC(=O)N2C(Cc3c([nH]c4ccccc34)C2c2ccc3c(c2)OCO3)C1=O": 0.3623715,
        "CCCc1nn(C)c2c(=O)[nH]c(-c3cc(S(=O)(=O)N4CCN(C)CC4)ccc3OCC)nc12": 0.3623715,
        "CCOc1ccc(S(=O)(=O)NCc2ccc3c(c2)OCO3)cc1C": 0.2140344,
    },
    "osimertinib_mpo": {
        "COc1cccnc1CNC(=O)c1nc(N)nc2c(OC)cccc12": 0.786314,
        "CCCc1nn(C)c2c(=O)[nH]c(-c3cc(S(=O)(=O)N4CCN(C)CC4)ccc3OCC)nc12": 0.7292894,
        "C=CC(=O)Nc1cc(Nc2nccc(-c3cn(C)c4ccccc34)n2)c(OC)cc1N(C)CCN(C)C": 0.1333417,
        "C=CC(=O)Nc1cc(Nc2nccc(-c3c[nH]c4ccc(C(N)=O)cc34)n2)c(OC)cc1N(C)CCN(C)C": 0.4185241,
    },
    "fexofenadine_mpo": {
        "O=C(O)C(CO)(CO)c1ccc(C(O)CCCN2CCC(C(O)(c3ccccc3)c3ccccc3)CC2)cc1": 1.0,
        "CC(C)(C(=O)O)c1ccc(C(O)CCCN2CCC(C(O)(c3ccccc3)c3ccc(O)cc3)CC2)cc1": 0.7815445,
        "CC(C)(C(=O)O)c1ccc(C(O)CCCN2CCC(C(O)(c3ccccc3)c3ccccc3)CC2)cc1": 0.5973403,
        "NC(=O)CN1CCCC(C(=O)N2CCC(O)(c3ccccc3)CC2)C1": 0.6645515,
    },
    "ranolazine_mpo": {
        "CCCCCCCCc1ccc(OCC(O)CN2CCN(CC(=O)Nc3c(C)cc(F)cc3C(=O)OCCCC)CC2)c(OC)c1": 0.8110194,
        "CCCOc1cc2nccc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C": 0.4760194,
        "COc1ccccc1OCC(O)CN1CCN(CC(=O)Nc2c(C)cccc2C)CC1": 0.04923736,
        "COc1ccccc1OCC(O)CN1CCN(CC(=O)Nc2c(C)cc(F)cc2C)CC1": 0.06552272,
    },
    "perindopril_mpo": {
        "CCCC(NC(C)C(=O)N1c2ccccc2CC1C(=O)O)C(=O)OCCc1ccccc1": 0.5940885,
        "CCOC(=O)C1CCN(C(=O)Cc2cccc3ccccc23)CC1": 0.4317878,
        "CCCC(NC(C)C(=O)N1C(C(=O)O)CC2CCCCC21)C(=O)OCC": 0.01831564,
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1": 0.09962222,
    },
    "amlodipine_mpo": {
        "CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccc2ccccc2c1Cl": 0.8751899,
        "CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccccc1Cl": 0.3678794,
        "CCOc1ccccc1C1C(C(=O)OC)=C(N)OC2=C1C(=O)CCC2": 0.5904438,
    },
    "sitagliptin_mpo": {
        "Cc1n[nH]cc1C(=O)N1CCCC(n2nnc3cc(F)ccc32)C1": 0.3205319,
        "N#Cc1ccc(CNC(=O)NC2CCN(CC(F)(F)F)C2)cc1": 0.3183859,
        "CC(=O)N(C)Cc1ccc(-c2ccc(S(N)(=O)=O)cc2F)cc1": 0.2928355,
        "NC(CC(=O)N1CCn2c(nnc2C(F)(F)F)C1)Cc1cc(F)c(F)cc1F": 3.726653e-06,
    },
    "zaleplon_mpo": {
        "CCN(C(C)=O)c1cccc(-c2ccnc3c(C(C)=O)cnn23)c1": 0.7296496,
        "CCN(C(C)=O)c1cccc(-c2ccnc(-c3ccc(O)cc3)n2)c1": 0.4812832,
        "CCN(C(C)=O)c1cccc(-c2ccnc3c(C#N)cnn23)c1": 0.4664987,
    },
    "valsartan_smarts": {
        "CC(=O)N(C)Cc1ccc(-c2ccc(S(N)(=O)=O)cc2F)cc1": 0.5215787,
        "CN(Cc1ccc(-c2ccc(S(N)(=O)=O)cc2)cc1)C(=O)C1CC1": 0.4033726,
        "O=C(O)C1CCC(=O)N1Cc1ccc(-c2ccccc2)cc1": 1.605436e-05,
        "NC(CC(=O)N1CCn2c(nnc2C(F)(F)F)C1)Cc1cc(F)c(F)cc1F": 0.0,
    },
    "deco_hop": {
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1": 0.8697099,
        "C#Cc1cccc(Nc2ncnc3cc(OCCC)c(C(N)=O)cc23)c1": 0.8432668,
        "CCCOc1cc2ncnc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C": 0.5,
        "C=CC(=O)Nc1cc(Nc2nccc(-c3cn(C)c4ccccc34)n2)c(OC)cc1N(C)CCN(C)C": 0.5876384,
    },
    "scaffold_hop": {
        "CCCOc1cc2nccc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C": 1.0,
        "CCCOc1cc2ncnc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C": 0.6666667,
        "CCCOc1cc2nccc(Nc3ccc4ncsc4c3)c2cc1OC": 0.8776844,
        "CCCc1nn(C)c2c(=O)[nH]c(-c3cc(S(=O)(=O)N4CCN(C)CC4)ccc3OCC)nc12": 0.4287711,
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1": 0.180895,
    },
}
