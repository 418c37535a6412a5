/*
 * DPDK's rte_fib6 (trie) on the routes and destinations that our own table is measured with.
 *
 *   rte_fib6 DIRECTORY ANSWERS huge|small CPU
 *
 * DIRECTORY/routes, one a line: ADDRESS LENGTH VALUE, and DIRECTORY/trace: one ADDRESS a line; addresses are 32 hexadecimal
 * digits. See peer.h.
 */
#include "peer.h"

#include <rte_fib6.h>

enum { NO_ROUTE = 0x3fffffff };

static uint8_t (*trace)[16];
static uint32_t packets;
static struct rte_fib6 *fib;
static uint64_t next_hops[BURST];

static void lookup(uint32_t burst) {
  for (uint32_t first = 0; first + burst <= packets; first += burst) {
    rte_fib6_lookup_bulk(fib, trace + first, next_hops, burst);
    __asm__ volatile("" ::: "memory");
  }
}

static void round_of_all(void) {
  MEASURE("rte_fib6, batches of 64", packets, lookup(BURST));
  MEASURE("rte_fib6, one by one", packets, lookup(1));
  if (rte_fib6_select_lookup(fib, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512) == 0) {
    MEASURE("rte_fib6 with AVX-512, batches of 64", packets, lookup(BURST));
    rte_fib6_select_lookup(fib, RTE_FIB6_LOOKUP_TRIE_SCALAR);
  }
}

static void address_of(const char *digits, uint8_t *address) {
  for (int i = 0; i < 16; i++) {
    unsigned byte;
    if (sscanf(digits + 2 * i, "%2x", &byte) != 1) die("no address:", digits);
    address[i] = byte;
  }
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: rte_fib6 DIRECTORY ANSWERS huge|small CPU\n");
    return 2;
  }
  start("rte_fib6", argv[3], argv[4]);
  char path[4096], digits[33];
  uint32_t length, value, routes = 0;
  uint8_t address[16];
  snprintf(path, sizeof path, "%s/routes", argv[1]);
  FILE *file = open_file(path, "r");
  while (fscanf(file, "%32s %" SCNu32 " %" SCNu32, digits, &length, &value) == 3) routes++;
  /* Where its pages of 256 are too few, adding a route fails. */
  uint64_t pages = (uint64_t)routes * 3 + 4096;
  struct rte_fib6_conf config = {.type = RTE_FIB6_TRIE, .default_nh = NO_ROUTE, .max_routes = routes + 16};
  config.trie.nh_sz = RTE_FIB6_TRIE_4B;
  config.trie.num_tbl8 = pages;
  uint64_t before = heap_bytes();
  fib = rte_fib6_create("fib6", SOCKET_ID_ANY, &config);
  if (!fib) die("cannot make", "rte_fib6");
  /* What it takes by itself; the vector form is measured by its name. */
  if (rte_fib6_select_lookup(fib, RTE_FIB6_LOOKUP_TRIE_SCALAR)) die("cannot choose the scalar lookup of", "rte_fib6");
  rewind(file);
  double from = seconds();
  while (fscanf(file, "%32s %" SCNu32 " %" SCNu32, digits, &length, &value) == 3) {
    address_of(digits, address);
    if (rte_fib6_add(fib, address, length, value)) die("cannot add a route of", path);
  }
  double build_s = seconds() - from;
  uint64_t bytes = heap_bytes() - before;
  fclose(file);

  snprintf(path, sizeof path, "%s/trace", argv[1]);
  file = open_file(path, "r");
  uint32_t room = 1024;
  trace = malloc(room * sizeof *trace);
  while (fscanf(file, "%32s", digits) == 1) {
    if (packets == room) trace = realloc(trace, (room *= 2) * sizeof *trace);
    address_of(digits, trace[packets++]);
  }
  fclose(file);

  uint32_t *answers = malloc(packets * sizeof *answers);
  for (uint32_t i = 0; i < packets; i++) {
    uint64_t found;
    rte_fib6_lookup_bulk(fib, trace + i, &found, 1);
    answers[i] = found == NO_ROUTE ? NOTHING : (uint32_t)found;
  }
  write_answers(argv[2], answers, packets);
  rounds(build_s, bytes, round_of_all);
  return 0;
}
