/*
 * DPDK's rte_fib (DIR24-8) and rte_lpm on the routes and destinations that our own table is measured with.
 *
 *   rte_fib DIRECTORY ANSWERS huge|small CPU
 *
 * DIRECTORY/routes, one a line: ADDRESS LENGTH VALUE, and DIRECTORY/trace: one ADDRESS a line; decimal numbers. See peer.h.
 * Values take 4 bytes, as ours do and as l3fwd's: with 2 the table is half as large, and is measured, too.
 */
#include "peer.h"

#include <rte_fib.h>
#include <rte_lpm.h>

static uint32_t *trace, packets;
static struct rte_fib *fib4, *fib2;
static struct rte_lpm *lpm;
static uint64_t next_hops[BURST];
static volatile uint64_t sink;

static void lookup_fib(struct rte_fib *fib, uint32_t burst) {
  for (uint32_t first = 0; first + burst <= packets; first += burst) {
    rte_fib_lookup_bulk(fib, trace + first, next_hops, burst);
    __asm__ volatile("" ::: "memory");
  }
}

static void lookup_lpm(void) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < packets; i++) {
    uint32_t next_hop = 0;
    rte_lpm_lookup(lpm, trace[i], &next_hop);
    sum += next_hop;
  }
  sink = sum;
}

static uint32_t found[BURST];

static void lookup_lpm_bulk(void) {
  for (uint32_t first = 0; first + BURST <= packets; first += BURST) {
    rte_lpm_lookup_bulk(lpm, trace + first, found, BURST);
    __asm__ volatile("" ::"r"(found) : "memory");
  }
}

static void round_of_all(void) {
  MEASURE("rte_fib, batches of 64", packets, lookup_fib(fib4, BURST));
  MEASURE("rte_fib, one by one", packets, lookup_fib(fib4, 1));
  if (fib2) MEASURE("rte_fib with values of 2 bytes, batches of 64", packets, lookup_fib(fib2, BURST));
  if (rte_fib_select_lookup(fib4, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512) == 0) {
    MEASURE("rte_fib with AVX-512, batches of 64", packets, lookup_fib(fib4, BURST));
    rte_fib_select_lookup(fib4, RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO);
  }
  MEASURE("rte_lpm, one by one", packets, lookup_lpm());
  MEASURE("rte_lpm, batches of 64", packets, lookup_lpm_bulk());
}

static struct rte_fib *make(const char *name, int value_size, uint32_t routes, uint32_t deep) {
  struct rte_fib_conf config = {.type = RTE_FIB_DIR24_8, .default_nh = value_size == 4 ? 0x3fffffff : 0x3fff, .max_routes = routes + 16};
  config.dir24_8.nh_sz = value_size == 4 ? RTE_FIB_DIR24_8_4B : RTE_FIB_DIR24_8_2B;
  config.dir24_8.num_tbl8 = deep + 16 > 32767 && value_size == 2 ? 32767 : deep + 16;
  struct rte_fib *fib = rte_fib_create(name, SOCKET_ID_ANY, &config);
  if (!fib) die("cannot make", name);
  /* What it takes by itself; the vector form is measured by its name. */
  if (rte_fib_select_lookup(fib, RTE_FIB_LOOKUP_DIR24_8_SCALAR_MACRO)) die("cannot choose the scalar lookup of", name);
  return fib;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: rte_fib DIRECTORY ANSWERS huge|small CPU\n");
    return 2;
  }
  start("rte_fib", argv[3], argv[4]);
  char path[4096];
  uint32_t address, length, value, routes = 0, deep = 0, largest = 0;
  snprintf(path, sizeof path, "%s/routes", argv[1]);
  FILE *file = open_file(path, "r");
  while (fscanf(file, "%" SCNu32 " %" SCNu32 " %" SCNu32, &address, &length, &value) == 3) {
    routes++;
    deep += length > 24;
    if (value > largest) largest = value;
  }
  uint64_t before = heap_bytes();
  fib4 = make("fib4", 4, routes, deep);
  rewind(file);
  double from = seconds();
  while (fscanf(file, "%" SCNu32 " %" SCNu32 " %" SCNu32, &address, &length, &value) == 3) {
    if (rte_fib_add(fib4, address, length, value)) die("cannot add a route of", path);
  }
  double build_s = seconds() - from;
  uint64_t bytes = heap_bytes() - before;
  if (largest < 0x3fff) fib2 = make("fib2", 2, routes, deep);
  struct rte_lpm_config lpm_config = {.max_rules = routes + 16, .number_tbl8s = deep + 16};
  lpm = rte_lpm_create("lpm", SOCKET_ID_ANY, &lpm_config);
  if (!lpm) die("cannot make", "rte_lpm");
  rewind(file);
  while (fscanf(file, "%" SCNu32 " %" SCNu32 " %" SCNu32, &address, &length, &value) == 3) {
    if (fib2 && rte_fib_add(fib2, address, length, value)) die("cannot add a route of", path);
    if (rte_lpm_add(lpm, address, length, value)) die("cannot add to rte_lpm a route of", path);
  }
  fclose(file);

  snprintf(path, sizeof path, "%s/trace", argv[1]);
  file = open_file(path, "r");
  uint32_t room = 1024;
  trace = malloc(room * sizeof *trace);
  while (fscanf(file, "%" SCNu32, &address) == 1) {
    if (packets == room) trace = realloc(trace, (room *= 2) * sizeof *trace);
    trace[packets++] = address;
  }
  fclose(file);

  uint32_t *answers = malloc(packets * sizeof *answers);
  for (uint32_t i = 0; i < packets; i++) {
    uint64_t found;
    rte_fib_lookup_bulk(fib4, trace + i, &found, 1);
    answers[i] = found == 0x3fffffff ? NOTHING : (uint32_t)found;
    uint32_t by_lpm = NOTHING;
    if (rte_lpm_lookup(lpm, trace[i], &by_lpm)) by_lpm = NOTHING;
    if (by_lpm != answers[i]) die("rte_lpm and rte_fib differ on", argv[1]);
  }
  write_answers(argv[2], answers, packets);
  rounds(build_s, bytes, round_of_all);
  return 0;
}
