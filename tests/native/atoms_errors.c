/* atoms_errors BUNDLE FIELDS: misuse of a potential, one line each: name, status, sentence. FIELDS is a Bundle of fields
 * or "-". */
#include <stdio.h>
#include <string.h>

#include "surrogate.h"

static void say(const char *what, int status) { printf("%s\t%d\t%s\n", what, status, status ? surrogate_last_error() : ""); }

int main(int count, char **words) {
  if (count != 3) return 2;
  surrogate_model *model;
  surrogate_atoms *atoms, *other;
  if (strcmp(words[2], "-")) {
    const surrogate_options lazy = {.struct_size = sizeof lazy, .lazy = 1};
    if (surrogate_open(SURROGATE_ABI_VERSION, words[2], &lazy, &model)) return 1;
    say("fields", surrogate_atoms_create(model, &atoms));
    surrogate_close(model);
  }
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)) return 1;
  say("null", surrogate_atoms_create(NULL, &atoms));
  int status = surrogate_atoms_create(model, &atoms);
  say("create", status);
  if (status) return 0;
  say("close_in_use", surrogate_close(model));
  const double cell[9] = {9, 0, 0, 0, 9, 0, 0, 0, 9}, positions[9] = {0, 0, 0, 2.5, 0, 0, 5, 0, 0};
  const int32_t numbers[3] = {13, 29, 13}, wrong[3] = {13, 79, 13}, counts[3] = {1, 2, 1}, half[3] = {1, 1, 0};
  const int32_t a[] = {1}, b[] = {0, 2}, c[] = {1}, b_half[] = {2}, self[] = {0}, beyond[] = {7}, owner[] = {5};
  const int32_t *full[] = {a, b, c}, *halves[] = {a, b_half, NULL}, *selves[] = {self, b, c}, *far[] = {beyond, b, c};
  double forces[9];
  const surrogate_system good = {.struct_size = sizeof good, .num_atoms = 3, .positions = positions, .numbers = numbers};
  surrogate_energies r = {.struct_size = sizeof r, .forces = forces};
  surrogate_system s = good;
#define TRY(what, ...) (s = good, __VA_ARGS__, say(what, surrogate_atoms_run(atoms, &s, &r)))
  TRY("good", (void)0);
  TRY("lists", s.neighbors = full, s.num_neighbors = counts, s.num_lists = 3);
  TRY("system_size", s.struct_size = 8);
  TRY("pbc_without_cell", s.pbc[1] = 1);
  TRY("flat_cell", s.pbc[0] = s.pbc[1] = s.pbc[2] = 1, s.cell = (const double[9]){1, 0, 0, 2, 0, 0, 0, 0, 1});
  TRY("species", s.numbers = wrong);
  TRY("negative", s.num_atoms = -1);
  TRY("null_positions", s.positions = NULL);
  TRY("one_place", s.positions = (const double[9]){1, 1, 1, 1, 1, 1, 0, 0, 0});
  TRY("ghosts_and_pbc", s.num_atoms = 2, s.num_ghosts = 1, s.cell = cell, s.pbc[0] = 1);
  TRY("half_list", s.neighbors = halves, s.num_neighbors = half, s.num_lists = 3);
  TRY("own_neighbor", s.neighbors = selves, s.num_neighbors = counts, s.num_lists = 3);
  TRY("index", s.neighbors = far, s.num_neighbors = counts, s.num_lists = 3);
  TRY("list_count", s.neighbors = full, s.num_neighbors = counts, s.num_lists = 2);
  TRY("ghost_lists", s.num_atoms = 2, s.num_ghosts = 1, s.neighbors = full, s.num_neighbors = counts, s.num_lists = 2);
  TRY("owner", s.num_atoms = 2, s.num_ghosts = 1, s.neighbors = full, s.num_neighbors = counts, s.num_lists = 2, s.owners = owner);
  TRY("owners_alone", s.num_atoms = 2, s.num_ghosts = 1, s.owners = owner);
  r.struct_size = 0;
  TRY("result_size", (void)0);
  r.struct_size = sizeof r;
  say("null_system", surrogate_atoms_run(atoms, NULL, &r));
  say("null_atoms", surrogate_atoms_run(NULL, &good, &r));
  say("prepare", surrogate_atoms_prepare(atoms, 3, 2));
  say("prepare_huge", surrogate_atoms_prepare(atoms, 1000000, 20));
  surrogate_atoms_info info = {0};
  say("info_size", surrogate_atoms_describe(atoms, &info));
  say("again", surrogate_atoms_create(model, &other));
  surrogate_atoms_destroy(other);
  surrogate_atoms_destroy(atoms);
  surrogate_atoms_destroy(NULL);
  say("close", surrogate_close(model));
  return 0;
}
