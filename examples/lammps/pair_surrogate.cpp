#include "pair_surrogate.h"

#include <cstring>

#include "atom.h"
#include "comm.h"
#include "domain.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "update.h"

using namespace LAMMPS_NS;

static const char *const SYMBOLS[] = {
    "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",  "Cl", "Ar", "K",
    "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr", "Rb", "Sr",
    "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I",  "Xe", "Cs", "Ba", "La",
    "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os",
    "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu"};

// With a std::string LAMMPS formats nothing, so that its formatting library is not needed to compile this file.
static std::string sentence(const std::string &text) { return text; }

PairSurrogate::PairSurrogate(LAMMPS *lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  // The virial is the potential's own; from positions and forces of ghosts it could not be had in one process.
  no_virial_fdotr_compute = 1;
}

PairSurrogate::~PairSurrogate() {
  if (!allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

void PairSurrogate::allocate() {
  const int n = atom->ntypes;
  allocated = 1;
  memory->create(setflag, n + 1, n + 1, "pair:setflag");
  memory->create(cutsq, n + 1, n + 1, "pair:cutsq");
  for (int i = 1; i <= n; i++)
    for (int j = 1; j <= n; j++) setflag[i][j] = 0;
}

void PairSurrogate::settings(int narg, char **arg) {
  if (narg > 1) error->all(FLERR, sentence("pair_style surrogate takes at most the path of a PJRT plugin"));
  plugin = narg ? arg[0] : "";
}

void PairSurrogate::coeff(int narg, char **arg) {
  const int types = atom->ntypes;
  if (narg != types + 3 || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, sentence("pair_coeff for surrogate is: pair_coeff * * NAME.sg and an element for each atom type"));
  if (!allocated) allocate();
  try {
    potential.reset();
    bundle.reset(new surrogate::bundle(arg[2], plugin));
    potential.reset(new surrogate::potential(*bundle));
  } catch (const surrogate::error &e) {
    error->one(FLERR, sentence(e.what()));
  }
  const std::vector<std::int32_t> known = potential->species();
  element.assign(types + 1, 0);
  for (int i = 1; i <= types; i++) {
    for (std::size_t z = 0; z < sizeof SYMBOLS / sizeof *SYMBOLS; z++)
      if (strcmp(arg[2 + i], SYMBOLS[z]) == 0) element[i] = static_cast<std::int32_t>(z + 1);
    bool found = false;
    for (std::int32_t z : known) found = found || z == element[i];
    if (!found) error->all(FLERR, sentence(std::string("the potential does not know the element ") + arg[2 + i]));
  }
  for (int i = 1; i <= types; i++)
    for (int j = i; j <= types; j++) setflag[i][j] = 1;
}

void PairSurrogate::init_style() {
  if (strcmp(update->unit_style, "metal") != 0) error->all(FLERR, sentence("pair_style surrogate needs units metal"));
  if (!force->newton_pair) error->all(FLERR, sentence("pair_style surrogate needs newton pair on: forces on ghosts are sent back"));
  // Ghosts as far as an atom's energy reaches, and as atoms move between borders. One process has the cell instead.
  const double reach = potential->cutoff() * potential->layers() + neighbor->skin;
  if (comm->nprocs > 1 && comm->cutghostuser < reach) comm->cutghostuser = reach;
}

double PairSurrogate::init_one(int, int) { return potential->cutoff(); }

void PairSurrogate::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  double **x = atom->x, **f = atom->f;
  const bool alone = comm->nprocs == 1;
  const int local = atom->nlocal, ghosts = alone ? 0 : atom->nghost, all = local + ghosts;
  numbers.resize(all);
  for (int i = 0; i < all; i++) numbers[i] = element[atom->type[i]];

  surrogate::system system;
  system.atoms(numbers.data(), all ? &x[0][0] : nullptr, all, ghosts);
  // Rows are the vectors of LAMMPS' box: (xprd, 0, 0), (xy, yprd, 0), (xz, yz, zprd).
  const double cell[9] = {domain->xprd, 0, 0, domain->xy, domain->yprd, 0, domain->xz, domain->yz, domain->zprd};
  if (alone) system.periodic(cell, domain->xperiodic, domain->yperiodic, domain->zperiodic);
  found_forces.resize(3 * all);
  found_energies.resize(local);
  if (vflag_atom) found_virials.resize(9 * all);
  surrogate_energies result = {};
  result.struct_size = sizeof result;
  result.forces = found_forces.data();
  result.atom_energies = found_energies.data();
  result.atom_virials = vflag_atom ? found_virials.data() : nullptr;
  try {
    potential->compute(system, result);
  } catch (const surrogate::error &e) {
    error->one(FLERR, sentence(e.what()));
  }

  for (int i = 0; i < all; i++)
    for (int k = 0; k < 3; k++) f[i][k] += found_forces[3 * i + k];
  if (eflag_global) eng_vdwl += result.energy;
  if (eflag_atom)
    for (int i = 0; i < local; i++) eatom[i] += found_energies[i];
  // LAMMPS' virial is the sum of r * f, the negative of the derivative by strain; xx yy zz xy xz yz.
  static const int place[6] = {0, 4, 8, 1, 2, 5};
  if (vflag_global)
    for (int k = 0; k < 6; k++) virial[k] -= result.virial[place[k]];
  if (vflag_atom)
    for (int i = 0; i < all; i++)
      for (int k = 0; k < 6; k++) vatom[i][k] -= found_virials[9 * i + place[k]];
}
