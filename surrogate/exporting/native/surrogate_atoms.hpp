// Potentials for C++17: the part "Atoms" of surrogate.h, with a handle that closes itself and failures as exceptions.
//
//     surrogate::bundle alloy("alloy.sg");
//     surrogate::potential potential(alloy);               // one for each thread
//     surrogate::system system;                            // arrays of the caller, read when compute is called
//     system.atoms(numbers, positions).periodic(cell);
//     for (;;) {
//       const surrogate::energies &found = potential.compute(system);
//       found.energy, found.forces, found.stress ...
//     }
#ifndef SURROGATE_ATOMS_HPP
#define SURROGATE_ATOMS_HPP

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "surrogate.hpp"

namespace surrogate {

/// A surrogate_system that is filled piece by piece. It holds pointers to the caller's arrays.
class system {
 public:
  system() { c_.struct_size = sizeof c_; }

  /// positions: x y z of each atom in angstrom; numbers: atomic numbers. The last `ghosts` of them are ghosts.
  system &atoms(const std::int32_t *numbers, const double *positions, std::int64_t count, std::int64_t ghosts = 0) {
    c_.num_atoms = count - ghosts;
    c_.num_ghosts = ghosts;
    c_.numbers = numbers;
    c_.positions = positions;
    return *this;
  }
  system &atoms(const std::vector<std::int32_t> &numbers, const std::vector<double> &positions, std::int64_t ghosts = 0) {
    if (positions.size() != 3 * numbers.size())
      throw error(SURROGATE_INVALID, "a system needs three coordinates for each atomic number");
    return atoms(numbers.data(), positions.data(), static_cast<std::int64_t>(numbers.size()), ghosts);
  }

  /// cell: 9 numbers, one vector after another, in angstrom.
  system &periodic(const double *cell, bool a = true, bool b = true, bool c = true) {
    c_.cell = cell;
    c_.pbc[0] = a, c_.pbc[1] = b, c_.pbc[2] = c;
    return *this;
  }

  /// The plain structure, for what has no method here: owners, neighbor lists.
  surrogate_system &c() noexcept { return c_; }
  const surrogate_system &c() const noexcept { return c_; }

 private:
  surrogate_system c_ = {};
};

/// What a system was computed to have; units and signs are those of surrogate.h.
struct energies {
  double energy = 0;
  std::array<double, 9> virial{}, stress{};
  std::vector<double> forces, atom_energies;
  int capacity = 0;
};

/// The potential of a bundle, for one thread.
class potential {
 public:
  explicit potential(const bundle &owner) {
    check(surrogate_atoms_create(owner.get(), &atoms_));
    info_.struct_size = sizeof info_;
    int status = surrogate_atoms_describe(atoms_, &info_);
    if (status) surrogate_atoms_destroy(atoms_);
    check(status);
  }
  ~potential() { surrogate_atoms_destroy(atoms_); }
  potential(potential &&other) noexcept
      : atoms_(std::exchange(other.atoms_, nullptr)), info_(other.info_), found_(std::move(other.found_)) {}
  potential(const potential &) = delete;
  potential &operator=(const potential &) = delete;

  double cutoff() const noexcept { return info_.cutoff; }
  int layers() const noexcept { return info_.layers; }
  std::vector<std::int32_t> species() const { return {info_.species, info_.species + info_.num_species}; }
  const surrogate_atoms_info &info() const noexcept { return info_; }

  /// Compile and check now what such a system will need.
  void prepare(std::int64_t atoms, std::int64_t neighbors) { check(surrogate_atoms_prepare(atoms_, atoms, neighbors)); }

  /// Into the caller's own arrays: the ones that are set in `result`.
  void compute(const system &given, surrogate_energies &result) {
    check(surrogate_atoms_run(atoms_, &given.c(), &result));
  }

  /// The result is good until the next call.
  const energies &compute(const system &given) {
    const std::size_t atoms = static_cast<std::size_t>(given.c().num_atoms);
    const std::size_t ghosts = static_cast<std::size_t>(given.c().num_ghosts);
    found_.forces.resize(3 * (atoms + ghosts));
    found_.atom_energies.resize(atoms);
    surrogate_energies result = {};
    result.struct_size = sizeof result;
    result.forces = found_.forces.data();
    result.atom_energies = found_.atom_energies.data();
    compute(given, result);
    found_.energy = result.energy;
    found_.capacity = result.capacity;
    for (std::size_t i = 0; i < 9; i++) found_.virial[i] = result.virial[i], found_.stress[i] = result.stress[i];
    return found_;
  }

 private:
  ::surrogate_atoms *atoms_ = nullptr;
  surrogate_atoms_info info_ = {};
  energies found_;
};

}  // namespace surrogate

#endif
