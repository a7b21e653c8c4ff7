// pair_style surrogate: an exported potential (a Bundle, NAME.sg) as a pair style of LAMMPS.
//
//     pair_style surrogate                     # or: pair_style surrogate /path/to/plugin.so
//     pair_coeff * * alloy.sg Al Cu            # the element of each atom type
//
// Units metal. Any number of MPI processes, one thread each; newton pair on.
#ifndef PAIR_SURROGATE_H
#define PAIR_SURROGATE_H

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pair.h"
#include "surrogate_atoms.hpp"

namespace LAMMPS_NS {

class PairSurrogate : public Pair {
 public:
  explicit PairSurrogate(class LAMMPS *);
  ~PairSurrogate() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;

 private:
  std::string plugin;
  std::vector<std::int32_t> element;  // atomic number of each type, from 1
  std::vector<std::int32_t> numbers;  // of each atom and ghost
  std::unique_ptr<surrogate::bundle> bundle;
  std::unique_ptr<surrogate::potential> potential;
  std::vector<double> found_forces, found_energies, found_virials;

  void allocate();
};

}  // namespace LAMMPS_NS

#endif
