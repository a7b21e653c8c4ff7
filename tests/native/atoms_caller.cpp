// atoms_caller BUNDLE: eight atoms in a skewed cell by the C++ header, and its exceptions.
#include <cmath>
#include <iostream>

#include "surrogate_atoms.hpp"

template <class T>
static void print(const char *name, const T &values) {
  std::cout << name;
  for (double v : values) std::cout << ' ' << v;
  std::cout << '\n';
}

int main(int count, char **words) {
  if (count != 2) return 2;
  std::cout.precision(17);
  surrogate::bundle bundle(words[1]);
  surrogate::potential first(bundle), potential(std::move(first));
  const std::vector<double> cell{5.5, 0, 0, 0.7, 5.4, 0, -0.4, 0.9, 5.7};
  std::vector<std::int32_t> numbers;
  std::vector<double> positions;
  for (int i = 1; i <= 8; i++) {
    const double half[3] = {0.5 * ((i - 1) % 2), 0.5 * ((i - 1) / 2 % 2), 0.5 * ((i - 1) / 4)};
    const double off[3] = {std::sin(1.7 * i), std::cos(2.3 * i), std::sin(3.1 * i)};
    numbers.push_back(i % 3 == 0 ? 13 : 29);
    for (int x = 0; x < 3; x++)
      positions.push_back(half[0] * cell[x] + half[1] * cell[3 + x] + half[2] * cell[6 + x] + 0.2 * off[x]);
  }
  surrogate::system system;
  system.atoms(numbers, positions).periodic(cell.data());
  potential.prepare(8, 4);
  const surrogate::energies &found = potential.compute(system);
  print("energy", std::vector<double>{found.energy});
  print("forces", found.forces);
  print("stress", found.stress);
  print("virial", found.virial);
  print("atom_energies", found.atom_energies);
  print("info", std::vector<double>{potential.cutoff(), double(potential.layers()), double(potential.species().size())});
  try {
    numbers[3] = 8;
    potential.compute(system);
  } catch (const surrogate::error &error) {
    std::cout << "refused " << error.status() << ' ' << error.what() << '\n';
  }
  try {
    potential.prepare(100000, 4);
  } catch (const surrogate::error &error) {
    std::cout << "refused " << error.status() << ' ' << error.what() << '\n';
  }
  return 0;
}
