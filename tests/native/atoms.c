/* atoms BUNDLE IN OUT THREADS CALLS: a potential on systems that are read one after another.
 *
 * IN, of each: int64 atoms, ghosts, owners (0 or 1), lists, neighbors in all, pbc (3), cell (0 or 1); double cell (9),
 * positions; int32 numbers, owners, num_neighbors, neighbors.
 * OUT, of each: double status, energy, virial (9), stress (9), used atoms, used neighbors, capacity; of those that
 * succeeded forces, atom_energies, atom_virials. Failures are printed. Every thread calls with every system CALLS
 * times, from a context of its own, and must find the same bits. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "surrogate.h"

enum { MOST = 64 };

typedef struct problem {
  surrogate_system system;
  surrogate_energies result;
  int status;
} problem;

static surrogate_model *model;
static problem problems[MOST];
static int count;
static long calls;

static void *bytes_of(FILE *file, size_t size) {
  void *data = malloc(size + 1);
  if (fread(data, 1, size, file) != size) exit(3);
  return data;
}

static void *make(size_t doubles) { return calloc(doubles + 1, sizeof(double)); }

static void solve(surrogate_atoms *atoms, problem *p, int compare) {
  const size_t all = (size_t)(p->system.num_atoms + p->system.num_ghosts), n = (size_t)p->system.num_atoms;
  surrogate_energies r = {.struct_size = sizeof r, .forces = make(3 * all), .atom_energies = make(n),
                          .atom_virials = make(9 * all)};
  int status = surrogate_atoms_run(atoms, &p->system, &r);
  if (compare) {
    if (status != p->status || (!status && (r.energy != p->result.energy || memcmp(r.virial, p->result.virial, sizeof r.virial) ||
                                            memcmp(r.forces, p->result.forces, 24 * all)))) {
      fprintf(stderr, "a thread found something else: %s\n", surrogate_last_error());
      exit(4);
    }
    free(r.forces);
    free(r.atom_energies);
    free(r.atom_virials);
    return;
  }
  p->status = status;
  p->result = r;
  if (status) printf("%d\t%s\n", status, surrogate_last_error());
}

static void *work(void *unused) {
  (void)unused;
  surrogate_atoms *atoms;
  if (surrogate_atoms_create(model, &atoms)) exit(5);
  for (long call = 0; call < calls; call++)
    for (int i = 0; i < count; i++) solve(atoms, &problems[i], 1);
  surrogate_atoms_destroy(atoms);
  return NULL;
}

int main(int number, char **words) {
  if (number != 6) return 2;
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)) {
    fprintf(stderr, "open: %s\n", surrogate_last_error());
    return 1;
  }
  int threads = atoi(words[4]);
  calls = atol(words[5]);
  FILE *in = fopen(words[2], "rb"), *out = fopen(words[3], "wb");
  int64_t head[9];
  while (count < MOST && fread(head, sizeof head, 1, in) == 1) {
    surrogate_system *s = &problems[count++].system;
    const size_t all = (size_t)(head[0] + head[1]);
    s->struct_size = sizeof *s;
    s->num_atoms = head[0];
    s->num_ghosts = head[1];
    s->num_lists = head[3];
    for (int k = 0; k < 3; k++) s->pbc[k] = (int)head[5 + k];
    double *cell = bytes_of(in, 72);
    s->cell = head[8] ? cell : NULL;
    s->positions = bytes_of(in, 24 * all);
    s->numbers = bytes_of(in, 4 * all);
    if (head[2]) s->owners = bytes_of(in, 4 * (size_t)head[1]);
    if (head[3]) {
      s->num_neighbors = bytes_of(in, 4 * (size_t)head[3]);
      int32_t *data = bytes_of(in, 4 * (size_t)head[4]);
      const int32_t **lists = calloc((size_t)head[3], sizeof *lists);
      for (int64_t i = 0; i < head[3]; i++) lists[i] = data, data += s->num_neighbors[i];
      s->neighbors = lists;
    }
  }
  surrogate_atoms *atoms;
  if (surrogate_atoms_create(model, &atoms)) {
    fprintf(stderr, "create: %s\n", surrogate_last_error());
    return 1;
  }
  surrogate_atoms_info info = {.struct_size = sizeof info};
  if (surrogate_atoms_describe(atoms, &info)) return 1;
  printf("info\t%s %g %d", info.function, info.cutoff, info.layers);
  for (int k = 0; k < info.num_species; k++) printf(" %d:%g", info.species[k], info.reference_energies[k]);
  for (int k = 0; k < info.num_capacities; k++) printf(" %dx%d", (int)info.max_atoms[k], (int)info.max_neighbors[k]);
  printf("\n");
  for (int i = 0; i < count; i++) solve(atoms, &problems[i], 0);
  surrogate_atoms_destroy(atoms);
  pthread_t workers[16];
  for (int i = 0; i < threads; i++) pthread_create(&workers[i], NULL, work, NULL);
  for (int i = 0; i < threads; i++) pthread_join(workers[i], NULL);
  for (int i = 0; i < count; i++) {
    const problem *p = &problems[i];
    const size_t all = (size_t)(p->system.num_atoms + p->system.num_ghosts);
    const surrogate_energies *r = &p->result;
    const double first[2] = {p->status, r->energy};
    const double last[3] = {(double)r->used_atoms, (double)r->used_neighbors, r->capacity};
    fwrite(first, 8, 2, out);
    fwrite(r->virial, 8, 9, out);
    fwrite(r->stress, 8, 9, out);
    fwrite(last, 8, 3, out);
    if (p->status) continue;
    fwrite(r->forces, 24, all, out);
    fwrite(r->atom_energies, 8, (size_t)p->system.num_atoms, out);
    fwrite(r->atom_virials, 72, all, out);
  }
  fclose(in);
  fclose(out);
  return surrogate_close(model) ? 1 : 0;
}
