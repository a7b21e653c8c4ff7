"""Chemical symbols and atomic numbers."""

from __future__ import annotations

import re

import numpy as np

from surrogate.core.types import UserError

# Position in the tuple is the atomic number; number 0 is no element.
SYMBOLS: tuple[str, ...] = (
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu",
    "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn",
    "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr",
    "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)  # fmt: skip
_MOST_ATOMS = 10_000_000  # of a formula: a slip of the keyboard must not fill the memory
NUM_ELEMENTS = len(SYMBOLS) - 1  # 118
_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


def atomic_numbers(symbols: list[str], place: str) -> np.ndarray:
    """(A,) int32 atomic numbers of chemical symbols (``"Si"``).

    Args:
        place: file and frame, for the message.

    Raises:
        UserError: for a symbol that is no element, with the number of the atom.
    """
    try:
        return np.fromiter((_NUMBERS[s] for s in symbols), np.int32, len(symbols))
    except KeyError:
        atom, symbol = next((i, s) for i, s in enumerate(symbols) if s not in _NUMBERS)
        near = symbol.capitalize()
        hint = f"; did you mean {near}?" if near in _NUMBERS else ""
        raise UserError(f"{place}: atom {atom} is {symbol!r}, which is not a chemical symbol{hint}") from None


def parse_formula(text: str, place: str) -> np.ndarray:
    """Atomic numbers in the order written: ``"O64 H128"`` is 64 oxygen atoms, then 128 hydrogen atoms.

    Brackets repeat: ``"C6 (OH2)464"`` is 6 carbon atoms and 464 times O, H, H.

    Raises:
        UserError: for text that is not such a formula, or a symbol that is no element.
    """
    tokens = re.findall(r"[A-Z][a-z]?|\d+|[()]|\S", text)
    stack: list[list[str]] = [[]]
    last: list[str] = []
    for token in tokens:
        if token.isdigit() and int(token[:9]) * len(last) > _MOST_ATOMS:
            raise UserError(f"{place}: {text!r} has more than {_MOST_ATOMS} atoms")
        if token == "(":
            stack.append([])
            last = []
        elif token == ")" and len(stack) > 1:
            last = stack.pop()
            stack[-1] += last
        elif token.isdigit() and last and int(token) > 0:
            stack[-1] += last * (int(token) - 1)
            last = []
        elif token[0].isalpha() and token[0].isupper():
            last = [token]
            stack[-1] += last
        else:
            raise UserError(f"{place}: {text!r} is not a formula such as 'O64 H128' or 'C6 (OH2)464' (at {token!r})")
    if len(stack) != 1 or not stack[0]:
        raise UserError(f"{place}: {text!r} is not a formula such as 'O64 H128' or 'C6 (OH2)464'")
    return atomic_numbers(stack[0], place)


def symbols_of(numbers: np.ndarray) -> list[str]:
    """Chemical symbols of atomic numbers 1..118."""
    return [SYMBOLS[int(z)] for z in numbers]
