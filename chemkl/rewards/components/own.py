"""Components of your own: a Python function, or a program that answers on its standard output."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo
from rdkit.Chem import Mol, MolToSmiles

from chemkl.rewards.functions import FORMS, CallError, OwnFunction, Takes, load_function
from chemkl.rewards.programs import Program, find_program
from chemkl.rewards.registry import BatchScore, Failure, Score, component


def _full_reference(reference: str, info: ValidationInfo) -> str:
    return load_function(reference, (info.context or {}).get("folder")).reference


def _full_command(command: list[str], info: ValidationInfo) -> list[str]:
    return find_program(command, (info.context or {}).get("folder"))


@component(
    "python_function",
    unit="as returned",
    range=(-math.inf, math.inf),
    source="a function of yours",
    batched=True,
    costly=True,
)
def python_function(
    function: Annotated[
        str,
        AfterValidator(_full_reference),
        Field(
            description=f"Where it is: {FORMS}; the path beside the config file, or in the working "
            "directory. That code is run as soon as the config is checked."
        ),
    ],
    *,
    parameters: Annotated[
        dict[str, Any] | None,
        Field(
            description="What it takes beside the molecule, by name; checked against its "
            "signature. null: its defaults."
        ),
    ] = None,
    takes: Annotated[
        Takes | None,
        Field(
            description="What it is called with: a canonical SMILES (smiles), an RDKit Mol (mol), "
            "or a list of either (list), for which it returns a list as long. null: what its "
            "first parameter is annotated with (str, Mol, list[str], list[Mol])."
        ),
    ] = None,
) -> BatchScore:
    """What a Python function of yours says of a molecule; you decide what high means.

    The function may change the molecule that it is given. An exception, or anything else than a
    finite number, costs that molecule only; where a list of molecules makes it fail, or gives a
    list of another length, it is asked again with each of them alone.
    """
    own = load_function(function)
    is_list, given_as = own.form(takes)
    return FunctionScore(own, own.checked(parameters or {}), is_list, given_as)


@component(
    "external_program",
    unit="as answered",
    range=(-math.inf, math.inf),
    source="a program of yours",
    costly=True,
)
def external_program(
    command: Annotated[
        list[str],
        Field(
            min_length=1,
            description="The program and its arguments, as a list. What names a file beside the "
            "config file is that file.",
        ),
        AfterValidator(_full_command),
    ],
    *,
    timeout: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="How long it may take for one molecule, its start included, in seconds; "
            "then it is stopped and that molecule has failed.",
        ),
    ] = 60.0,
) -> Score:
    """What a program of yours says of a molecule; you decide what high means.

    It is started once in a process and kept alive. For each line {"id": 7, "smiles": "CCO"} on its
    standard input it writes one line {"value": 1.2}, or {"error": "why not"}, to its standard
    output and flushes it; an id or smiles that it adds is compared. It ends when its input ends.
    One that dies is started once more for the same molecule; what it wrote to its standard error
    is in the reason.
    """
    return Program(tuple(command), timeout)


@dataclass(frozen=True)
class FunctionScore:
    """Asks a function of the user about molecules; what it cannot score fails alone.

    Attributes:
        own: The function.
        parameters: What it takes beside the molecule.
        is_list: Whether it is called with a list.
        given_as: As what a molecule comes: str (canonical SMILES) or Mol.
    """

    own: OwnFunction
    parameters: Mapping[str, Any]
    is_list: bool
    given_as: type

    @property
    def identity(self) -> str:
        """What decides the values beside the settings: the code's sha256."""
        return self.own.identity

    def __call__(self, mols: Sequence[Mol]) -> Sequence[float | Failure]:
        """Give what the function returns for each molecule, in order.

        Raises:
            CallError: the function, called with a list, raised or wants to end the program.
        """
        given = [self._as_given(mol) for mol in mols]
        if self.is_list:
            answers: Sequence[float | Failure] = self.own(given, **self.parameters)
            return answers
        return [self._asked(molecule) for molecule in given]

    def _asked(self, molecule: str | Mol) -> float | Failure:
        try:
            answer: float = self.own(molecule, **self.parameters)
        except CallError as error:
            return Failure(str(error))
        return answer

    def _as_given(self, mol: Mol) -> str | Mol:
        return MolToSmiles(mol) if self.given_as is str else Mol(mol)
