// LAMMPS with pair_style surrogate: takes the words of the command line that lmp takes.
#include <mpi.h>

#include <map>
#include <string>

#include "force.h"
#include "input.h"
#include "lammps.h"
#include "pair_surrogate.h"

using namespace LAMMPS_NS;

static Pair *make_pair_surrogate(LAMMPS *lammps) { return new PairSurrogate(lammps); }

int main(int count, char **words) {
  MPI_Init(&count, &words);
  LAMMPS *lammps = new LAMMPS(count, words, MPI_COMM_WORLD);
  // What LAMMPS' own PLUGIN package does; distributions ship LAMMPS without it. The command `clear` undoes it.
  (*lammps->force->pair_map)["surrogate"] = make_pair_surrogate;
  lammps->input->file();
  delete lammps;
  MPI_Finalize();
  return 0;
}
